r"""Krylov bases of a symmetric operator, and what they tell of its spectrum.

From a start b, k products give an orthonormal basis Q (p, k) with

    A Q = Q T + beta_k q_{k+1} e_k^T,   T tridiagonal (k, k)

(C. Lanczos 1950), orthogonalised twice against all earlier vectors, without which T holds copies of eigenvalues that
have converged. With T s = theta s, an eigenvalue of A lies within |beta_k s_k| of theta (B. Parlett, The Symmetric
Eigenvalue Problem, theorem 13.2.1). The density of the spectrum is the mean over random starts of the Gauss quadrature
with nodes theta_i and weights s_1i^2 (G. Golub and G. Meurant 1994; for networks arXiv 1901.10159, algorithm 2).

T is tridiagonal and small, and LAPACK's solver by way of scipy is the best for it. scipy.sparse.linalg.eigsh is not
used for the whole: it runs on CPUs in numpy, has no bounds, and its restarts pay products to save memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from lissome._errors import UsageError

BATCH = 10  # products between two looks at the bounds


class Symmetric(Protocol):
    """A symmetric matrix known by its products: an `Operator`, or a dense tensor (p, p)."""

    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector."""
        ...


@dataclass(frozen=True)
class Krylov:
    """An orthonormal basis in which the operator is tridiagonal.

    Attributes:
        basis: Q (p, k).
        diagonal: of T (k,), in the operator's dtype.
        off_diagonal: of T (k - 1,); a 0 stands where the basis went on from a new direction.
        residual: beta_k q_{k+1} (p,), what the next product starts from.
        residual_norm: beta_k; 0 where the basis spans an invariant space, so that it cannot go on by itself.
    """

    basis: Tensor
    diagonal: Tensor
    off_diagonal: Tensor
    residual: Tensor
    residual_norm: float

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans an invariant space, and its Ritz values are eigenvalues."""
        return self.residual_norm == 0.0

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ascending Ritz values (k,), the vectors s in the basis (k, k), and the bounds |beta_k s_k| (k,).

        All in float64 on the CPU; Q s are the Ritz vectors.
        """
        a, b = (t.detach().cpu().double().numpy() for t in (self.diagonal, self.off_diagonal))
        values, vectors = eigh_tridiagonal(a, b)
        s = torch.from_numpy(vectors)
        return torch.from_numpy(values), s, self.residual_norm * s[-1].abs()

    def extend(self, operator: Symmetric, k: int, *, generator: torch.Generator | None = None) -> Krylov:
        """Return a basis with k vectors more, or as many as there are; k products, and none anew.

        Args:
            operator: the one this basis was made of.
            k: how many more.
            generator: draws a new direction where the basis spans an invariant space; None stops there.
        """
        p, have = self.basis.shape
        most = min(have + k, p)
        Q = torch.cat([self.basis, self.basis.new_zeros(p, most - have)], 1)  # (p, most)
        diagonal, off = self.diagonal.tolist(), self.off_diagonal.tolist()
        residual, beta = self.residual, self.residual_norm
        while have < most:
            if beta > 0:
                q = residual / beta
            elif generator is None:
                break
            else:
                q = _clean(_normal(p, self.basis, generator), Q[:, :have])
                q = q / q.norm()
            if have:
                off.append(beta)
            Q[:, have] = q
            have += 1
            w = operator @ q
            diagonal.append(float(w @ q))
            residual = _clean(w, Q[:, :have])
            beta = float(residual.norm())
            scale = max(map(abs, [*diagonal, *off]))
            # what is left of a vector that lies in the basis is rounding
            if have == p or beta <= 10 * torch.finfo(Q.dtype).eps * math.sqrt(p) * scale:
                beta = 0.0
        return Krylov(Q[:, :have], Q.new_tensor(diagonal), Q.new_tensor(off), residual, beta)


def lanczos(operator: Symmetric, start: Tensor, k: int, *, generator: torch.Generator | None = None) -> Krylov:
    """Return a Krylov basis of at most k vectors; fewer where the operator leaves their span to itself.

    Args:
        operator: symmetric (p, p).
        start: the first direction (p,).
        k: vectors, and products.
        generator: as in `Krylov.extend`.

    Raises:
        UsageError: no square operator; a start of another shape, 0 or not finite; k below 1.

    >>> found = lanczos(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([1.0, 1.0, 0.0]), 3)
    >>> found.basis.shape, found.exhausted
    (torch.Size([3, 2]), True)
    """
    p = _side(operator)
    if start.shape != (p,):
        raise UsageError(f"start has shape {tuple(start.shape)}; legal is ({p},), as the operator is {p} x {p}")
    if k < 1:
        raise UsageError(f"k is {k}; legal is a whole number of at least 1")
    norm = float(start.norm())
    if not (math.isfinite(norm) and norm > 0):
        raise UsageError(f"start has the norm {norm}; legal is a finite direction other than 0")
    nothing = start.new_zeros(0)
    empty = Krylov(start.new_zeros(p, 0), nothing, nothing, start.detach() / norm, 1.0)
    return empty.extend(operator, k, generator=generator)


