"""DAPE on a CPU: its network on the pairs of a few rows at a time, beside a bias that is a table of distances.

Scores of a tile lie channel first, (H, texts, rows, pitch) seen as (H, pairs), so that the network is two matrix
products, and its map (W, pairs) never leaves the cache. What the bias adds to the map is a table too. Scores come out
as logarithms to base 2, for which the factor is folded into the second product: exp2 takes a third of the time of exp.

A kernel of k columns is one product on k shifted copies, (k H, pairs). Rows have k // 2 columns more than keys, zero
as the future is, and serve the row before and the row behind; chunks are whole rows, so no halo is ever computed.

Backward runs each tile again, from the logarithms of its sums. Gradients are added into slices, so memory is that of
one tile, O(tile Tk), beside inputs, gradients and tables.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention.backends.chunks import CHUNK, Chunk, Ruler, Tile, texts_at_once, tiles
from lissome.attention.backends.naive import spread
from lissome.attention.refine import SLOPE

LOG2E = math.log2(math.e)
_leaky_backward = torch.ops.aten.leaky_relu_backward.grad_input


class Numbers(NamedTuple):
    """A refinement and its bias in numbers; all of one dtype, in which everything is computed.

    Attributes:
        table: what is added to scores, (H, Tk) in the order of keys, or (H, 0) for nothing.
        hidden: what is added to the hidden map, (W, Tk) likewise.
        edge: what is added besides to the first k // 2 columns of the map, where part of the kernel lies outside:
            (k // 2, W, Tk), or none of them; column is Tk - 1 - the query's position.
        inner: the first layer, (W, k H); entry (t, h) reads t - k // 2 columns to the right.
        outer: the second layer, (k H, W); entry (t, h) reads t - k // 2 columns to the left.
    """

    table: Tensor
    hidden: Tensor
    edge: Tensor
    inner: Tensor
    outer: Tensor


class Network:
    """The network on chunks, and the room that it needs.

    Args:
        numbers: of it.
        residual: whether scores stay beside what the network finds.
        texts: that are run together.
        queries: of a text.
    """

    def __init__(self, numbers: Numbers, residual: bool, texts: int, queries: int):
        self.numbers, self.residual = numbers, residual
        (self.width, keys), self.heads = numbers.hidden.shape, len(numbers.table)
        self.kernel = numbers.inner.shape[1] // self.heads
        self.half = self.kernel // 2
        self.ruler = Ruler(queries, keys, self.half, numbers.hidden.device)
        self.hidden = self.ruler.long(numbers.hidden)
        self.table = self.ruler.long(numbers.table * LOG2E) if numbers.table.shape[1] else None
        self.outer = numbers.outer * LOG2E
        self.pairs = texts * self.ruler.rows * (keys + self.half)  # of the largest tile
        few = min(self.pairs, max(CHUNK, keys + self.half))  # of the largest chunk
        several = self.kernel * self.heads * few if self.half else 0
        self.map, self.sloped = self._room(self.width * few), self._room(self.width * few)
        self.beside, self.passing = self._room(several), self._room(several)  # shifted copies that stay, or do not

    def _room(self, numbers: int) -> Tensor:
        """Return room, with a margin of zeros at both ends that a shifted view may read."""
        room = torch.empty(numbers + 2 * self.half, dtype=self.hidden.dtype, device=self.hidden.device)
        room[: self.half] = room[self.half + numbers :] = 0
        return room

    def room(self) -> Tensor:
        """Return room for the scores of a tile."""
        return self._room(self.heads * self.pairs)

    def of_tile(self, flat: Tensor, tile: Tile) -> Tensor:
        """Return room as the scores of a tile, (H, texts, rows, pitch)."""
        shape = (self.heads, tile.texts, tile.rows, tile.pitch)
        return flat[self.half : self.half + self.heads * tile.pairs].view(shape)

    def of_chunk(self, flat: Tensor, tile: Tile, chunk: Chunk) -> Tensor:
        """Return room of a tile as the scores of a chunk, (H, pairs)."""
        start = self.half + chunk.first * chunk.pitch
        return flat.as_strided((self.heads, chunk.pairs), (tile.pairs, 1), start)

    def own(self, flat: Tensor, channels: int, chunk: Chunk) -> Tensor:
        """Return room of chunks as (channels, pairs)."""
        return flat[self.half : self.half + channels * chunk.pairs].view(channels, chunk.pairs)

    def shifted(self, flat: Tensor, tile: Tile, chunk: Chunk, room: Tensor) -> Tensor:
        """Return the scores of a chunk once per column of the kernel, (k H, pairs), in room if they are several."""
        if not self.half:
            return self.of_chunk(flat, tile, chunk)
        out = self.own(room, self.kernel * self.heads, chunk)
        shape = (self.kernel, self.heads, chunk.pairs)
        out.view(shape).copy_(flat.as_strided(shape, (1, tile.pairs, 1), chunk.first * chunk.pitch))
        return out

    def back(self, out: Tensor, factor: float, scores: Tensor, layer: Tensor, map: Tensor, chunk: Chunk) -> None:
        """Write factor * scores + layer @ map, (H, pairs), columns of the kernel shifted back: `shifted` transposed.

        Where factor is 0 the scores are not read.
        """
        if not self.half:
            torch.addmm(scores, layer, map, beta=factor, out=out)
            return
        torch.mm(layer, map, out=self.own(self.passing, len(layer), chunk))
        for tap in range(self.kernel):
            start = self.half + tap * self.heads * chunk.pairs + self.half - tap
            found = self.passing.as_strided(out.shape, (chunk.pairs, 1), start)
            if tap:
                out += found
            elif factor:
                torch.add(found, scores, alpha=factor, out=out)
            else:
                out.copy_(found)

    def read(self, read: Tensor, chunk: Chunk) -> Tensor:
        """Return the hidden map of scores as `shifted` gives them, (W, pairs)."""
        map = self.own(self.map, self.width, chunk)
        wide = chunk.split(map)
        wide.copy_(self.ruler.along(self.hidden, chunk))
        map.addmm_(self.numbers.inner, read)
        first = self.ruler.first(chunk)
        for column, more in enumerate(self.numbers.edge):
            wide[..., column] += more[:, None, first : first + chunk.rows]
        F.leaky_relu_(map, SLOPE)
        if self.half:
            self.ruler.close(wide, chunk, 0.0)
        return map

    def refine(self, out: Tensor, scores: Tensor, map: Tensor, chunk: Chunk) -> Tensor:
        """Write the refined scores to base 2, (H, pairs); return them as (H, texts * rows, pitch)."""
        self.back(out, LOG2E * self.residual, scores, self.outer, map, chunk)
        if self.table is not None:
            wide = chunk.split(out)
            wide += self.ruler.along(self.table, chunk)
        return out.view(self.heads, chunk.texts * chunk.rows, chunk.pitch)

    def total(self) -> Numbers:
        """Return room for the gradients of the numbers: tables are long, and `inner` is transposed."""
        table = self.numbers.table if self.table is None else self.table
        found = (table, self.hidden, self.numbers.edge, self.outer, self.outer)
        return Numbers(*(torch.zeros_like(x) for x in found))

    def short(self, total: Numbers) -> Numbers:
        """Return gradients in the shapes of the numbers."""
        (_, wide), (_, keys) = self.numbers.table.shape, self.numbers.hidden.shape
        table, hidden, edge, inner, outer = total
        return Numbers(table[:, :wide].clone(), hidden[:, :keys].clone(), edge, inner.mT.contiguous(), outer)

    def descend(self, total: Numbers, slopes: Tensor, tile: Tile, chunk: Chunk, read: Tensor, map: Tensor) -> None:
        """Turn the slopes of refined scores into those of scores, in place, and add those of the numbers to `total`.

        Args:
            total: see there.
            slopes: room of a tile.
            tile: of it.
            chunk: of it.
            read: what `read` was given, (k H, pairs).
            map: what it returned, (W, pairs).
        """
        dz, dmap = self.of_chunk(slopes, tile, chunk), self.own(self.sloped, self.width, chunk)
        wide, deep = chunk.split(dz), chunk.split(dmap)
        if self.table is not None:
            self.ruler.gather(total.table, wide, chunk)
        beside = self.shifted(slopes, tile, chunk, self.passing)
        total.outer.addmm_(beside, map.mT)
        torch.mm(self.numbers.outer.mT, beside, out=dmap)
        _leaky_backward(dmap, map, SLOPE, True, grad_input=dmap)
        if self.half:
            self.ruler.close(deep, chunk, 0.0)
        self.ruler.gather(total.hidden, deep, chunk)
        first = self.ruler.first(chunk)
        for column, found in enumerate(total.edge):
            found[:, first : first + chunk.rows] += deep[..., column].sum(1)
        total.inner.addmm_(read, dmap.mT)
        self.back(dz, float(self.residual), dz, self.numbers.inner.mT, dmap, chunk)
        if self.half:
            self.ruler.close(wide, chunk, 0.0)

    def close(self, rows: Tensor, chunk: Chunk, value: float) -> None:
        """Set the future in (H, texts * rows, pitch) to a value."""
        self.ruler.close(rows.unflatten(1, (chunk.texts, chunk.rows)), chunk, value)


def forward(q: Tensor, k: Tensor, v: Tensor, numbers: Numbers, scale: float, residual: bool) -> tuple[Tensor, Tensor]:
    """Mix values.

    Args:
        q: (B, H, Tq, D), of any dtype, as k and v are.
        k: (B, G, Tk, D).
        v: (B, G, Tk, Dv).
        numbers: of the refinement.
        scale: of the products.
        residual: whether scores stay beside what the network finds.

    Returns:
        (B, H, Tq, Dv), and the logarithm to base 2 of the sums of powers, (B, H, Tq); in the dtype of the numbers.
    """
    batch, heads, queries, _ = q.shape
    dtype = numbers.hidden.dtype
    texts = texts_at_once(batch, queries, k.shape[2])
    net = Network(numbers, residual, texts, queries)
    out, lse = (
        q.new_empty(batch, heads, queries, v.shape[3], dtype=dtype),
        q.new_empty(batch, heads, queries, dtype=dtype),
    )
    flat = net.room()
    for start in range(0, batch, texts):
        now = slice(start, start + texts)
        asked, keyed, valued = (_stack(x[now], heads, dtype) for x in (q, k, v))
        for tile in tiles(len(q[now]), queries, k.shape[2], net.half):
            scores = _products(net, flat, tile, asked[:, tile.start : tile.stop].flip(1).mul_(scale), keyed)
            top, sums = scores.new_empty(2, heads, tile.texts * tile.rows, 1)
            for chunk in tile.chunks():
                z = net.of_chunk(flat, tile, chunk)
                rows = net.refine(z, z, net.read(net.shifted(flat, tile, chunk, net.passing), chunk), chunk)
                net.close(rows, chunk, -math.inf)
                torch.amax(rows, -1, keepdim=True, out=top[:, chunk.span])
                rows.sub_(top[:, chunk.span]).exp2_()
                torch.sum(rows, -1, keepdim=True, out=sums[:, chunk.span])
            mixed = torch.bmm(_seen(scores, tile), valued[:, : tile.keys]).view(*scores.shape[:3], -1)
            mixed /= sums.view(*scores.shape[:3], 1)
            out[now, :, tile.start : tile.stop] = mixed.flip(2).transpose(0, 1)
            lse[now, :, tile.start : tile.stop] = (sums.log2_() + top).view(scores.shape[:3]).flip(2).transpose(0, 1)
    return out, lse


def backward(
    slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    numbers: Numbers,
    out: Tensor,
    lse: Tensor,
    scale: float,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Numbers]:
    """Return the gradients of q, k, v and the numbers; `slope` is that of `out`, and the rest is as in `forward`."""
    batch, heads, queries, _ = q.shape
    dtype = numbers.hidden.dtype
    texts = texts_at_once(batch, queries, k.shape[2])
    net = Network(numbers, residual, texts, queries)
    flat, powers, slopes = net.room(), net.room(), net.room()
    found = [torch.empty_like(x) for x in (q, k, v)]
    total = net.total()
    for start in range(0, batch, texts):
        now = slice(start, start + texts)
        asked, keyed, valued, mixed, sloped = (_stack(x[now], heads, dtype) for x in (q, k, v, out, slope))
        logs, means = lse[now].transpose(0, 1).flatten(0, 1), (mixed * sloped).sum(-1)  # (H * texts, Tq)
        dq, dk, dv = torch.empty_like(asked), torch.zeros_like(keyed), torch.zeros_like(valued)
        for tile in tiles(len(q[now]), queries, k.shape[2], net.half):
            here, seen = slice(tile.start, tile.stop), slice(0, tile.keys)
            turned, dout = asked[:, here].flip(1).mul_(scale), sloped[:, here].flip(1)
            log, mean = (x[:, here].flip(1).reshape(heads, -1, 1) for x in (logs, means))
            _products(net, flat, tile, turned, keyed)
            ds = _products(net, slopes, tile, dout, valued)
            for chunk in tile.chunks():
                read, p = net.shifted(flat, tile, chunk, net.beside), net.of_chunk(powers, tile, chunk)
                map = net.read(read, chunk)
                rows = net.refine(p, net.of_chunk(flat, tile, chunk), map, chunk)
                rows.sub_(log[:, chunk.span]).exp2_()
                net.close(rows, chunk, 0.0)
                dz = net.of_chunk(slopes, tile, chunk)
                dz.view(rows.shape).sub_(mean[:, chunk.span]).mul_(rows)
                net.descend(total, slopes, tile, chunk, read, map)
            p, ds = _seen(net.of_tile(powers, tile), tile), _seen(ds, tile)
            dv[:, seen].baddbmm_(p.mT, dout)
            dk[:, seen].baddbmm_(ds.mT, turned)
            dq[:, here] = torch.bmm(ds, keyed[:, seen]).flip(1).mul_(scale)
        for whole, x in zip(found, (dq, dk, dv), strict=True):
            whole[now] = _unstack(x, heads, whole.shape[1])
    return found[0], found[1], found[2], net.short(total)


def _stack(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Return (B, G, T, D) as (H * B, T, D), once per head of a group."""
    return spread(x.to(dtype), heads).transpose(0, 1).reshape(-1, *x.shape[2:])


def _unstack(x: Tensor, heads: int, groups: int) -> Tensor:
    """Return (H * B, T, D) as (B, G, T, D), summed over the heads of a group."""
    return x.unflatten(0, (groups, heads // groups, -1)).sum(1).transpose(0, 1)


def _products(net: Network, flat: Tensor, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
    """Write (H * texts, rows, D) by (H * texts, Tk, D) into room of a tile; return (H, texts, rows, pitch)."""
    out = net.of_tile(flat, tile)
    torch.bmm(rows, columns[:, : tile.keys].mT, out=_seen(out, tile))
    if net.half:
        net.ruler.close(out, tile.whole, 0.0)
        flat[net.half + out.numel() :][: net.half] = 0  # the margin of a smaller tile
    return out


def _seen(x: Tensor, tile: Tile) -> Tensor:
    """Return (H, texts, rows, pitch) as (H * texts, rows, keys)."""
    return x.flatten(0, 1)[..., : tile.keys]
