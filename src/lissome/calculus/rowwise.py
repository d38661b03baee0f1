"""The Jacobian of a function whose rows stand alone: as many backward passes as one row has numbers.

Where r_n depends on row n of the data alone, the backward pass of every row runs at once, and what it leaves before
the sum over rows is row n of the Jacobian: one pass in place of N (arXiv 2006.15270 calls it a per-sample gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import vjp, vmap

Rows = Mapping[str, Tensor]
CHUNK_NUMBERS = 4_000_000  # numbers of the Jacobian made at once


def rowwise(
    f: Callable[[Rows, Rows], Tensor], tensors: Rows, rows: Rows, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the values and the Jacobian in the tensors of a function of rows.

    Args:
        f: from the tensors and rows (name -> (n, ...)) to (n, c); row by row, for any n.
        tensors: name -> tensor, p numbers in all.
        rows: name -> (N, ...).
        chunk: rows done at once; None bounds the memory.

    Returns:
        values (N, c) and the Jacobian (N c, p), without graph.

    >>> line = lambda tensors, rows: rows["x"] @ tensors["w"]
    >>> rowwise(line, {"w": torch.ones(2, 1)}, {"x": torch.eye(2)})[1]
    tensor([[1., 0.],
            [0., 1.]])
    """
    count, p = len(next(iter(rows.values()))), sum(tensor.numel() for tensor in tensors.values())

    def one(row: Rows) -> tuple[Tensor, list[Rows]]:
        alone = {name: each[None] for name, each in row.items()}
        values, pull = vjp(lambda tensors: f(tensors, alone)[0], tensors)  # pyright: ignore[reportAssignmentType]
        return values, [pull(unit)[0] for unit in torch.eye(len(values), dtype=values.dtype, device=values.device)]

    out, values, start = None, [], 0
    for piece in _pieces(rows, chunk or max(1, min(count, CHUNK_NUMBERS // p))):
        found, gradients = vmap(one)(piece)  # (n, c), and c dicts of (n, ...)
        values.append(found)
        n, c = found.shape
        if out is None:
            out = found.new_empty(count * c, p)
        block = out[start * c : (start + n) * c].view(n, c, p)
        for k, gradient in enumerate(gradients):
            place = 0
            for name, tensor in tensors.items():
                block[:, k, place : place + tensor.numel()] = gradient[name].reshape(n, -1)
                place += tensor.numel()
        start += n
    assert out is not None
    return torch.cat(values), out


def _pieces(rows: Rows, size: int) -> list[Rows]:
    cut = {name: each.split(size) for name, each in rows.items()}
    return [dict(zip(cut, parts, strict=True)) for parts in zip(*cut.values(), strict=True)]
