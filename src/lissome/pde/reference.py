"""Numeric references: a cache of arrays on disk, and interpolation on their grids."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from lissome._files import place

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Return where references are kept: $XDG_CACHE_HOME/lissome, else ~/.cache/lissome."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lissome"


def cached(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a key from disk, or make and keep them.

    A file that is missing or cannot be read is made anew; a folder that cannot be written to costs only time.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    path = cache_folder() / f"reference-{digest}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):
        return load_file(path)
    arrays = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    return arrays


def interpolate(grid: Tensor, s: Tensor, x: Tensor, order: int = 6) -> Tensor:
    """Interpolate values (S, X) on [0, 1]^2 at points s, x (N,), by polynomials of `order` points in each direction.

    The grid is even about both ends of x, so its values are reflected there; at the ends of s the points move inward.

    >>> squares = torch.linspace(0, 1, 9)[:, None] ** 2 * torch.ones(9)
    >>> round(float(interpolate(squares, torch.tensor([0.3]), torch.tensor([0.9]))), 4)
    0.09
    """
    inner = torch.arange(order, device=grid.device)
    row, column = s * (grid.shape[0] - 1), x * (grid.shape[1] - 1)
    top = (row.floor().long() - (order // 2 - 1)).clamp(0, grid.shape[0] - order)
    left = column.floor().long() - (order // 2 - 1)
    last = grid.shape[1] - 1
    columns = last - (last - (left[:, None] + inner).abs()).abs()
    values = grid[(top[:, None] + inner)[:, :, None], columns[:, None, :]]  # (N, order, order)
    return torch.einsum("nij,ni,nj->n", values, _lagrange(row - top, order), _lagrange(column - left, order))


def _lagrange(offset: Tensor, order: int) -> Tensor:
    """Return the weights (N, order) of the points 0 ... order - 1 at the offsets (N,)."""
    nodes = torch.arange(order, dtype=offset.dtype, device=offset.device)
    out = []
    for i in range(order):
        others = torch.cat([nodes[:i], nodes[i + 1 :]])
        out.append(((offset[:, None] - others) / (i - others)).prod(1))
    return torch.stack(out, 1)
