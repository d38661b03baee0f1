"""What `lissome lm stream` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

import os

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lissome._errors import unknown
from lissome.recipes.settings import Strict

CACHES = ("separators", "sinks", "fixed", "full")
POSITIONS = ("text", "cache")
PROTOCOLS = ("text", "lines")
EVERY = 5
QUICK = {"tokens": 2000, "intervals": 10}
FREE = ("checkpoint",)  # what may be another when a stream is gone on with
OWN = "protocol"  # a setting that runs of other kinds have not
LAST = ("protocol", "checkpoint", "device")  # keys at the end of the settings that a run keeps


class StreamSettings(Strict):
    """`lissome lm stream`: perplexity of a long text through a bounded cache."""

    model: str = Field(description="directory of a run of `lissome lm train`, or local folder of a transformers model")
    text: str = Field(description="a file of text, or a folder of them")
    tokenizer: str | None = Field(default=None, description="folder or file, if not beside the model; or bytes")
    cache: str = Field(
        default="separators",
        description="separators (SepLLM), sinks (StreamingLLM: none of them), fixed (FixLLM: every k-th token), full",
    )
    initial: int = Field(default=4, ge=0, description="a: first tokens that stay")
    separators_kept: int = Field(default=64, ge=0, description="s: newest separators, or every k-th tokens, that stay")
    local: int = Field(default=256, ge=1, description="w: newest tokens that stay")
    capacity: int = Field(default=800, ge=1, description="c: the most tokens that are held")
    every: int = Field(default=EVERY, ge=1, description="k of cache fixed")
    separators: list[int] | None = Field(default=None, description="ids; null takes them from the vocabulary")
    positions: str | None = Field(
        default=None,
        description="text, or cache: among the tokens that are held; null is cache, and text where all are held",
    )
    protocol: str = Field(
        default="text",
        description="text: one text with one beginning; lines: each line has its own, as in published figures",
    )
    chunk: int = Field(default=128, ge=1, description="tokens of a forward, which see what is held and one another")
    tokens: int | None = Field(default=None, ge=1, description="scored at most; null reads the text to its end")
    intervals: int = Field(default=40, ge=1, description="rows of metrics.jsonl, about")
    checkpoint: float = Field(default=60.0, gt=0, description="seconds between checkpoints")
    device: str = "auto"

    @field_validator("cache", "positions", "protocol")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        legal = {"cache": CACHES, "positions": POSITIONS, "protocol": PROTOCOLS}[str(info.field_name)]
        if value not in legal and not (value is None and info.field_name == "positions"):
            raise ValueError(str(unknown(str(info.field_name), value, legal)))
        return value

    @field_validator("model", "text")
    @classmethod
    def _named(cls, path: str) -> str:
        if not path.strip():
            raise ValueError(f"{path!r} is no name; legal is that of a file or folder")
        return path

    @model_validator(mode="after")
    def _fits(self) -> StreamSettings:
        if self.every != EVERY and self.cache != "fixed":
            raise ValueError(
                f"every {self.every} is of no use with cache '{self.cache}'; take cache fixed, or leave it out"
            )
        if self.cache == "full":
            if self.positions == "cache":
                raise ValueError("positions 'cache' are for a cache that drops tokens; legal with cache full is text")
            return self
        need = self.initial + self.kept + self.local + self.chunk
        if need > self.capacity:
            raise ValueError(
                f"initial {self.initial} + separators_kept {self.kept} + local {self.local} + chunk {self.chunk} are "
                f"{need}, above the capacity of {self.capacity}; legal is a capacity of {need} and more"
            )
        return self

    @property
    def kept(self) -> int:
        """How many separators stay, or every k-th tokens."""
        return 0 if self.cache == "sinks" else self.separators_kept

    @property
    def placed(self) -> str:
        """What positions are: text or cache."""
        return self.positions or ("text" if self.cache == "full" else "cache")


def lasting(settings: StreamSettings) -> StreamSettings:
    """Return settings whose paths are whole, so that they hold in whatever directory they are read again."""
    paths = {"model": settings.model, "text": settings.text}
    if settings.tokenizer not in (None, "bytes"):
        paths["tokenizer"] = str(settings.tokenizer)
    return settings.model_copy(update={name: os.path.realpath(path) for name, path in paths.items()})
