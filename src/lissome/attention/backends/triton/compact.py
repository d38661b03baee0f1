"""Softmax over near keys and kept ones on a GPU: the kernels of `compact_kernels` as two functions on tensors.

The host asks the GPU for no number: which keys are kept and how many stays there, so launches do not wait, and each
text of a batch has its own. Kept keys are read where they lie, a row of a head being a few whole lines of memory, and
not gathered. Forward has two products a pair; backward seven, as nothing is added by atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention.backends.triton import compact_kernels as kernels
from lissome.attention.backends.triton.shapes import Tile, parts, power, start, sums, sums_of, widest

SHARED = 97 << 10  # as compiled for Hopper: 25 to 97 KB


class Kept(NamedTuple):
    """Which keys are kept, and which are there at all.

    Attributes:
        counts: (1 or B, Tk + 1) int32, kept keys among the first n.
        places: (1 or B, Tk + 1) int32, where each of them stands.
        spans: (B, 2) int32, the first column of each text and the one after its last; None: all columns are there.
    """

    counts: Tensor
    places: Tensor
    spans: Tensor | None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    present: Tensor | None,
    near: int,
    scale: float,
    *,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mix of values and the logarithm of each row's sum; 0 and 0 in rows of padding.

    Args:
        q: (B, H, Tq, D), the last Tq of Tk queries.
        k: (B, G, Tk, D), G a divisor of H.
        v: (B, G, Tk, Dv).
        kept: (1 or B, Tk) bool, keys that all later queries see.
        present: (1 or B, Tk) bool, the columns of each text, in one piece; None: all.
        near: keys that a query sees besides, up to itself.
        scale: of the products.
        precision: of products of float32: ieee, tf32x3 or tf32.
        tile: sizes, None is by shape.

    Returns:
        (B, H, Tq, Dv) and (B, H, Tq), in at least float32.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    tile = tile or _forward_tile(q, v)
    batch, heads, rows, _ = q.shape
    out = torch.empty(batch, heads, rows, v.shape[3], dtype=sums_of(q), device=q.device)
    logs = torch.empty(batch, heads, rows, dtype=sums_of(q), device=q.device)
    found = found_of(kept, present, batch)
    given = (*_given(q, k, v, found), out, logs, *_sizes(q, k, v, found, near), scale)
    told = _constants(q, v, found, precision)
    start(kernels.forward_kernel, (parts(rows, tile.queries), batch * heads), given, told, tile)
    return out, logs


def backward(
    slope: Tensor,
    out: Tensor,
    logs: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    present: Tensor | None,
    near: int,
    scale: float,
    *,
    precision: str = "ieee",
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v.

    Args:
        slope: of the output, (B, H, Tq, Dv).
        out: what `forward` gave.
        logs: what it gave besides.
        q: as in `forward`, with k, v, kept, present, near, scale, precision and tile.
        k: see there.
        v: see there.
        kept: see there.
        present: see there.
        near: see there.
        scale: see there.
        precision: see there.
        tile: see there.
    """
    q, k, v, out, logs, slope = (x.contiguous() for x in (q, k, v, out, logs, slope.to(v.dtype)))
    batch, heads, rows, _ = q.shape
    groups, keys = k.shape[1:3]
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    owns, found = torch.empty_like(logs), found_of(kept, present, batch)
    given, sizes = _given(q, k, v, found), (*_sizes(q, k, v, found, near), scale)
    told = _constants(q, v, found, precision)
    cut = tile or _queries_tile(q, v)
    every = (*given, out, slope, logs, dq, owns, *sizes)
    start(kernels.queries_kernel, (parts(rows, cut.queries), batch * heads), every, told, cut)
    cut = tile or _keys_tile(q, v)
    every = (*given, slope, logs, owns, dk, dv, *sizes)
    for kernel in (kernels.kept_kernel, kernels.near_kernel):
        start(kernel, (parts(keys, cut.keys), batch * groups), every, told, cut)
    return dq, dk, dv


def found_of(kept: Tensor, present: Tensor | None, batch: int) -> Kept:
    """Return where the kept keys of `batch` texts stand, and where the texts do; arguments as of `forward`."""
    keys, spans = kept.shape[1], None
    if present is not None:
        kept = kept & present
        first, behind = (x.int().argmax(1) for x in (present, present.flip(1)))
        last = torch.where(present.any(1), keys - behind, 0)
        spans = torch.stack((first, last), 1).int().expand(batch, 2).contiguous()
    counts = F.pad(kept, (1, 0)).cumsum(1, dtype=torch.int32)  # (1 or B, Tk + 1)
    places = torch.zeros_like(counts)
    columns = torch.arange(keys, dtype=torch.int32, device=kept.device).expand_as(kept)
    places.scatter_(1, torch.where(kept, counts[:, :-1], keys).long(), columns)  # the last place holds what is not kept
    return Kept(counts, places, spans)


# Sizes as in `self_adjust`: the sums of a tile take half of the registers, so that hardly any kernel spills.


def _forward_tile(q: Tensor, v: Tensor) -> Tile:
    if q.element_size() > 2:
        return _small_tile(q, v)
    return Tile(128, 64, 8, 3) if widest(q, v) <= 64 else Tile(128, 64, 8, 2)


def _queries_tile(q: Tensor, v: Tensor) -> Tile:
    if q.element_size() > 2:
        return _small_tile(q, v)
    return Tile(128, 64, 8, 2) if widest(q, v) <= 64 else Tile(128, 32, 8, 2)


def _keys_tile(q: Tensor, v: Tensor) -> Tile:
    if q.element_size() > 2:
        return Tile(32, 32, 8, 2)
    return Tile(64, 64, 8, 2) if widest(q, v) <= 64 else Tile(32, 64, 8, 2)


def _small_tile(q: Tensor, v: Tensor) -> Tile:
    return Tile(32, 32, 4, 2) if widest(q, v) <= 64 else Tile(32, 16, 8, 2)


def _given(q: Tensor, k: Tensor, v: Tensor, found: Kept) -> tuple[Tensor, ...]:
    # a kernel of texts without padding reads no span
    return q, k, v, found.counts, found.places, found.counts if found.spans is None else found.spans


def _sizes(q: Tensor, k: Tensor, v: Tensor, found: Kept, near: int) -> tuple[int, ...]:
    keys = k.shape[2]
    apart = keys + 1 if len(found.counts) > 1 else 0  # numbers from one text's counts to the next's
    return q.shape[1], k.shape[1], q.shape[2], keys, q.shape[3], v.shape[3], apart, min(near, keys)


def _constants(q: Tensor, v: Tensor, found: Kept, precision: str) -> dict[str, Any]:
    sides = {"BD": power(q.shape[3]), "BV": power(v.shape[3])}
    return {"PADDED": found.spans is not None, **sides, "PREC": precision, "ACC": sums(q)}
