"""What `lissome lm train` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from lissome._errors import UsageError, unknown
from lissome._parsed import yaml_of
from lissome.recipes.settings import Strict

# learning rates at 4,096 tokens a step: tiny by trials on the default text (docs/language.md), 125m and 350m as in
# arXiv 2005.14165, table 2.1
RATES = {"tiny": 2e-3, "small": 1e-3, "125m": 6e-4, "350m": 3e-4}
PRESETS = tuple(RATES)
PRECISIONS = ("no", "bf16", "fp16")
VOCABULARIES = ("bytes", "bpe")
Schedule = Literal["constant", "cosine", "exponential"]
SCHEDULES = get_args(Schedule)
BPE_SIZE = 4096
LAST = ("model", "training", "seed", "device", "precision")  # keys at the end of the settings that a run keeps
LARGEST_SEED = 2**63 - 1
STEPS = 500  # where neither steps nor seconds are said
QUICK = {
    "length": 64,
    "batch": 8,
    "scored": 2048,
    "model.layers": 2,
    "model.width": 64,
    "model.heads": 4,
    "training.steps": 40,
    "training.evaluate": 10,
    "training.compile": False,
}
# what may be another when a run is gone on with; the weights stay the same to the last bit, but for another device
FREE = ("training.steps", "training.seconds", "training.evaluate", "training.checkpoint", "device", "tokens")


class ModelSettings(Strict):
    """The decoder: a preset, what is to be other than it has, and the stages of its attention."""

    preset: str = Field(default="tiny", description=", ".join(PRESETS))
    layers: int | None = Field(default=None, ge=1, description="null is the preset's, as are width and heads")
    width: int | None = Field(default=None, ge=1, description="of the residual stream")
    heads: int | None = Field(default=None, ge=1, description="of the queries; divide the width")
    key_heads: int | None = Field(default=None, ge=1, description="of keys and values; null is as many as of queries")
    feed: str = Field(default="swiglu", description="swiglu or gelu")
    feed_width: int | None = Field(default=None, ge=1, description="null is 4 times the width, or as many weights")
    tied: bool = Field(default=True, description="whether the embedding is the output layer too")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    position: str = Field(default="rotary", description="none, rotary, alibi, kerple or fire")
    refine: str = Field(default="none", description="none, dape or dape(3)")
    normalize: str = Field(default="softmax", description="softmax or self_adjust(4)")
    body: str = Field(default="plain", description="plain, or algoformer(6), looped(6): some layers run so many times")
    validity: str = Field(default="causal", description="causal, or such as causal & window(256)")
    visible: str = Field(
        default="all", description="of what validity allows: all, separators(near=64), sinks, fixed(8), ht(separators)"
    )

    @field_validator("preset")
    @classmethod
    def _known(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(str(unknown("preset", preset, PRESETS)))
        return preset


class LanguageTraining(Strict):
    """How a language model is trained: AdamW, a warm-up and a schedule."""

    steps: int | None = Field(default=None, ge=1, description=f"null without seconds is {STEPS}")
    seconds: float | None = Field(default=None, gt=0, description="stop after so many seconds, whichever comes first")
    rate: float | None = Field(default=None, gt=0, description="learning rate; null is the preset's")
    schedule: Schedule = "cosine"
    final: float = Field(default=0.1, gt=0, le=1, description="part of the rate that is left at the end")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="part of the steps in which the rate rises")
    clip: float | None = Field(default=1.0, gt=0, description="longest gradient that is let through; null is any")
    decay: float = Field(default=0.1, ge=0, description="weight decay of matrices; norms, biases and stages have none")
    betas: tuple[float, float] = (0.9, 0.95)
    accumulate: int = Field(default=1, ge=1, description="parts in which the batch of a step is computed")
    evaluate: int | None = Field(default=None, ge=1, description="evaluate every so many steps; null is about 50 times")
    checkpoint: int | None = Field(default=None, ge=1, description="a checkpoint every so many steps; null: a minute")
    compile: bool | Literal["auto"] = "auto"
    tensorboard: bool = False

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, data: Any) -> Any:
        """Fill in the steps where no end is said."""
        if isinstance(data, dict) and data.get("steps") is None and data.get("seconds") is None:
            return data | {"steps": STEPS}
        return data

    @field_validator("betas")
    @classmethod
    def _below(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {list(betas)}; legal are two numbers from 0 to below 1")
        return betas


class LanguageSettings(Strict):
    """`lissome lm train`: a decoder on a text."""

    data: str | None = Field(
        default=None, description="a file of text or a folder of them; null is the source of Python's standard library"
    )
    vocabulary: str = Field(default="bytes", description="bytes, bpe (trained on the text), or a saved one's file")
    vocabulary_size: int = Field(default=BPE_SIZE, ge=1, description="of bpe")
    tokens: str | None = Field(
        default=None, description="a folder that keeps encoded texts for other runs too; null keeps them in the run"
    )
    start: str | None = Field(
        default=None, description="a run whose weights and vocabulary this one begins with; null draws the weights"
    )
    held: float = Field(default=0.1, gt=0, lt=1, description="part of the text, at its end, that is held out")
    length: int = Field(default=128, ge=1, description="tokens that the model sees in training")
    batch: int = Field(default=32, ge=1, description="windows of a step, over all processes")
    scored: int = Field(default=1 << 14, ge=1, description="held-out tokens of an evaluation, at most")
    model: ModelSettings = ModelSettings()
    training: LanguageTraining = Field(default_factory=lambda: LanguageTraining.model_validate({}))
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    device: str = "auto"
    precision: str = Field(default="no", description=f"{', '.join(PRECISIONS)}: mixed precision")

    @field_validator("precision")
    @classmethod
    def _precise(cls, precision: str) -> str:
        if precision not in PRECISIONS:
            raise ValueError(str(unknown("precision", precision, PRECISIONS)))
        return precision

    @field_validator("data", "tokens", "start")
    @classmethod
    def _named(cls, path: str | None) -> str | None:
        if path is not None and not path.strip():
            raise ValueError(f"{path!r} is no name; legal is that of a file or folder, or null")
        return path

    @field_validator("vocabulary")
    @classmethod
    def _kind(cls, vocabulary: str) -> str:
        """Tell a name that was misspelt from the path of a file."""
        if vocabulary not in VOCABULARIES and "." not in vocabulary and "/" not in vocabulary:
            legal = (*VOCABULARIES, "FILE.json")
            raise ValueError(str(unknown("vocabulary", vocabulary, legal)))
        return vocabulary

    @field_validator("vocabulary_size")
    @classmethod
    def _heeded(cls, size: int, info: ValidationInfo) -> int:
        """Refuse a size that nothing would heed."""
        kind = info.data.get("vocabulary", "bpe")
        if kind != "bpe" and size != BPE_SIZE:
            raise ValueError(f"{size} is of no use with vocabulary '{kind}'; take bpe, or leave the size out")
        return size

    @field_validator("start")
    @classmethod
    def _of_its_vocabulary(cls, start: str | None, info: ValidationInfo) -> str | None:
        """Refuse a vocabulary beside that of the run to begin with."""
        kind = info.data.get("vocabulary", "bytes")
        if start is not None and kind != "bytes":
            raise ValueError(f"the vocabulary is that of '{start}', and '{kind}' is asked for; leave it out")
        return start

    @property
    def rate(self) -> float:
        """The learning rate at its height."""
        return RATES[self.model.preset] if self.training.rate is None else self.training.rate


def check_kept(
    out: Path,
    kind: type[Strict] = LanguageSettings,
    *,
    verb: str = "train",
    own: str = "scored",
    last: tuple[str, ...] = LAST,
) -> None:
    """Refuse to go on with settings that are damaged, or of a run of another kind.

    Args:
        out: the run directory.
        kind: of settings.
        verb: of `lissome lm`.
        own: a setting that runs of other kinds have not.
        last: settings at the end of the file.

    Raises:
        UsageError: they are.
    """
    path, cure = out / "settings.yaml", "put it back from a copy, or begin anew in another directory"
    try:
        text = path.read_text(encoding="utf-8")
        kept = yaml_of(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is damaged: it is no YAML any more; {cure}") from error
    if not isinstance(kept, dict) or not text.endswith("\n"):
        raise UsageError(f"'{path}' is damaged: it is empty or cut off; {cure}")
    if own not in kept and (foreign := kept.keys() - kind.model_fields.keys()):
        raise UsageError(f"'{out}' is no run of `lissome lm {verb}`: its settings have '{min(foreign, key=str)}'")
    if lacking := [key for key in last if key not in kept]:
        raise UsageError(f"'{path}' is damaged: it holds no '{lacking[0]}'; {cure}")


def read_lengths(text: str) -> list[int]:
    """Read lengths with commas between them.

    Raises:
        UsageError: one of them is no whole number of at least 1.

    >>> read_lengths("128, 256")
    [128, 256]
    """
    found = []
    for word in text.split(","):
        if not word.strip():
            raise UsageError(f"--lengths takes whole numbers with commas, such as 128,256; '{text}' lacks one of them")
        if not word.strip().isdecimal() or len(word) > 18 or int(word) < 1:
            raise UsageError(f"--lengths takes whole numbers with commas, such as 128,256; '{word.strip()}' is none")
        found.append(int(word))
    return found
