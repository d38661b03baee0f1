"""Strips of a causal attention: some queries, of some heads, by all keys that they see, in memory that is used again.

Keys stand in reverse order. Query i and column j of a strip of n queries are then i + j - (n - 1) apart: a bias that
depends on the distance alone is a view of its table, with strides (1, 1), and its gradient sums a sheared view. The
future lies in the first n columns, above the diagonal that leads up.

`chunks` lays a table over queries likewise, and is another: there all heads of a pair meet in a network, so scores lie
channel first and are cut once more, to the size of its hidden map. Here heads never meet, so key heads go by
themselves, each with whole rows for its two passes, and a text is cut once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PAIRS = 2**18  # scores of one strip: 1 MB in float32, so that three buffers stay near the processor
FEWEST, MOST = 64, 128  # queries of a strip: fewer starve the products, more compute too much of the future
LANES = 16  # parts of a row whose extrema are taken at once; no more than FEWEST
LOG2E, LN2 = math.log2(math.e), math.log(2)


def grouped(x: Tensor, k: Tensor) -> Tensor:
    """Return (B, H, Tq, .) by key heads, (N, r, Tq, .) with N = B G and r = H / G."""
    return x.reshape(k.shape[0] * k.shape[1], x.shape[1] // max(1, k.shape[1]), *x.shape[2:])


def parts(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, scale: float, room: int) -> Iterator[Part]:
    """Go through the key heads, so many at once that the strips of short texts are not small."""
    q, total = grouped(q, k), k.shape[0] * k.shape[1]
    k, v, groups = k.flatten(0, 1), v.flatten(0, 1), k.shape[1]
    share, rows = q.shape[1:3]
    size = max(1, PAIRS // max(1, share * min(rows, MOST) * k.shape[1]))
    for start in range(0, total if rows else 0, size):
        some = slice(start, min(start + size, total))
        given = None
        if table is not None:
            heads = torch.arange(some.start, some.stop, device=q.device) % groups
            given = table.view(groups, share, -1)[heads]  # (c, r, Tk)
        yield Part(some, q[some], k[some], v[some], given, groups, scale, room)


class Part:
    """Some key heads with their queries, and what their strips share.

    Attributes:
        some: which of the N = B G key heads, c of them.
        share: r, the heads that read one.
        q: (c, R, D) with R = Tq r, a query's heads beside one another, scaled for scores in powers of 2.
        k, v: (c, Tk, .), the last key first.
        table: (c, r, MOST - 1 + Tk), the bias at the distances from 1 - MOST on, or None.
        flat: memory of strips.
        future: whether the distances from 1 - MOST to MOST - 1 lie there.
        lowered: the most that scores may be there, to close the future.
        cleared: the least, to open it.
    """

    def __init__(
        self,
        some: slice,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor | None,
        groups: int,
        scale: float,
        room: int,
    ):
        dtype = torch.promote_types(q.dtype, torch.float32)
        self.some, self.groups, self.share, self.queries = some, groups, q.shape[1], q.shape[2]
        self.q = self._joined(q).to(dtype) * (scale * LOG2E)
        self.k, self.v = k.to(dtype).flip(1), v.to(dtype).flip(1)
        self.table = None if table is None else F.pad(table.to(dtype) * LOG2E, (MOST - 1, 0))
        self.before = k.shape[1] - self.queries
        most = max((stop - start) * (self.before + stop + stop - start) for start, stop in self._cuts())
        self.flat = [self.q.new_empty(len(k) * self.share * most) for _ in range(room)]
        self.future = torch.arange(2 * MOST - 1, device=q.device) < MOST - 1
        infinite = self.q.new_full((2 * MOST - 1,), math.inf)
        self.lowered = infinite.masked_fill(self.future, -math.inf)
        self.cleared = (-infinite).masked_fill(self.future, 0.0)

    def strips(self) -> Iterator[Strip]:
        """Go through the queries."""
        return (Strip(self, start, stop) for start, stop in self._cuts())

    def _cuts(self) -> Iterator[tuple[int, int]]:
        """Say where strips start and stop; all but the last see whole LANES of keys."""
        start = 0
        while start < self.queries:
            first = self.before + start
            size = min(max(PAIRS // (len(self.k) * self.share * (first + MOST)), FEWEST), MOST)
            stop = self.queries if self.queries - start <= size else start + size - (first + size) % LANES
            yield start, stop
            start = stop

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(1, 2)  # (c, r, Tq, .) -> (c, R, .)

    def known(self, known: Tensor) -> Tensor:
        """Return what is known of these rows, (3, c, R, 1)."""
        return known.view(3, -1, self.queries * self.share, 1)[:, self.some]

    def read(self, x: Tensor) -> Tensor:
        """Return (N, r, Tq, .) of these heads as (c, R, .)."""
        return self._joined(x[self.some]).to(self.q.dtype)

    def write(self, x: Tensor, found: Tensor) -> None:
        """Write (c, R, .) into (B, H, Tq, .)."""
        found = found.unflatten(1, (self.queries, self.share)).transpose(1, 2)
        x.view(-1, *found.shape[1:])[self.some] = found.to(x.dtype)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return zeros for the gradients of k and v, (c, ., Tk) as products write them fastest, and of the table."""
        dk, dv = (x.new_zeros(len(x), x.shape[2], x.shape[1]) for x in (self.k, self.v))
        return dk, dv, self.k.new_zeros(0 if self.table is None else self.table.shape)

    def write_sums(self, sums: tuple[Tensor, Tensor, Tensor], dk: Tensor, dv: Tensor, dtable: Tensor) -> None:
        """Write the gradients of these keys and values, and add to that of the table (H, Tk)."""
        for whole, found in ((dk, sums[0]), (dv, sums[1])):
            whole.view(-1, *whole.shape[2:])[self.some] = found.mul_(LN2).mT.flip(1).to(whole.dtype)
        if self.table is not None:
            heads = torch.arange(self.some.start, self.some.stop, device=dk.device) % self.groups
            dtable.view(self.groups, self.share, -1).index_add_(0, heads, sums[2][..., MOST - 1 :])