@dataclass(frozen=True)
class Extremes:
    """The ends of a spectrum, float64 on the CPU.

    Attributes:
        smallest: the k smallest eigenvalues, ascending.
        largest: the k largest, ascending.
        smallest_bound: an eigenvalue lies within so much of each of `smallest`.
        largest_bound: the same of `largest`.
        converged: whether all bounds are below the tolerance.
        products: how many it took.
    """

    smallest: Tensor
    largest: Tensor
    smallest_bound: Tensor
    largest_bound: Tensor
    converged: bool
    products: int


def extreme_eigenvalues(
    operator: Symmetric,
    k: int = 1,
    *,
    generator: torch.Generator,
    tolerance: float | None = None,
    most: int = 300,
) -> Extremes:
    """Return the k smallest and the k largest eigenvalues, with bounds of their errors.

    An eigenvalue that stands several times in the spectrum may be found once.

    Args:
        operator: symmetric (p, p).
        k: at each end.
        generator: draws the start.
        tolerance: of the bounds, relative to the largest |eigenvalue|; None is the square root of the dtype's eps.
        most: products at most, and vectors of p numbers kept.

    Raises:
        UsageError: k or most out of range.

    >>> found = extreme_eigenvalues(torch.diag(torch.arange(5.0)), generator=torch.Generator().manual_seed(0))
    >>> round(float(found.largest), 4), found.converged
    (4.0, True)
    """
    p = _side(operator)
    if not 1 <= k <= p:
        raise UsageError(f"k is {k}; legal is 1 to {p}, as the operator is {p} x {p}")
    if most < min(2 * k, p):
        raise UsageError(f"most is {most}; legal is at least {min(2 * k, p)} for k = {k}")
    like = torch.zeros(0, dtype=operator.dtype, device=operator.device)
    limit = math.sqrt(torch.finfo(operator.dtype).eps) if tolerance is None else tolerance
    found = lanczos(operator, _normal(p, like, generator), min(2 * k + BATCH, most), generator=generator)
    while True:
        values, _, bounds = found.ritz()
        size = len(values)
        low, high = slice(0, k), slice(size - k, size)
        worst = float(torch.cat([bounds[low], bounds[high]]).max())
        converged = worst <= limit * float(values.abs().max())
        if converged or size >= min(p, most):
            break
        found = found.extend(operator, min(BATCH, most - size), generator=generator)
    return Extremes(values[low], values[high], bounds[low], bounds[high], converged, size)


@dataclass(frozen=True)
class Density:
    """A spectrum as weighted points: the mean of h over the p eigenvalues is about sum_i weights_i h(nodes_i).

    Attributes:
        nodes: (q,), ascending, float64 on the CPU.
        weights: (q,), at least 0, of sum 1.
    """

    nodes: Tensor
    weights: Tensor

    def mean(self, h: Callable[[Tensor], Tensor]) -> float:
        """Return the mean of h over the eigenvalues, trace h(A) / p; h acts number by number."""
        return float(self.weights @ h(self.nodes))

    def smooth(self, grid: Tensor, width: float) -> Tensor:
        """Return the density at the points of the grid (n,), each node a normal curve of that width.

        Raises:
            UsageError: a width that is not above 0.
        """
        if not width > 0:
            raise UsageError(f"width is {width}; legal is a number above 0")
        z = (grid.double().cpu()[:, None] - self.nodes) / width  # (n, q)
        return torch.exp(-0.5 * z.square()) @ self.weights / (width * math.sqrt(2 * math.pi))


def spectral_density(operator: Symmetric, *, generator: torch.Generator, starts: int = 8, steps: int = 50) -> Density:
    """Estimate the density of the spectrum by stochastic Lanczos quadrature, from starts x steps products.

    Args:
        operator: symmetric (p, p).
        generator: draws the starts.
        starts: random directions; the error of a mean falls with the root of starts x p.
        steps: products for each; means of polynomials up to degree 2 steps - 1 have no further error.

    Raises:
        UsageError: starts or steps below 1.

    >>> found = spectral_density(torch.diag(torch.arange(4.0)), generator=torch.Generator().manual_seed(0))
    >>> len(found.nodes), 1.0 < found.mean(lambda t: t) < 2.0
    (32, True)
    """
    for name, number in (("starts", starts), ("steps", steps)):
        if number < 1:
            raise UsageError(f"{name} is {number}; legal is a whole number of at least 1")
    p = _side(operator)
    like = torch.zeros(0, dtype=operator.dtype, device=operator.device)
    nodes, weights = [], []
    for _ in range(starts):
        values, s, _ = lanczos(operator, _normal(p, like, generator), steps).ritz()
        nodes.append(values)
        weights.append(s[0].square() / starts)
    order = torch.cat(nodes).argsort()
    return Density(torch.cat(nodes)[order], torch.cat(weights)[order])


def _side(operator: Symmetric) -> int:
    if len(operator.shape) != 2 or operator.shape[0] != operator.shape[1]:
        raise UsageError(f"the operator has shape {tuple(operator.shape)}; legal is a symmetric one (p, p)")
    return operator.shape[0]


def _normal(p: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(p, generator=generator, device=generator.device, dtype=torch.float64).to(like)


def _clean(w: Tensor, Q: Tensor) -> Tensor:
    """Return w without its parts along the columns of Q; twice is enough (B. Parlett, section 6.9)."""
    for _ in range(2):
        w = w - Q @ (Q.mT @ w)
    return w
