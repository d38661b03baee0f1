r"""The steps of a quadratic model with a cubic term, or within a ball.

    q(s) = f + g^T s + s^T B s / 2,   m(s) = q(s) + (sigma / 3) |s|^3
    s    = argmin m,   or   argmin q where |s| <= radius

A subproblem is a value made once at x: `Exact` holds B's eigenvectors, or its tridiagonal form where it is positive
definite, `Krylov` a basis V of span{g, B g, B^2 g, ...} that is orthogonal to rounding, with T = V^T B V and
B V = V T + beta_k v_{k+1} e_k^T. Both answer for any sigma and any radius, so that a rejected, a longer or a shorter
step costs no new product.

The residual of a step in the basis, |g + B s + lambda s| = |beta_k y_k|, is known without forming s; the basis grows
until it is at most theta min(1, |s|) |g|, which keeps the global and the quadratic local convergence of exact steps.
Where g is tiny or its Krylov space is exhausted, the basis goes on from a random vector, to see directions that g does
not show: a saddle has them.

References: C. Cartis, N. Gould, P. Toint 2011, doi 10.1007/s10107-009-0286-5, section 6 and TC.s (3.28); N. Gould,
S. Lucidi, M. Roma, P. Toint 1999, doi 10.1137/S1052623497322735, for the ball.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.optim.eigen import Eigenvectors, Tridiagonal, eigen, reducible
from lissome.optim.spectrum import Answers, Definite, Root, Spectrum

PROBES = 10  # products spent from a random vector on directions of negative curvature
WELL = 100.0  # times rounding: above it the lowest eigenvalue is surely positive
FIRST = 10  # vectors that estimate the norm of B


class Product(Protocol):
    """A symmetric matrix of which products are enough; a dense tensor is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (p,)."""
        ...


@dataclass(frozen=True)
class Step:
    """A step and what the models promise of it.

    Attributes:
        s: the step (p,).
        norm: |s|.
        slope: g^T s.
        curvature: s^T B s.
        quadratic: f - q(s), the decrease promised by the quadratic.
        cubic: f - m(s); the same as `quadratic` for a step within a ball.
        multiplier: lambda of (B + lambda) s = -g.
        residual: |g + B s + lambda s|.
        hard: whether the lowest eigenvector had to fill the step up.
    """

    s: Tensor
    norm: float
    slope: float
    curvature: float
    quadratic: float
    cubic: float
    multiplier: float
    residual: float
    hard: bool

    @property
    def share(self) -> float:
        """The part tau in [0, 1] that the regulariser has in the step: 0 for a Newton step; invariant under scaling."""
        return 1 - max(0.0, self.curvature) / -self.slope if self.slope < 0 else 1.0


class Subproblem(Protocol):
    """What answers for any sigma and any radius without a new product."""

    def finite(self) -> bool:
        """Return whether the products that it is made of are finite."""
        ...

    def norm(self) -> float:
        """Return |B|_2 or an estimate of it."""
        ...

    def cubic(self, sigma: float) -> Step:
        """Return the minimiser of the cubic model."""
        ...

    def trust(self, radius: float) -> Step:
        """Return the minimiser of the quadratic in the ball."""
        ...


class Exact:
    """The global minimisers, from one tridiagonal form and, unless B is positive definite, its eigenvectors.

    Args:
        B: symmetric (p, p); only its lower triangle is read.
        g: gradient (p,), of the same dtype.

    Raises:
        UsageError: the shapes do not fit.

    >>> step = Exact(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0])).cubic(1.0)
    >>> step.s, step.multiplier  # 3 = 2 |s| + |s|^2
    (tensor([-1.,  0.]), 1.0)
    """

    def __init__(self, B: Tensor, g: Tensor):
        _check(B, g)
        self.eps = torch.finfo(g.dtype).eps
        self.vectors: Eigenvectors
        self.answer: Callable[[Tensor], Answers]  # for the gradient's coordinates
        self.largest: Callable[[], float]
        if reducible(B):
            self._reduce(Tridiagonal(B), len(g))
        else:
            self._diagonalise(*eigen(B))
        self.aim(g)

    def aim(self, g: Tensor) -> None:
        """Take another gradient (p,); nothing is factored again."""
        self.g, self.answers = g, self.answer(self.vectors.into(g))

    def finite(self) -> bool:
        """Return True: only a finite B gets here."""
        return True

    def norm(self) -> float:
        """Return |B|_2."""
        return self.largest()

    def cubic(self, sigma: float) -> Step:
        """Return the minimiser of the cubic model."""
        return self._step(self.answers.cubic(sigma), sigma)

    def trust(self, radius: float) -> Step:
        """Return the minimiser of the quadratic in the ball."""
        return self._step(self.answers.trust(radius), 0.0)

    def _reduce(self, tridiagonal: Tridiagonal, p: int) -> None:
        bound = tridiagonal.bound()
        if not tridiagonal.is_definite(WELL * self.eps * p * bound):
            return self._diagonalise(*tridiagonal.eigen())
        self.vectors = tridiagonal
        self.answer = lambda slope: Definite(tridiagonal.diagonal, tridiagonal.off, slope, bound)
        self.largest = lambda: float(tridiagonal.values()[-1])

    def _diagonalise(self, values: Tensor, vectors: Eigenvectors) -> None:
        self.vectors, self.answer = vectors, lambda slope: Spectrum(values, slope, self.eps)
        self.largest = lambda: float(values.abs().max())

    def _step(self, root: Root, sigma: float) -> Step:
        return _told(self.vectors.back(root.y.to(self.g)), root, self.answers.slope, sigma, 0.0)


class Krylov:
    """The minimisers over a Krylov space, from products alone; the first answer makes the basis, the others use it.

    Args:
        operator: symmetric (p, p), with `@` on vectors (p,).
        g: gradient (p,).
        size: the most vectors in the basis, and so the most products.
        theta: the residual that is small enough, relative to min(1, |s|) |g|.
        generator: of the random vectors (on the CPU); None starts one with seed 0.

    Raises:
        UsageError: the shapes do not fit, or size is less than 1.

    >>> Krylov(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0])).cubic(1.0).s
    tensor([-1.,  0.])
    """

    def __init__(
        self,
        operator: Product,
        g: Tensor,
        size: int = 50,
        *,
        theta: float = 0.01,
        generator: torch.Generator | None = None,
    ):
        _check(operator, g)
        if size < 1:
            raise UsageError(f"the basis may have {size} vectors; legal is at least 1")
        self.operator, self.g, self.theta = operator, g, theta
        self.size = min(size, len(g))
        self.eps = torch.finfo(g.dtype).eps
        self.generator = generator or torch.Generator().manual_seed(0)
        self.length = float(g.norm())
        self.basis = g.new_zeros(min(FIRST, self.size), len(g))  # (k or more, p)
        self.T = torch.zeros(self.size, self.size, dtype=torch.float64)
        self.k = 0
        self.edge = 0.0  # beta_k
        self.loose: list[tuple[int, float]] = []  # other vectors k with beta_k > 0, where the basis began anew
        self.next = g / self.length if self.length > 0 else self._random()
        self.complete = False
        self._grow()

    def finite(self) -> bool:
        """Return whether the products are finite that estimate the norm of B."""
        self._first()
        return bool(torch.isfinite(self.T).all())

    def norm(self) -> float:
        """Return the largest |Ritz value|, at most |B|_2 and near to it."""
        self._first()
        return float(torch.linalg.eigvalsh(self.T[: self.k, : self.k]).abs().max())

    def cubic(self, sigma: float) -> Step:
        """Return the minimiser of the cubic model over the basis."""
        return self._step(lambda spectrum: spectrum.cubic(sigma), sigma)

    def trust(self, radius: float) -> Step:
        """Return the minimiser of the quadratic in the ball over the basis."""
        return self._step(lambda spectrum: spectrum.trust(radius), 0.0)

    def _step(self, solve: Callable[[Spectrum], Root], sigma: float) -> Step:
        while True:
            spectrum, vectors = self._solved()
            root = solve(spectrum)
            y = vectors @ root.y  # (k,), in the basis
            residual = abs(self.edge * float(y[self.k - 1])) + sum(abs(b * float(y[i])) for i, b in self.loose)
            wanted = self.theta * min(1.0, float(y.norm())) * self.length
            if self.complete:
                break
            if residual <= wanted or self.next is None:
                self._probe(spectrum.norm)
                self.complete = True
            elif self.k == self.size:
                self.complete = True
            else:
                self._grow()
        s = y.to(self.basis) @ self.basis[: self.k]  # (p,)
        return _told(s, root, spectrum.slope, sigma, residual)

    def _first(self) -> None:
        while self.next is not None and self.k < min(FIRST, self.size) and math.isfinite(self.edge):
            self._grow()

    def _solved(self) -> tuple[Spectrum, Tensor]:
        values, vectors = torch.linalg.eigh(self.T[: self.k, : self.k])
        # g is |g| times the first vector of the basis
        return Spectrum(values, self.length * vectors[0], self.eps), vectors

    def _grow(self) -> None:
        """Add the next vector of the basis: one product."""
        assert self.next is not None
        if self.k == len(self.basis):
            more = min(self.k, self.size - self.k)
            self.basis = torch.cat([self.basis, self.basis.new_zeros(more, self.basis.shape[1])])
        self.basis[self.k] = self.next
        w = self.operator @ self.next
        before = float(w.norm())
        V = self.basis[: self.k + 1]
        h = V @ w
        w = w - h @ V
        again = V @ w  # twice is enough
        w = w - again @ V
        self.T[: self.k + 1, self.k] = self.T[self.k, : self.k + 1] = (h + again).cpu().double()
        self.k += 1
        self.edge = float(w.norm())
        if self.edge <= 10 * self.eps * before or self.k == len(w):
            self.next, self.edge = None, 0.0  # breakdown: B maps the basis into itself
        else:
            self.next = w / self.edge

    def _probe(self, norm: float) -> None:
        """Go on from a random vector where g shows too little."""
        if self.length > self.eps ** (2 / 3) * norm and self.next is not None:
            return
        room = min(PROBES, self.size - self.k)
        if room > 0:
            self.loose.append((self.k - 1, self.edge))
            self.next = self._random()
        while room > 0 and self.next is not None:
            self._grow()
            room -= 1

    def _random(self) -> Tensor:
        p, V = len(self.g), self.basis[: self.k]
        drawn = torch.randn(p, generator=self.generator, dtype=torch.float64).to(self.g)
        for _ in range(2):
            drawn = drawn - (V @ drawn) @ V
        return drawn / drawn.norm()


def _told(s: Tensor, root: Root, c: Tensor, sigma: float, residual: float) -> Step:
    y = root.y
    norm, slope = float(y.norm()), float(c @ y)
    pull = root.multiplier * norm**2
    curvature = -slope - pull  # (B + lambda) y = -c
    quadratic = (pull - slope) / 2
    return Step(
        s,
        norm,
        slope,
        curvature,
        quadratic,
        quadratic - sigma / 3 * norm**3,
        root.multiplier,
        residual,
        root.hard,
    )


def _check(B: Product, g: Tensor) -> None:
    if g.ndim != 1 or tuple(B.shape) != (len(g), len(g)):
        raise UsageError(f"B has shape {tuple(B.shape)} and g {tuple(g.shape)}; legal is (p, p) beside (p,)")