class Strip:
    """Queries [start, stop) of a part and the keys that the last of them sees: n and e of them."""

    def __init__(self, part: Part, start: int, stop: int):
        self.part, self.n, self.first = part, stop - start, part.before + start
        self.rows = slice(start * part.share, stop * part.share)
        self.seen = slice(part.queries - stop, None)
        self.q = part.q[:, self.rows]  # (c, n r, D)
        self.k, self.v = part.k[:, self.seen], part.v[:, self.seen]  # (c, e, .)
        self.shape = (*self.q.shape[:2], self.k.shape[1])
        self.z = self.room(0)
        self.corner = self.z.unflatten(1, (self.n, -1))[..., : self.n]  # (c, n, r, n), where the future lies

    def room(self, index: int, more: int = 0) -> Tensor:
        """Return memory for one number a pair, (c, n r, e + more)."""
        shape = (*self.shape[:2], self.shape[2] + more)
        return self.part.flat[index][: math.prod(shape)].view(shape)

    def near(self, table: Tensor) -> Tensor:
        """Return what a table says of the distances 1 - MOST to MOST - 1 in the corner, (n, 1, n)."""
        return table.as_strided((self.n, 1, self.n), (1, 0, 1), MOST - self.n)

    def scores(self) -> Tensor:
        """Return the scores (c, n r, e) with the bias, in powers of 2; the future is inf, which no minimum is."""
        z, table = torch.bmm(self.q, self.k.mT, out=self.z), self.part.table
        if table is not None:
            strides = (table.stride(0), 1, table.stride(1), 1)
            split = z.unflatten(1, (self.n, -1))
            split += table.as_strided(split.shape, strides, MOST - self.n)
        self.corner.masked_fill_(self.near(self.part.future), math.inf)
        return z

    def lower_future(self) -> Tensor:
        """Return the scores, their future lowered from inf to -inf, which no maximum is."""
        torch.minimum(self.corner, self.near(self.part.lowered), out=self.corner)  # masked_fill_ is slow
        return self.z

    def clear_future(self) -> Tensor:
        """Return the scores, their future raised from -inf to 0."""
        torch.maximum(self.corner, self.near(self.part.cleared), out=self.corner)
        return self.z

    def search(self, sides: int) -> Attained | None:
        """Find the minima and, if there are two sides, the maxima of rows; the future is inf before.

        Extrema are taken of interleaved parts of rows, which is fast, and those parts that reach the row's are looked
        at closer.
        """
        if not sides:
            return None
        z = self.z
        (heads, rows, width), lanes = z.shape, math.gcd(z.shape[2], LANES)
        step = width // lanes
        extrema, values = z.new_empty(sides, heads * rows, step), z.new_empty(sides, heads * rows, 1)
        for side, extremum in enumerate((torch.amin, torch.amax)[:sides]):
            seen = self.lower_future() if side else self.z
            extremum(seen.view(-1, lanes, step), 1, out=extrema[side])
            extremum(extrema[side], 1, keepdim=True, out=values[side])
        extrema, values = extrema.flatten(0, 1), values.flatten(0, 1)
        row, part = (extrema == values).nonzero().unbind(1)  # rows of both sides
        places = (row % (heads * rows) * width + part)[:, None] + torch.arange(0, width, step, device=z.device)
        hit = z.view(-1)[places] == values[row]  # (., lanes)
        row = row[:, None].expand_as(hit)[hit]
        return Attained(places[hit], row, torch.bincount(row, minlength=len(values)))

    def add(self, sums: tuple[Tensor, Tensor, Tensor], dz: Tensor, w: Tensor, slope: Tensor) -> None:
        """Add the gradients of keys, values and table."""
        dk, dv, dtable = sums
        dk[..., self.seen].baddbmm_(self.q.mT, dz)
        dv[..., self.seen].baddbmm_(slope.mT, w)
        if self.part.table is not None:
            # rows are longer by n than the keys; read as if by n - 1, a distance stands in one column
            wide = self.room(0, self.n).unflatten(1, (self.n, -1))  # (c, n, r, e + n)
            wide[..., : -self.n], wide[..., -self.n :] = dz.view_as(wide[..., : -self.n]), 0
            (head, query, share, _), columns = wide.stride(), wide.shape[3] - 1
            sheared = wide.as_strided((*wide.shape[:3], columns), (head, query - 1, share, 1))
            dtable[..., MOST - self.n :][..., :columns] += sheared.sum(1)


class Attained(NamedTuple):
    """Where rows attain their extrema, of minima and behind them maxima.

    Attributes:
        places: (x,) in a flat strip.
        row: (x,) the row of each.
        ties: (sides c n r,) how often each is attained.
    """

    places: Tensor
    row: Tensor
    ties: Tensor

    def add(self, dz: Tensor, low: Tensor, counts: Tensor, most: Tensor) -> None:
        """Add to a gradient what moves with the extrema, given `_moves` of the rows."""
        moved = torch.cat([low - counts * dz.sum(-1, keepdim=True), -most]).view(-1)[: len(self.ties)]
        dz.view(-1).index_add_(0, self.places, (moved / self.ties)[self.row])
