r"""Eigenvectors of a symmetric matrix as a product of two factors, which is enough to change coordinates.

    B = Q T Q^T,   T = Z diag(l) Z^T,   eigenvectors Q Z

Q is kept as the reflections that make T tridiagonal, and Q Z is never formed: of the 9 p^3 operations that eigenvectors
cost, more than half go. Float64, one thread: 5 ms in place of 16 at p = 300, 190 in place of 390 at p = 1,000.

Reference: G. Golub, C. Van Loan, Matrix Computations (2013), section 8.3.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from lissome._errors import RunError

NAMES = ("sytrd", "stevd", "ormqr")
LAPACK: dict[torch.dtype, Any] = {
    torch.float32: get_lapack_funcs(NAMES, dtype="f"),
    torch.float64: get_lapack_funcs(NAMES, dtype="d"),
}
FEW = 32  # below it calls cost more than the work
BLOCK = 64  # columns that LAPACK reflects at once


class Eigenvectors(Protocol):
    """An orthogonal change of coordinates."""

    def into(self, x: Tensor) -> Tensor:
        """Return the coordinates of x (p,) along the eigenvectors."""
        ...

    def back(self, y: Tensor) -> Tensor:
        """Return the vector (p,) that has the coordinates y (p,)."""
        ...


def eigen(B: Tensor) -> tuple[Tensor, Eigenvectors]:
    """Return the eigenvalues (p,), rising, and the eigenvectors of a symmetric B (p, p); only its lower half is read.

    Raises:
        RunError: B is not finite, or overflows.

    >>> values, vectors = eigen(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> values, vectors.into(torch.tensor([1.0, 1.0])).abs()
    (tensor([1., 3.]), tensor([0.0000, 1.4142]))
    """
    if B.device.type != "cpu" or B.dtype not in LAPACK or len(B) < FEW:
        values, vectors = torch.linalg.eigh(B)
        return values, Formed(vectors)
    reduce, solve, _ = LAPACK[B.dtype]
    reflections, diagonal, off, scales, _ = reduce(B.numpy(), lower=1, lwork=BLOCK * len(B))
    if not (np.isfinite(diagonal).all() and np.isfinite(off).all()):
        raise RunError("a matrix whose eigenvectors are wanted is not finite; scale the problem, or use float64")
    values, vectors, failed = solve(diagonal, off)
    if failed:
        raise RunError("the eigenvalues of a matrix were not found; scale the problem, or use float64")
    return torch.from_numpy(values), Factored(reflections, scales, torch.from_numpy(vectors))


class Formed:
    """Eigenvectors as the columns of a matrix."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors

    def into(self, x: Tensor) -> Tensor:
        """Return the coordinates of x (p,)."""
        return self.vectors.mT @ x

    def back(self, y: Tensor) -> Tensor:
        """Return the vector (p,) with the coordinates y (p,)."""
        return self.vectors @ y


class Factored:
    """Eigenvectors Q Z, with Q as LAPACK leaves its reflections."""

    def __init__(self, reflections: Any, scales: Any, vectors: Tensor):
        self.reflections, self.scales, self.vectors = reflections, scales, vectors
        self.reflect = LAPACK[vectors.dtype][2]

    def into(self, x: Tensor) -> Tensor:
        """Return the coordinates of x (p,)."""
        return self.vectors.mT @ self._turned(x, "T")

    def back(self, y: Tensor) -> Tensor:
        """Return the vector (p,) with the coordinates y (p,)."""
        return self._turned(self.vectors @ y, "N")

    def _turned(self, x: Tensor, how: str) -> Tensor:
        out = x.clone()
        # the first coordinate is left as it is, and the reflections stand below the diagonal
        turned, _, _ = self.reflect("L", how, self.reflections[1:, :-1], self.scales, x[1:, None].numpy(), lwork=BLOCK)
        out[1:] = torch.from_numpy(turned)[:, 0]
        return out
