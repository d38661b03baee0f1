"""DAPE and DAPE V2 over causal texts on a GPU: the kernels of `dape_kernels` as two functions on tensors.

Forward and backward hold one tile of pairs per program, so memory is O(T) beside inputs and gradients. Backward runs a
tile four times, for queries, keys, values and parameters: nothing is added by atomics, and the last bits are the same
in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention.backends.triton import dape_kernels as kernels
from lissome.attention.backends.triton.distances import distances
from lissome.attention.backends.triton.shapes import Tile, parts, power, start, sums, sums_of

SHARED = 200 << 10  # as compiled for Hopper: 122 to 196 KB
HEADS, WIDTH, KERNELS = 16, 32, (1, 3)  # up to which scores and the map of a tile stay in registers
ROOM = 2**11  # bytes of a row of all heads: a tile of queries, keys, values and slopes is shared memory at once


def refusal(q: Tensor, v: Tensor, width: int, kernel: int) -> str:
    """Return why the kernels do not fit such heads and such a network, or nothing.

    A wider kernel is right too, but its tiles are larger than the shared memory of a Hopper GPU.
    """
    if kernel not in KERNELS:
        return f"the kernel of dape is {kernel}, and they take 1 and 3"
    if width > WIDTH:
        return f"the width of dape is {width}, and they take up to {WIDTH}"
    heads, dimension = q.shape[1], max(q.shape[3], v.shape[3])
    if heads > HEADS or power(heads) * power(dimension) * q.element_size() > ROOM:
        return f"{heads} heads of {dimension} numbers in {q.dtype} do not fit, {HEADS} of 64 in half precision would"
    return ""


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    hidden: Tensor,
    edge: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: float,
    residual: bool,
    *,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor]:
    """Return the mix of values and what `backward` needs of each row.

    Args:
        q: (B, H, Tq, D), the last Tq of Tk queries.
        k: (B, G, Tk, D), G a divisor of H.
        v: (B, G, Tk, Dv).
        table: what is added to scores, (H, Tk) in the order of keys as the last query sees them; (H, 0) for nothing.
        hidden: what is added to the hidden map, (W, Tk) likewise.
        edge: what is added besides to the first K // 2 columns of the map, (K // 2, W, Tk), in the order of distances
            of a query from the last one; or none of them.
        inner: the first layer, (W, K H); entry (t, h) reads t - K // 2 columns to the right.
        outer: the second layer, (K H, W); entry (t, h) reads t - K // 2 columns to the left.
        scale: of the products.
        residual: whether scores stay beside what the network finds.
        precision: of products of float32, ieee, tf32x3 or tf32; the network of half precision has tf32.

    Returns:
        (B, H, Tq, Dv), and the logarithms of the sums of rows, (B, H, Tq), both in at least float32.
    """
    call = _Call(q, k, v, table, hidden, edge, inner, outer, scale, residual, precision)
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=sums_of(q), device=q.device)
    logs = torch.empty(q.shape[:3], dtype=out.dtype, device=q.device)
    call.run(kernels.forward_kernel, call.tiles_of_queries, out, logs)
    return out, logs


def backward(
    slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    hidden: Tensor,
    edge: Tensor,
    inner: Tensor,
    outer: Tensor,
    out: Tensor,
    logs: Tensor,
    scale: float,
    residual: bool,
    *,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, table, hidden, edge, inner and outer.

    Args:
        slope: of the output, (B, H, Tq, Dv).
        q: as in `forward`, and so are the others.
        k: see there.
        v: see there.
        table: see there.
        hidden: see there.
        edge: see there.
        inner: see there.
        outer: see there.
        out: what `forward` gave.
        logs: what it gave besides.
        scale: see there.
        residual: see there.
        precision: see there.
    """
    call = _Call(q, k, v, table, hidden, edge, inner, outer, scale, residual, precision)
    slope, out, (batch, heads, rows, _) = slope.to(v.dtype).contiguous(), out.contiguous(), q.shape
    keys, width, half = k.shape[2], len(hidden), call.told["K"] // 2
    new = {"dtype": out.dtype, "device": q.device}
    dq, dl = torch.empty_like(call.q), torch.empty_like(logs)
    dedge = torch.empty(batch, len(edge), width, rows, **new)
    call.run(kernels.queries_kernel, call.tiles_of_queries, out, slope, logs, dl, dq, dedge)
    shared = {"dtype": k.dtype if k.shape[1] == heads else out.dtype, "device": q.device}
    dk, dv = (torch.empty(batch, heads, keys, x.shape[3], **shared) for x in (k, v))
    # what keys and parameters hold at once does not fit in wider tiles: 280 KB shared, or more sums than registers
    small = min(call.tile.keys, 16 if half < 2 else 32)
    call.run(kernels.keys_kernel, call.tiles_of_keys(4 * half, small), slope, logs, dl, dk, columns=small)
    call.run(kernels.values_kernel, call.tiles_of_keys(2 * half, call.tile.keys), slope, logs, dv)
    step, a, b = small - 8 * half, call.tile.queries, small
    count = parts(keys - rows + call.tiles_of_queries * a, step)
    dinner = torch.zeros(batch, count, *call.weights[0].shape, **new)
    douter = torch.zeros(batch, count, *call.weights[1].shape, **new)
    tiles = [torch.empty(batch, count, x.shape[-2], a, b, **new) for x in (douter, dinner)]
    call.run(kernels.parameters_kernel, count, slope, logs, dl, dinner, douter, *tiles, columns=small)
    found = [x.sum(0).transpose(0, 1) for x in tiles]  # (H or W, n, a, b)
    by_distance = [distances(x, step, 1 - a - 4 * half, keys).flip(-1) for x in found]
    dedge = F.pad(dedge.sum(0).flip(-1), (0, keys - rows))
    return (
        dq,
        _together(dk, k),
        _together(dv, v),
        by_distance[0][:heads].to(table.dtype) if table.shape[1] else torch.zeros_like(table),
        by_distance[1][:width].to(hidden.dtype),
        dedge.to(edge.dtype),
        dinner.sum((0, 1))[:, :width, :heads].transpose(0, 1).flatten(1).to(inner.dtype),
        douter.sum((0, 1)).flip(0)[:, :heads, :width].flatten(0, 1).to(outer.dtype),
    )


