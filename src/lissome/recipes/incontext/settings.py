"""What `lissome icl train` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lissome._errors import UsageError, unknown
from lissome.recipes.settings import Strict

TASKS = ("linear", "sparse", "representation", "ar", "chain", "two-layer", "tree")
SEQUENCES = ("ar", "chain")
MODELS = ("algoformer", "looped", "plain")
SHIFTS = ("scale", "skew", "noise")
FOREVER = 10**15  # steps, of which a part is a number
PART = 0.4  # of the steps, in which a curriculum is over that says nothing else
MOST = 10_000  # iterations that are looked at
ROWS = 1_000_000  # prompts at once
LARGEST = 2**62  # seed of an evaluation
QUICK = {
    "batch": 16,
    "prompts": 64,
    "dimension": 4,
    "pairs": 8,
    "model.width": 16,
    "model.iterations": 4,
    "training.steps": 30,
    "training.evaluate": 10,
}
# what may be another when a run is gone on with
FREE = ("training.steps", "training.seconds", "training.evaluate", "training.checkpoint", "device", "prompts")


class Rise(Strict):
    """How a number grows to its full size."""

    first: int = Field(ge=1, description="at the first step")
    by: int = Field(default=1, ge=1, description="so much at once")
    every: int | None = Field(default=None, ge=1, description=f"steps; null: the first {PART:.0%} of all in even parts")


class CurriculumSettings(Strict):
    """What grows in the course of training; null has its full size from the start."""

    dimension: Rise | None = Field(default=None, description="of the inputs; they are 0 beyond it")
    pairs: Rise | None = None
    loops: Rise | None = Field(default=Rise(first=2), description="iterations; a plain model has one")


class IncontextModel(Strict):
    """The body between a linear map that reads tokens and one that tells y; null is what suits kind and tokens."""

    kind: str = Field(default="algoformer", description=", ".join(MODELS))
    width: int = Field(default=32, ge=1, le=65_536)
    heads: int = Field(default=1, ge=1, description="divide the width")
    iterations: int = Field(default=8, ge=1, le=MOST, description="T of the loop; a plain model has none")
    pre: int | None = Field(default=None, ge=0, description="layers before the loop")
    loop: int | None = Field(default=None, ge=0, description="layers of the block that is iterated")
    post: int | None = Field(default=None, ge=0, description="layers after it")
    inject: str | None = Field(default=None, description="none, add or from_zero")
    norm: str | None = Field(default=None, description="pre or none")
    norm_in_loop: bool | None = None
    feed: str = Field(default="gelu", description="gelu, swiglu or none")
    tokens: str = Field(default="pairs", description="pairs, one token each, y_k is told; or interleaved, each y_i is")
    position: str | None = Field(default=None, description="none, rotary, alibi, kerple")
    normalize: str | None = Field(default=None, description="softmax, linear, linear(mean=true), self_adjust(4)")
    checkpointing: bool = Field(default=False, description="run each iteration again in the backward pass: less memory")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in MODELS:
            raise ValueError(str(unknown("model", kind, MODELS)))
        return kind

    @field_validator("tokens")
    @classmethod
    def _laid(cls, tokens: str) -> str:
        if tokens not in ("pairs", "interleaved"):
            raise ValueError(str(unknown("tokens", tokens, ("pairs", "interleaved"))))
        return tokens


class IncontextTraining(Strict):
    """How a model is trained: Adam, steps that are not finite left out."""

    steps: int = Field(default=500, ge=1)
    seconds: float | None = Field(default=None, gt=0, description="stop after so many seconds, whichever comes first")
    rate: float = Field(default=4e-3, gt=0, description="learning rate")
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    clip: float | None = Field(default=0.1, gt=0, description="longest gradient that is let through; null is any")
    window: int = Field(default=1, ge=1, description="last iterations that are supervised")
    cut: bool = Field(default=False, description="no gradient before the window, as the looped baseline has it")
    evaluate: int | None = Field(default=None, ge=1, description="evaluate every so many steps; null is about 50 times")
    checkpoint: int | None = Field(default=None, ge=1, description="a checkpoint every so many steps; null: a minute")


class IncontextSettings(Strict):
    """`lissome icl train`: a model that learns functions from examples in its prompt."""

    task: str = Field(default="representation", description=", ".join(TASKS))
    dimension: int = Field(default=8, ge=1, le=4096)
    pairs: int = Field(default=20, ge=1, le=100_000, description="examples of a prompt")
    noise: float | None = Field(default=None, ge=0, description="standard deviation; null is the task's own")
    details: dict[str, Any] = Field(default={}, description="further settings of the task, such as slope, nonzero")
    batch: int = Field(default=64, ge=1, le=ROWS, description="prompts of a step")
    prompts: int = Field(default=1280, ge=1, le=ROWS, description="fresh ones that the trained model is measured on")
    model: IncontextModel = IncontextModel()
    training: IncontextTraining = IncontextTraining()
    curriculum: CurriculumSettings = CurriculumSettings()
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(str(unknown("task", task, TASKS)))
        return task

    @model_validator(mode="after")
    def _paced(self) -> IncontextSettings:
        """Check what goes together, and say how often what grows does."""
        if self.training.window > self.loops:
            raise ValueError(
                f"training.window is {self.training.window}, and the iterations of the model are {self.loops}; "
                + ("legal is 1" if self.loops == 1 else f"legal are 1 to {self.loops}")
            )
        full = {"dimension": self.dimension, "pairs": self.pairs, "loops": self.loops}
        rises = {name: _pace(name, getattr(self.curriculum, name), full[name], self.training.steps) for name in full}
        object.__setattr__(self, "curriculum", CurriculumSettings(**rises))  # a run keeps what it was paced by
        return self

    @property
    def loops(self) -> int:
        """T: the iterations of the trained model, of a plain one 1."""
        return 1 if self.model.kind == "plain" else self.model.iterations


def _pace(name: str, rise: Rise | None, full: int, steps: int) -> Rise | None:
    if rise is None or (name == "loops" and rise == Rise(first=2) and full <= 2):
        return None
    if rise.first > full:
        raise ValueError(f"curriculum.{name}.first is {rise.first}, more than the {full} that it grows to")
    if rise.every is not None:
        return rise
    times = max(1, math.ceil((full - rise.first) / rise.by))
    return rise.model_copy(update={"every": max(1, int(PART * min(steps, FOREVER) / times))})


def read_loops(text: str) -> list[int]:
    """Read counts of iterations with commas between them.

    Raises:
        UsageError: one of them is no whole number from 1 to 10,000.

    >>> read_loops("1, 5,10")
    [1, 5, 10]
    """
    found = []
    for word in text.split(","):
        if not word.strip().isdecimal() or not 1 <= int(word) <= MOST:
            raise UsageError(
                f"--loops takes whole numbers from 1 to {MOST:,}, such as 1,5,10; '{word.strip()}' is none"
            )
        found.append(int(word))
    return sorted(set(found))
