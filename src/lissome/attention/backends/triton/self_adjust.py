"""SA-Softmax over causal texts on a GPU: the kernels of `self_adjust_kernels` as two functions on tensors.

Forward is one pass with three products where softmax attention has two; it keeps three numbers per row. Backward
computes scores and slopes of weights once for queries and once for keys: seven products, as softmax attention has where
nothing is added by atomics, so the last bits are the same in every run. A table costs two more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lissome.attention.backends.triton import self_adjust_kernels as kernels
from lissome.attention.backends.triton.distances import distances
from lissome.attention.backends.triton.shapes import Tile, parts, power, start, sums, sums_of, widest
from lissome.attention.normalize import EPS

SHARED = 128 << 10  # as compiled for Hopper: 32 to 128 KB


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    variant: int,
    detach: bool,
    scale: float,
    *,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mix of values and what `backward` needs of each row.

    Args:
        q: (B, H, Tq, D), the last Tq of Tk queries.
        k: (B, G, Tk, D), G a divisor of H.
        v: (B, G, Tk, Dv).
        table: (H, Tk), the bias at each distance, or None.
        variant: 1 to 4.
        detach: whether extrema are constants, which the gradient alone asks for.
        scale: of the products.
        precision: of products of float32: ieee, tf32x3 or tf32.
        tile: sizes, None is by shape.

    Returns:
        (B, H, Tq, Dv), and (3, B, H, Tq) with largest and least score and total of each row, both in at least float32.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    tile = tile or _forward_tile(q, v)
    batch, heads, rows, _ = q.shape
    out = torch.empty(batch, heads, rows, v.shape[3], dtype=sums_of(q), device=q.device)
    known = torch.empty(3, batch, heads, rows, dtype=sums_of(q), device=q.device)
    given = (q, k, v, _given(table, q), out, *known, *_sizes(q, k, v), scale, EPS)
    told = {"VARIANT": variant, **_constants(q, v, table, precision)}
    start(kernels.forward_kernel, (parts(rows, tile.queries), batch * heads), given, told, tile)
    return out, known


def backward(
    slope: Tensor,
    out: Tensor,
    known: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    variant: int,
    detach: bool,
    scale: float,
    *,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and table; that of no table is empty.

    Args:
        slope: of the output, (B, H, Tq, Dv).
        out: what `forward` gave.
        known: what it gave besides.
        q: as in `forward`, with k, v, table, variant, detach, scale, precision and tile.
        k: see there.
        v: see there.
        table: see there.
        variant: see there.
        detach: see there.
        scale: see there.
        precision: see there.
        tile: see there; square.
    """
    q, k, v, out, slope = (x.contiguous() for x in (q, k, v, out, slope.to(v.dtype)))
    batch, heads, rows, _ = q.shape
    groups, keys = k.shape[1:3]
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    dl, down, up = torch.empty_like(known)
    lowest, highest = torch.empty(2, batch, heads, rows, dtype=torch.int32, device=q.device)
    given, sizes = _given(table, q), (*_sizes(q, k, v), scale, EPS)
    told = {"VARIANT": variant, "DETACH": detach, **_constants(q, v, table, precision)}
    every = (q, k, v, given, out, slope, *known, dq, dl, lowest, highest, down, up, *sizes)
    cut = tile or _queries_tile(q, v)
    start(kernels.queries_kernel, (parts(rows, cut.queries), batch * heads), every, told, cut)
    each = (q, k, v, given, slope, *known, dl, lowest, highest, down, up)
    cut = tile or _keys_tile(q, v)
    start(kernels.keys_kernel, (parts(keys, cut.keys), batch * groups), (*each, dk, dv, *sizes), told, cut)
    if table is None:
        return dq, dk, dv, known.new_empty(0)
    cut = tile or _table_tile(q, v)
    side = cut.keys
    apart = parts(keys - rows + parts(rows, side) * side, side)
    tiles = torch.empty(heads, apart, side, side, dtype=known.dtype, device=q.device)
    start(kernels.table_kernel, (apart, heads), (*each, tiles, batch, *sizes), told, cut)
    return dq, dk, dv, distances(tiles, side, 1 - side, keys).to(table.dtype)


# Sizes are those at which the sums of a tile, two of (queries, Dv) forward and of (keys, D) for keys, take half of the
# registers, so that hardly any kernel spills as compiled for Hopper; products of float32 take more of them.


def _forward_tile(q: Tensor, v: Tensor) -> Tile:
    if q.element_size() > 2:
        return _small_tile(q, v)
    return Tile(128, 64, 8, 3) if widest(q, v) <= 64 else Tile(128, 32, 8, 2)


def _queries_tile(q: Tensor, v: Tensor) -> Tile:
    return _small_tile(q, v) if q.element_size() > 2 else Tile(128, 32, 8, 2)


def _keys_tile(q: Tensor, v: Tensor) -> Tile:
    if q.element_size() > 2:
        return _small_tile(q, v)
    return Tile(32, 128, 8, 2) if widest(q, v) <= 64 else Tile(32, 64, 8, 2)


def _table_tile(q: Tensor, v: Tensor) -> Tile:
    return _small_tile(q, v) if q.element_size() > 2 else Tile(64, 64, 8, 2)


def _small_tile(q: Tensor, v: Tensor) -> Tile:
    return Tile(32, 32, 4 if widest(q, v) <= 64 else 8, 2)


def _given(table: Tensor | None, q: Tensor) -> Tensor:
    return q if table is None else table.contiguous()  # a kernel without bias reads no number of it


def _sizes(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    return q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]


def _constants(q: Tensor, v: Tensor, table: Tensor | None, precision: str) -> dict[str, Any]:
    sides = {"BD": power(q.shape[3]), "BV": power(v.shape[3])}
    return {"BIASED": table is not None, **sides, "PREC": precision, "ACC": sums(q)}
