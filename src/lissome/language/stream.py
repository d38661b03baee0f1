"""Perplexity of a long text that is read as one stream, part by part, through a cache of bounded size.

Each token is scored by the logits that the one before it gave, given what the cache held. A part is one forward: its
tokens see what is held and one another, and the cache drops between parts; so what a token sees, and by that the
perplexity, depends on how the text is cut.

Reference: G. Xiao et al., arXiv 2309.17453, section 4.1; G. Chen et al., arXiv 2412.12094, section 4.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lissome._checks import check_whole
from lissome.language.memory import resident_memory
from lissome.language.score import cross_entropy, perplexity

MB = 1e6


class Ids(Protocol):
    """Ids of a text, in memory, mapped, or read from a file as they are asked for."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return some of them, (n,) of whole numbers."""
        ...


@dataclass(frozen=True)
class Stream:
    """A text as pairs of a token that is read and the one that follows it.

    Args:
        ids: (N,), all of them.
        begin: the token that begins a text: it is read and never asked for, and neither is the last token of the text
            before it read; None: there is no such token.

    >>> Stream(np.array([0, 5, 6, 0, 7, 8]), begin=0).take(0, 4)
    (array([0, 5, 0]), array([5, 6, 7]), 4)
    """

    ids: Ids
    begin: int | None = None

    def take(self, place: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return tokens (n,), those that follow them (n,), n at most `most`, and the place to go on from."""
        part = self.ids[place : place + most + 1]
        read, asked = part[:-1], part[1:]
        if self.begin is not None:
            kept = asked != self.begin
            read, asked = read[kept], asked[kept]
        return read, asked, place + max(0, len(part) - 1)


class Reader(Protocol):
    """A model with its cache."""

    def read(self, tokens: Tensor) -> Tensor:
        """Return logits (1, T, V) of what follows each of the tokens (1, T), which are then held."""
        ...

    @property
    def held(self) -> int:
        """How many entries the cache holds."""
        ...


@dataclass
class Part:
    """What was measured of some tokens.

    Attributes:
        tokens: that were scored.
        nats: of all of them.
        held: entries of the cache after each forward, summed with its tokens as weights.
        most: entries at most.
        marked: how many of the tokens that were read are separators.
        seconds: of the forwards, by the clock.
        processor: seconds of the forwards, of all cores: what other processes take from a machine does not count.
    """

    tokens: int = 0
    nats: float = 0.0
    held: float = 0.0
    most: int = 0
    marked: int = 0
    seconds: float = 0.0
    processor: float = 0.0

    def add(self, other: Part) -> None:
        """Take in what was measured of further tokens."""
        self.tokens, self.nats, self.held = self.tokens + other.tokens, self.nats + other.nats, self.held + other.held
        self.marked, self.seconds = self.marked + other.marked, self.seconds + other.seconds
        self.most, self.processor = max(self.most, other.most), self.processor + other.processor

    def told(self) -> dict[str, float | None]:
        """Return nats of a token, perplexity, entries of the cache, and tokens a second, by the clock and of a core."""
        count = self.tokens or 1
        return {
            "nats": self.nats / count,
            "perplexity": perplexity(self.nats / count),
            "cache_mean": self.held / count,
            "cache_most": self.most,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else None,
            "tokens_per_processor_second": self.tokens / self.processor if self.processor else None,
        }


@dataclass
class Progress:
    """How far a stream is, all of it: with the cache's own state, reading goes on as if it had not stopped.

    Attributes:
        place: in the text.
        all: what was measured so far.
        open: of the interval that has begun.
        rows: one for each interval that is over.
    """

    place: int = 0
    all: Part = field(default_factory=Part)
    open: Part = field(default_factory=Part)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return it as numbers and lists, for `of`."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """Return what `state` was made of."""
        return cls(state["place"], Part(**state["all"]), Part(**state["open"]), [dict(row) for row in state["rows"]])


def stream(
    reader: Reader,
    text: Stream,
    progress: Progress,
    *,
    tokens: int,
    chunk: int,
    interval: int,
    marks: np.ndarray | None = None,
    device: torch.device | None = None,
    on_part: Callable[[Progress], bool | None] | None = None,
) -> bool:
    """Read and score a text, from where `progress` is, to its end or until so many tokens are scored.

    Nothing grows with the text but the rows, one an interval: step, interval (its tokens), nats, perplexity,
    perplexity_so_far, cache_mean, cache_most, tokens_per_second, tokens_per_processor_second, resident_mb, seconds (of
    all forwards so far).

    Args:
        reader: a model, in evaluation, with its cache, as `progress` left it.
        text: what is read.
        progress: changed in place.
        tokens: scored at most, those before `progress` included.
        chunk: tokens of a forward, at most.
        interval: tokens of a row; the n-th is over with the forward that reaches n times as many.
        marks: (V,) bool, which ids are separators; None: that is not counted.
        device: of the reader.
        on_part: called after each forward; True stops.

    Returns:
        Whether the text ended, or all tokens are scored.

    Raises:
        UsageError: a number below 1.
    """
    for name, value in (("tokens", tokens), ("chunk", chunk), ("interval", interval)):
        check_whole(name, value)
    with torch.inference_mode():
        while progress.all.tokens < tokens:
            read, asked, place = text.take(progress.place, min(chunk, tokens - progress.all.tokens))
            if place == progress.place:
                break
            progress.place = place
            if len(read):
                _note(progress, _scored(reader, read, asked, marks, device), interval)
            if on_part is not None and on_part(progress):
                return False
    if progress.open.tokens:
        _close(progress)
    return True


def _scored(
    reader: Reader, read: np.ndarray, asked: np.ndarray, marks: np.ndarray | None, device: torch.device | None
) -> Part:
    begun, worked = time.perf_counter(), time.process_time()
    inputs, targets = (torch.from_numpy(ids.astype(np.int64))[None].to(device) for ids in (read, asked))  # (1, n)
    nats = float(cross_entropy(reader.read(inputs), targets).double().sum())
    seconds, processor = time.perf_counter() - begun, time.process_time() - worked
    held, n = reader.held, len(read)
    return Part(n, nats, held * n, held, 0 if marks is None else int(marks[read].sum()), seconds, processor)


def _note(progress: Progress, part: Part, interval: int) -> None:
    progress.all.add(part)
    progress.open.add(part)
    if progress.all.tokens >= (len(progress.rows) + 1) * interval:
        _close(progress)


def _close(progress: Progress) -> None:
    """End an interval."""
    resident, own, all_ = resident_memory(), progress.open, progress.all
    row = {"step": all_.tokens, "interval": own.tokens, **own.told()}
    row["perplexity_so_far"] = perplexity(all_.nats / all_.tokens)
    row["resident_mb"] = None if resident is None else resident / MB
    row["seconds"] = all_.seconds
    progress.rows.append(row)
    progress.open = Part()
