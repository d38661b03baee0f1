"""Sums over equal distances of tiles, which is what the gradient of a table of distances is."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distances(tiles: Tensor, step: int, nearest: int, keys: int) -> Tensor:
    """Return sums over equal distances, in one order whatever the machine.

    Args:
        tiles: (C, n, a, b), of query r and column c; number o lies o steps behind its queries.
        step: columns from one tile to the next.
        nearest: distance of the first query and the last column of tile 0; negative or 0.
        keys: distances that are wanted.

    Returns:
        (C, keys), of distance 0 first.

    >>> import torch
    >>> distances(torch.tensor([[[[1.0, 0.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]]), 2, -1, 4)
    tensor([[ 4.,  7., 11.,  6.]])
    """
    channels, count, a, b = tiles.shape
    # a row of a + b numbers read as one less moves by one place in each row: diagonals become columns
    sheared = F.pad(tiles.flip(-1), (0, a)).flatten(2)[..., :-a].unflatten(-1, (a, a + b - 1))
    found = sheared.sum(2)  # (C, n, a + b - 1)
    parts = -(-found.shape[-1] // step)
    found = F.pad(found, (0, parts * step - found.shape[-1])).unflatten(-1, (parts, step))
    out = found.new_zeros(channels, count + parts, step)
    for part in range(parts):
        out[:, part : part + count] += found[:, :, part]
    return out.flatten(1)[:, -nearest : keys - nearest]
