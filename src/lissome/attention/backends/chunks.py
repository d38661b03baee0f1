"""How queries are cut in two levels, and how a table of distances is laid over the parts without being copied.

Tiles are as large as the products with keys and values like. Chunks are whole rows of a tile, so few that a hidden map
on their pairs stays in the cache while everything elementwise is done in place.

Queries stand in reverse order inside a tile: the latest first. A number that depends on the distance alone is then the
same at (row, key) and (row + 1, key - 1), so it is a view of its table with stride 1 along rows and along keys, and so
is the mask of the future. Tables are in the order of the keys: column j is what the last query, at Tk - 1, reads of
key j; behind them stands room for the rows before it.

`strips` does as much where heads never meet: it goes through key heads, not texts, and cuts a text once. Here they meet
in the network, at every pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 64  # queries of a tile: fewer, and products with keys are slow; more, and more of the future is computed
PAIRS = 2**17  # pairs of a tile, up to which texts of a batch are taken together
CHUNK = 2**14  # pairs whose hidden map, 2 MB at width 32, stays in the cache of a core


@dataclass(frozen=True)
class Tile:
    """Queries [start, stop) of several texts, and the keys [0, keys) that they see.

    Attributes:
        texts: of a batch, taken together.
        start: its earliest query, counted over queries.
        stop: behind its latest one.
        keys: how many the latest query sees.
        pitch: columns that a row takes, `keys` or some zeros more.
    """

    texts: int
    start: int
    stop: int
    keys: int
    pitch: int

    @property
    def rows(self) -> int:
        """Queries of one text."""
        return self.stop - self.start

    @property
    def pairs(self) -> int:
        """Columns of all rows."""
        return self.texts * self.rows * self.pitch

    @property
    def whole(self) -> Chunk:
        """All of it."""
        return Chunk(0, self.texts, self.rows, self.keys - 1, self.pitch)

    def chunks(self) -> Iterator[Chunk]:
        """Return its rows in parts that stay in the cache: some rows of one text, or all rows of some texts."""
        texts = CHUNK // (self.rows * self.pitch)
        if texts:
            for text in range(0, self.texts, texts):
                found = min(texts, self.texts - text)
                yield Chunk(text * self.rows, found, self.rows, self.keys - 1, self.pitch)
            return
        rows = max(1, CHUNK // self.pitch)
        for text in range(self.texts):
            for row in range(0, self.rows, rows):
                found = min(rows, self.rows - row)
                yield Chunk(text * self.rows + row, 1, found, self.keys - 1 - row, self.pitch)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a tile.

    Attributes:
        first: its first row, counted over the texts of the tile.
        texts: how many it takes.
        rows: of each text.
        top: position of its first row, which is its latest query.
        pitch: columns that a row takes.
    """

    first: int
    texts: int
    rows: int
    top: int
    pitch: int

    @property
    def pairs(self) -> int:
        """Columns of all rows."""
        return self.texts * self.rows * self.pitch

    @property
    def span(self) -> slice:
        """Its rows in the tile."""
        return slice(self.first, self.first + self.texts * self.rows)

    def split(self, x: Tensor) -> Tensor:
        """Return (channels, pairs) as (channels, texts, rows, pitch)."""
        return x.view(len(x), self.texts, self.rows, self.pitch)


def texts_at_once(batch: int, queries: int, keys: int) -> int:
    """Return how many texts of a batch are run together."""
    return min(batch, max(1, PAIRS // (min(queries, ROWS) * keys)))


def tiles(texts: int, queries: int, keys: int, half: int) -> Iterator[Tile]:
    """Return the tiles of some texts, whose queries are the last of their keys; `half` zeros follow the keys."""
    for start in range(0, queries, ROWS):
        stop = min(start + ROWS, queries)
        seen = keys - queries + stop
        yield Tile(texts, start, stop, seen, seen + half)


class Ruler:
    """Tables and the mask of the future, laid over chunks.

    Args:
        queries: of a text.
        keys: of a text.
        half: zeros that follow the keys of a row.
        device: of the mask.
    """

    def __init__(self, queries: int, keys: int, half: int, device: torch.device):
        self.rows, self.keys = min(queries, ROWS), keys
        self.room = self.rows + half  # the earliest row of a tile looks so far behind the table
        self.later = torch.arange(self.rows + self.room, device=device) >= self.rows - 1

    def long(self, table: Tensor) -> Tensor:
        """Return a table (channels, Tk) with room behind it."""
        return F.pad(table, (0, self.room))

    def first(self, chunk: Chunk) -> int:
        """Return the column of a table where a chunk begins."""
        return self.keys - 1 - chunk.top

    def along(self, table: Tensor, chunk: Chunk) -> Tensor:
        """Return a long table at the distances of a chunk, (channels, texts, rows, pitch), a view."""
        shape = (len(table), chunk.texts, chunk.rows, chunk.pitch)
        return table.as_strided(shape, (table.shape[1], 0, 1, 1), self.first(chunk))

    def gather(self, table: Tensor, x: Tensor, chunk: Chunk) -> None:
        """Add (channels, texts, rows, pitch) to a long table, by distance: what `along` is in the backward pass."""
        x = x.sum(1) if chunk.texts > 1 else x[:, 0]
        length = chunk.pitch + chunk.rows - 1
        apart = F.pad(x, (0, chunk.rows - 1)).contiguous()  # zeros, so that rows can be read shifted by one each
        shifted = apart.as_strided((len(x), chunk.rows, length), (chunk.rows * length, length - 1, 1))
        first = self.first(chunk)
        table[:, first : first + length] += shifted.sum(1)

    def close(self, x: Tensor, chunk: Chunk, value: float) -> None:
        """Set the future in (channels, texts, rows, pitch) to a value."""
        here = chunk.top - chunk.rows + 2  # the first column that some row does not see
        shape = (chunk.rows, chunk.pitch - here)
        x[..., here:].masked_fill_(self.later.as_strided(shape, (1, 1), self.rows - chunk.rows), value)
