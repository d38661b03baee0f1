"""The text as byte pairs, and who is kept of it: separators, drawn ids as frequent as they are, every k-th token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.bridges.marks import random_ids
from lissome.bridges.separators import separator_ids
from lissome.language import Bpe, Vocabulary, read_corpus, read_tokens, read_vocabulary, split_tokens, write_tokens
from lissome.recipes.paper import Row, kept
from lissome.recipes.sepllm_names import Look

VOCABULARY, TOKENS = "vocabulary.json", "tokens.bin"  # in the directory that cells share
HELD = 0.15  # of the text
LEAST = 8  # windows of the text held out


@dataclass(frozen=True)
class Marked:
    """Who is kept beyond the window.

    Attributes:
        ids: of separators.
        drawn: ids as frequent as they are in the text that is trained on, drawn by a seed.
        k: one token in so many is a separator.
        share: of the tokens that are separators.
    """

    ids: tuple[int, ...]
    drawn: tuple[int, ...]
    k: int
    share: float


@dataclass(frozen=True)
class Source:
    """A text in byte pairs: tokens (N,) to train on and held-out ones, which are read."""

    vocabulary: Vocabulary
    train: np.ndarray
    held: np.ndarray

    def marked(self, seed: int) -> Marked:
        """Return who is kept; ids are drawn by the seed."""
        ids = separator_ids(self.vocabulary)
        share = float(np.isin(self.train, ids).mean())
        tokens = torch.from_numpy(self.train.astype(np.int64))
        drawn = random_ids(tokens, ids, torch.Generator().manual_seed(seed))
        return Marked(ids, tuple(drawn), max(1, round(1 / share)), share)

    def windows(self, look: Look) -> Tensor:
        """Return rows (W, T + 1) of the text held out, evenly over it and none twice."""
        many = min(look.windows, (len(self.held) - 1) // look.length)
        starts = np.linspace(0, len(self.held) - 1 - look.length, many).astype(np.int64)
        rows = np.lib.stride_tricks.sliding_window_view(self.held, look.length + 1)[starts]
        return torch.from_numpy(rows.astype(np.int64))

    def stream(self, look: Look) -> Tensor:
        """Return the beginning of the text held out as one row (1, T + 1)."""
        return torch.from_numpy(self.held[: look.stream + 1].astype(np.int64))[None]


def prepare(place: Path, data: Sequence[str], look: Look) -> Row:
    """Learn the byte pairs of a text and keep them and its tokens; return its figures.

    Raises:
        UsageError: a text that is too short for them.
    """
    whole = "".join(_pieces(data, look.characters))[: look.characters]
    vocabulary = Bpe.train([whole[: round(len(whole) * (1 - HELD))]], size=look.vocabulary, end=None)
    vocabulary.save(place / VOCABULARY)
    found = write_tokens(place / TOKENS, [[whole]], vocabulary)
    source = _source(vocabulary, found.ids)
    if len(source.held) <= LEAST * look.length:
        raise UsageError(
            f"the text has {len(source.held):,} tokens to be held out; legal are texts with more than "
            f"{LEAST * look.length:,}"
        )
    return {
        "characters": len(whole),
        "tokens": found.count,
        "held": len(source.held),
        "separators": len(separator_ids(vocabulary)),
        "share": source.marked(0).share,
    }


def read(place: Path) -> Source:
    """Return what an earlier cell has prepared.

    Raises:
        RunError: none has.
    """
    vocabulary = read_vocabulary(kept(place / VOCABULARY))
    return _source(vocabulary, read_tokens(kept(place / TOKENS), vocabulary).ids)


def _source(vocabulary: Vocabulary, ids: np.ndarray) -> Source:
    return Source(vocabulary, *split_tokens(ids, HELD))


def _pieces(data: Sequence[str], most: int) -> Iterator[str]:
    read = 0
    for piece in read_corpus(data[0] if data else None).texts():
        yield piece
        read += len(piece)
        if read >= most:
            return
