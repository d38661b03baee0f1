"""Which keys the queries of one text read, where some keys are kept for all of them and the others are near.

Kept keys are scattered, 6 to 15 in 100, so that nearly every square block of a mask holds one and skipping blocks skips
little. They are gathered instead, into one short list, and what a query reads are, disjoint,

    near     the keys of its window, out of the `width` keys up to the end of its block of queries
    kept     the gathered keys that are older than its window

Blocks that lie in a row form a band, whose near parts are one call on overlapping views of the keys, under one mask. Of
the kept keys those that all queries of a band see are one call without a mask, and the few others one with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 64  # queries of a block, over the heads that share a key: more compute too much outside of the window
BLOCKS = 16  # of a band: the kernel likes many rows for the kept keys
LANE = 16  # keys are taken so many at a time where that is possible


class Part(NamedTuple):
    """Keys that one call reads: of each of `blocks` blocks [low + b step, low + b step + width).

    Attributes:
        kept: of the gathered keys, or of all.
        blocks: that read keys of their own.
        step: from the keys of a block to those of the next.
        low: the first key of the first block.
        width: keys of a block.
        mask: what is added to scores, ending in (queries of a block, width); None: all are seen.
    """

    kept: bool
    blocks: int
    step: int
    low: int
    width: int
    mask: Tensor | None

    def view(self, x: Tensor) -> Tensor:
        """Return these of x (G, ., D) as (blocks, G, width, D), without a copy."""
        group, key, number = x.stride()
        shape, strides = (self.blocks, len(x), self.width, x.shape[2]), (self.step * key, group, key, number)
        return x.as_strided(shape, strides, x.storage_offset() + self.low * key)

    def add(self, x: Tensor, found: Tensor) -> None:
        """Add (blocks, G, width, D) to x (G, ., D) where they stand; blocks may overlap."""
        apart = -(-self.width // self.step)  # blocks that are so far apart do not
        for first in range(min(apart, self.blocks)):
            some = found[first::apart]
            low = self.low + first * self.step
            self._replace(blocks=len(some), step=apart * self.step, low=low).view(x).add_(some)


class Band(NamedTuple):
    """Blocks of queries in a row.

    Attributes:
        start, stop: of the queries, as positions.
        blocks: how many.
        low: the first of the first block's near keys.
        width: near keys of a block.
        all: kept keys that are older than the window of every query.
        some: kept keys that are older than the window of one.
    """

    start: int
    stop: int
    blocks: int
    low: int
    width: int
    all: int
    some: int


class Plan:
    """The bands of one text.

    Args:
        kept: (Tk,) bool.
        rows: Tq; the queries are the last ones.
        near: keys that a query sees for their nearness, itself among them.
        share: heads that read one key head; they stand in the rows of a block, one after another.
        dtype: of masks.

    Attributes:
        places: positions of the kept keys, and some of them once more, to fill a lane.
        past: Tk - Tq.
    """

    def __init__(self, kept: Tensor, rows: int, near: int, share: int, dtype: torch.dtype):
        self.share, self.dtype = share, dtype
        keys = len(kept)
        self.past, self.near = keys - rows, min(near, keys)
        found = kept.nonzero()[:, 0]
        self.places = torch.cat((found, found[-1:].expand(LANE))) if len(found) else found
        self._from = torch.cat((found, found.new_full((LANE,), keys)))  # nobody sees what fills
        self.bands = self._bands(found, keys)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def _bands(self, found: Tensor, keys: int) -> list[Band]:
        block = max(LANE, ROWS // self.share)
        width = _up(block + self.near - 1)
        # a band's first block needs `width` keys up to its end; what stands before are blocks one by one
        alone = keys - max(0, (keys - max(self.past, width - block)) // block) * block
        stops = [*range(alone, self.past, -block)][::-1]
        cuts = [(max(self.past, stop - block), stop, 1, max(0, stop - width)) for stop in stops]
        for start in range(alone, keys, BLOCKS * block):
            stop = min(start + BLOCKS * block, keys)
            cuts.append((start, stop, (stop - start) // block, start + block - width))
        ends = [end - self.near for start, stop, _, _ in cuts for end in (start, stop - 1)]
        older = torch.searchsorted(found, torch.tensor(ends, device=found.device), right=True).tolist()
        return [
            Band(start, stop, blocks, low, start + (stop - start) // blocks - low, *older[2 * index : 2 * index + 2])
            for index, (start, stop, blocks, low) in enumerate(cuts)
        ]

    def parts(self, band: Band) -> Iterator[Part]:
        """Go through what a band reads."""
        step = (band.stop - band.start) // band.blocks
        yield Part(False, band.blocks, step, band.low, band.width, self._near(band, step))
        seen = band.all if band.all == band.some else band.all // LANE * LANE
        if seen < band.some:
            width = _up(band.some - seen)
            newest = torch.arange(band.start, band.stop, device=self.places.device) - self.near  # that is old enough
            newest = newest.view(-1, 1, step, 1).expand(-1, self.share, -1, 1).flatten(0, 2)  # (R, 1)
            yield Part(True, 1, 1, seen, width, self._mask(self._from[seen : seen + width] > newest))
        if seen:
            yield Part(True, 1, 1, 0, seen, None)

    def _near(self, band: Band, step: int) -> Tensor:
        """Return the mask of near keys, (share step, width)."""
        shape = band.start - band.low, step, band.width
        if shape not in self._masks:
            rows, columns = (torch.arange(size, device=self.places.device) for size in (step, band.width))
            behind = (rows + band.start - band.low)[:, None] - columns
            self._masks[shape] = self._mask((behind < 0) | (behind >= self.near)).repeat(self.share, 1)
        return self._masks[shape]

    def _mask(self, hidden: Tensor) -> Tensor:
        zeros = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        return zeros.masked_fill_(hidden, torch.finfo(self.dtype).min)


def _up(number: int) -> int:
    return -(-number // LANE) * LANE
