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

NAMES = ("sytrd", "sterf", "stevd", "pttrf", "ormqr")
LAPACK: dict[torch.dtype, dict[str, Any]] = {
    dtype: dict(zip(NAMES, get_lapack_funcs(NAMES, dtype=letter), strict=True))
    for dtype, letter in ((torch.float32, "f"), (torch.float64, "d"))
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
    if not reducible(B):
        values, vectors = torch.linalg.eigh(B)
        return values, Formed(vectors)
    return Tridiagonal(B).eigen()


def reducible(B: Tensor) -> bool:
    """Say whether `Tridiagonal` takes B, and pays."""
    return B.device.type == "cpu" and B.dtype in LAPACK and len(B) >= FEW


class Tridiagonal:
    """A symmetric B (p, p) as Q T Q^T; only its lower half is read.

    Attributes:
        diagonal: of T (p,).
        off: beside it (p - 1,).

    Raises:
        RunError: B is not finite, or overflows.
    """

    def __init__(self, B: Tensor):
        self.lapack = LAPACK[B.dtype]
        self.reflections, diagonal, off, self.scales, _ = self.lapack["sytrd"](B.numpy(), lower=1, lwork=BLOCK * len(B))
        if not (np.isfinite(diagonal).all() and np.isfinite(off).all()):
            raise RunError("a matrix whose eigenvectors are wanted is not finite; scale the problem, or use float64")
        self.diagonal, self.off = torch.from_numpy(diagonal), torch.from_numpy(off)

    def bound(self) -> float:
        """Return an upper bound of the eigenvalues' sizes, by Gershgorin's circles."""
        beside = np.abs(self.off.numpy())
        return float((np.abs(self.diagonal.numpy()) + np.append(beside, 0) + np.append(0, beside)).max())

    def is_definite(self, least: float) -> bool:
        """Say whether all eigenvalues are above `least`."""
        return self.lapack["pttrf"](self.diagonal.numpy() - least, self.off.numpy())[-1] == 0

    def values(self) -> Tensor:
        """Return the eigenvalues (p,), rising."""
        values, failed = self.lapack["sterf"](self.diagonal.numpy(), self.off.numpy())
        return torch.from_numpy(_found(values, failed))

    def eigen(self) -> tuple[Tensor, Eigenvectors]:
        """Return the eigenvalues (p,), rising, and the eigenvectors."""
        values, vectors, failed = self.lapack["stevd"](self.diagonal.numpy(), self.off.numpy())
        return torch.from_numpy(_found(values, failed)), Factored(self, torch.from_numpy(vectors))

    def into(self, x: Tensor) -> Tensor:
        """Return Q^T x (p,)."""
        return self._turned(x, "T")

    def back(self, y: Tensor) -> Tensor:
        """Return Q y (p,)."""
        return self._turned(y, "N")

    def _turned(self, x: Tensor, how: str) -> Tensor:
        out = x.clone()
        # the first coordinate is left as it is, and the reflections stand below the diagonal
        rest = self.reflections[1:, :-1]
        turned, _, _ = self.lapack["ormqr"]("L", how, rest, self.scales, x[1:, None].numpy(), lwork=BLOCK)
        out[1:] = torch.from_numpy(turned)[:, 0]
        return out


def _found(values: Any, failed: int) -> Any:
    if failed:
        raise RunError("the eigenvalues of a matrix were not found; scale the problem, or use float64")
    return values


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
    """Eigenvectors Q Z, with Q as its reflections."""

    def __init__(self, tridiagonal: Tridiagonal, vectors: Tensor):
        self.tridiagonal, self.vectors = tridiagonal, vectors

    def into(self, x: Tensor) -> Tensor:
        """Return the coordinates of x (p,)."""
        return self.vectors.mT @ self.tridiagonal.into(x)

    def back(self, y: Tensor) -> Tensor:
        """Return the vector (p,) with the coordinates y (p,)."""
        return self.tridiagonal.back(self.vectors @ y)