class _Call:
    """What all kernels are told, and how they are started."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        hidden: Tensor,
        edge: Tensor,
        inner: Tensor,
        outer: Tensor,
        scale: float,
        residual: bool,
        precision: str,
    ):
        heads, width = q.shape[1], len(hidden)
        kernel = inner.shape[1] // heads
        self.tile = _tile(kernel)
        hp, wp = power(heads), power(width)
        self.q, self.batch, self.keys = q.contiguous(), q.shape[0], k.shape[2]
        self.tiles_of_queries = parts(q.shape[2], self.tile.queries)
        new = {"dtype": sums_of(q), "device": q.device}
        self.weights = torch.zeros(kernel, wp, hp, **new), torch.zeros(kernel, hp, wp, **new)
        self.weights[0][:, :width, :heads] = inner.unflatten(1, (kernel, heads)).transpose(0, 1)
        self.weights[1][:, :heads, :width] = outer.unflatten(0, (kernel, heads)).flip(0)
        tables = [x.to(new["dtype"]).contiguous() for x in (table, hidden, edge)]
        self.given = (self.q, k.contiguous(), v.contiguous(), *tables, *self.weights)
        self.sizes = (heads, heads // k.shape[1], width, q.shape[2], self.keys, q.shape[3], v.shape[3], scale)
        self.told = {
            "RESIDUAL": residual,
            "BIASED": table.shape[1] > 0,
            "EDGES": len(edge),
            "K": kernel,
            "HP": hp,
            "WP": wp,
            "BD": power(q.shape[3]),
            "BV": power(v.shape[3]),
            "PREC": precision,
            "NET": precision if q.element_size() > 2 else "tf32",
            "ACC": sums(q),
        }

    def tiles_of_keys(self, margin: int, columns: int) -> int:
        """Return how many programs of so many columns, less a margin on either side, cover all keys."""
        return parts(self.keys, columns - 2 * margin)

    def run(self, kernel: Any, programs: int, *more: Tensor, columns: int = 0) -> None:
        """Start a kernel, so many programs for each text."""
        tile = self.tile._replace(keys=columns or self.tile.keys)
        start(kernel, (programs, self.batch), (*self.given, *more, *self.sizes), self.told, tile)


def _tile(kernel: int) -> Tile:
    # sums of 16 heads by 16 queries by 64 numbers are 64 KB of the 256 KB of registers, a hidden map 32 to 64 KB
    return Tile(16, 16, 8, 1) if kernel == 1 else Tile(16, 32, 8, 1)


def _together(x: Tensor, like: Tensor) -> Tensor:
    """Return gradients (B, H, T, D) summed over the heads of a group, as keys or values (B, G, T, D) are."""
    return x if x.shape == like.shape else x.unflatten(1, (like.shape[1], -1)).sum(2).to(like.dtype)
