"""What decoders compete at: tasks that are drawn, and bytes of one text; rates are chosen on rows of their own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lissome._errors import UsageError
from lissome.language import Task, Text, read_corpus, split_tokens, task
from lissome.recipes.language_contest import Judged

ROWS, HELD = 256, 128  # of each test length of a task, and of those by which a rate is chosen
FEW = 8  # of both in a quick look
APART = 7_919  # the seed of the rows by which a rate is chosen
MOST, LEAST = 2_000_000, 200_000  # bytes of a text that are read, and that it has to have
SYMBOLS = 256


def trial(name: str, seed: int, quick: bool, **settings: Any) -> tuple[Task, Judged]:
    """Return a task, and the same judged by rows of its longest length of training."""
    own = task(name, rows=FEW if quick else ROWS, seed=seed, **settings)
    tokens, targets = own.draw(torch.Generator().manual_seed(APART + seed), FEW if quick else HELD, own.train[1])
    return own, Judged(own, {"tokens": tokens, "targets": targets})


def check(data: Sequence[str]) -> None:
    """Refuse more than one text, and one that cannot be read or is too short.

    Raises:
        UsageError: one of these.
    """
    if len(data) > 1:
        raise UsageError(f"this replication reads one text, and {len(data)} came; give --data once")
    if data:
        parts(tuple(data))


@functools.cache
def parts(data: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bytes to train on, to choose rates by, and to test on: nine tenths, and twice a half of the last.

    Raises:
        UsageError: a text that cannot be read or is too short.
    """
    pieces, length = list[bytes](), 0
    corpus = read_corpus(data[0] if data else None)
    for text in corpus.texts():
        pieces.append(text.encode())
        length += len(pieces[-1])
        if length >= MOST:
            break
    if length < LEAST:
        raise UsageError(f"{corpus.name} has {length:,} bytes; legal are texts of at least {LEAST:,}")
    whole = np.frombuffer(b"".join(pieces), np.uint8)[:MOST]
    train, held = split_tokens(whole)
    return train, held[: len(held) // 2], held[len(held) // 2 :]


def reading(data: Sequence[str], length: int, held: int) -> tuple[Judged, np.ndarray, np.ndarray]:
    """Return a text in rows of a length, judged by so many held out; the bytes it trains on, and those of the test."""
    train, choose, test = parts(tuple(data))
    text = Text(train, choose, length=length)
    rows = text.validation[torch.linspace(0, len(text.validation) - 1, held).long()]
    return Judged(text, {"tokens": rows}), train, test
