r"""Minimisers of a quadratic under a cubic term or within a ball, in the coordinates of its eigenvectors.

With eigenvalues l_1 <= ... <= l_k and the gradient's coordinates c, a minimiser y and its multiplier lambda >= 0 obey

    (l_i + lambda) y_i = -c_i,   l_1 + lambda >= 0,   and   lambda = sigma |y|   or   lambda (|y| - radius) = 0.

The unknown is mu = lambda + min(0, l_1) >= 0, so that the denominators l_i + lambda = (l_i - min(0, l_1)) + mu lose
nothing to rounding: with lambda itself, a third of random indefinite problems miss the equation by more than 1e-8. Both
equations read 1 / |y(mu)| = t(mu) with the left side minus the right concave and rising: Newton's method from a lower
bound climbs to the root and never passes it. Where no mu > 0 is a root (the hard case: c has no part along the lowest
eigenvector), mu is 0 and that eigenvector fills y up to the length that is due.

References: N. Gould, D. Robinson, S. Thorne 2010, doi 10.1007/s12532-010-0011-7, sections 2 and 6; C. Cartis, N. Gould,
P. Toint 2011, doi 10.1007/s10107-009-0286-5, section 6.1. Differs from them: the gaps and mu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from torch import Tensor

_solve: Any
_again: Any
_solve, _again = get_lapack_funcs(("ptsv", "pttrs"))  # tridiagonal and definite: factor and solve, solve again
_norm: Any = get_blas_funcs("nrm2")  # loses nothing where squares would overflow
CLIMBS = 100  # Newton steps; about 6 are usual
CLOSE = 4 * torch.finfo(torch.float64).eps  # a relative change of mu that rounding makes


Target = Callable[[float], tuple[float, float]]  # mu -> what 1 / |y| is to be, and its derivative
Solver = Callable[[float], tuple[Any, Callable[[], float]]]  # mu -> y, and y^T (l + mu)^-1 y when it is asked for


@dataclass(frozen=True)
class Root:
    """A minimiser y (k,) in float64, its multiplier lambda, and whether it is of the hard case."""

    y: Tensor
    multiplier: float
    hard: bool


class Answers(Protocol):
    """What minimises for any sigma and any radius: in coordinates of eigenvectors, or of a tridiagonal form."""

    slope: Tensor

    def cubic(self, sigma: float) -> Root:
        """Return the global minimiser of the cubic model."""
        ...

    def trust(self, radius: float) -> Root:
        """Return the global minimiser in the ball."""
        ...


def climb(at: Solver, mu: float, target: Target) -> tuple[Any, float]:
    """Return y and mu where 1 / |y| meets the target, from a mu below that."""
    y, bend = at(mu)
    for _ in range(CLIMBS):
        length = float(_norm(y))
        aim, rate = target(mu)
        short = aim - 1 / length
        if not short > 0:
            break
        rise = short / (bend() / length**3 - rate)
        mu += rise
        y, bend = at(mu)
        if rise <= CLOSE * mu:
            break
    return y, mu


def _cubic(sigma: float, shift: float) -> Target:
    def target(mu: float) -> tuple[float, float]:
        multiplier = mu + shift
        return sigma / multiplier, -sigma / multiplier / multiplier

    return target


class Spectrum:
    """Eigenvalues and the gradient in their coordinates; answers for any sigma and any radius.

    Args:
        values: eigenvalues (k,), rising; taken to float64 on the CPU.
        slope: the gradient's coordinates (k,), likewise.
        eps: relative rounding of the matrix the eigenvalues are of; negative ones that rounding explains count as 0.

    >>> spectrum = Spectrum(torch.tensor([-1.0, 2.0]).double(), torch.tensor([0.0, 3.0]).double(), 1e-16)
    >>> spectrum.cubic(0.5)
    Root(y=tensor([ 1.7321, -1.0000], dtype=torch.float64), multiplier=1.0, hard=True)
    """

    def __init__(self, values: Tensor, slope: Tensor, eps: float):
        # always in float64, which every device has by way of the CPU
        values, self.slope = values.cpu().double(), slope.cpu().double()
        # arrays: a call of torch costs more than so few numbers
        c, found = self.slope.numpy(), values.numpy()
        self.norm = float(np.abs(found).max())
        self.noise = 4 * eps * len(found) ** 0.5 * self.norm
        if (found[0] < 0) and (found[0] > -self.noise):
            found = np.maximum(found, 0.0)
        self.c, self.size = c, np.abs(c)
        self.shift = max(0.0, -float(found[0]))
        self.gaps: Any = found + self.shift
        self.flat: Any = self.size == 0

    @np.errstate(all="ignore")
    def cubic(self, sigma: float) -> Root:
        """Return the global minimiser of c y + y l y / 2 + (sigma / 3) |y|^3."""
        # sigma |c_j| / (gap_j + mu) <= sigma |y| = mu + shift for every j bounds mu from below
        root = np.sqrt((self.shift - self.gaps) ** 2 + 4 * sigma * self.size)
        lower = 2 * (sigma * self.size - self.shift * self.gaps) / np.maximum(self.shift + self.gaps + root, 1e-300)
        start = max(0.0, float(lower.max()))
        if start == 0:
            y, _ = self._at(0.0)
            if _norm(y) * sigma <= self.shift:
                return self._filled(y, self.shift / sigma)
        return self._root(start, _cubic(sigma, self.shift))

    @np.errstate(all="ignore")
    def trust(self, radius: float) -> Root:
        """Return the global minimiser of c y + y l y / 2 where |y| <= radius."""
        start = max(0.0, float((self.size / radius - self.gaps).max()))
        if start == 0:
            y, _ = self._at(0.0)
            if _norm(y) <= radius:
                return self._filled(y, radius) if self.shift else Root(torch.from_numpy(y), 0.0, False)
        return self._root(start, lambda mu: (1 / radius, 0.0))

    def _root(self, start: float, target: Target) -> Root:
        y, mu = climb(self._at, start, target)
        return Root(torch.from_numpy(y), mu + self.shift, self.shift > 0 and mu <= self.noise)

    def _at(self, mu: float) -> tuple[Any, Callable[[], float]]:
        y = self._over(-self.c, mu)
        return y, lambda: float(self._over(y * y, mu).sum())

    def _over(self, x: Any, mu: float) -> Any:
        # 0 / 0 is a direction without slope and without curvature: stay
        return np.divide(x, self.gaps + mu, out=np.zeros_like(x), where=~self.flat)

    def _filled(self, y: Any, length: float) -> Root:
        """Return the hard case: add as much of the lowest eigenvector as makes y so long."""
        missing = length * length - float(y @ y)
        y[0] += math.sqrt(max(0.0, missing))
        return Root(torch.from_numpy(y), self.shift, self.shift > 0)


class Definite:
    """The same for a positive definite matrix in tridiagonal form, without eigenvectors: each mu is two short solves.

    Args:
        diagonal: of the tridiagonal matrix (k,); taken to float64 on the CPU.
        off: beside it (k - 1,), likewise.
        slope: the gradient's coordinates (k,), likewise.
        bound: above its largest eigenvalue.

    >>> one = torch.ones(2).double()
    >>> Definite(2 * one, 0 * one[:1], -3 * one, 2.0).trust(9.0)
    Root(y=tensor([1.5000, 1.5000], dtype=torch.float64), multiplier=0.0, hard=False)
    """

    def __init__(self, diagonal: Tensor, off: Tensor, slope: Tensor, bound: float):
        self.diagonal, self.off = diagonal.double().numpy(), off.double().numpy()
        self.slope, self.bound = slope.cpu().double(), bound
        self.c = self.slope.numpy()
        self.size = float(_norm(self.c))

    def cubic(self, sigma: float) -> Root:
        """Return the global minimiser of the cubic model."""
        if self.size == 0:
            return Root(torch.zeros_like(self.slope), 0.0, False)
        # |y| >= |c| / (bound + mu), and mu = sigma |y|
        start = 2 * sigma * self.size / (self.bound + math.sqrt(self.bound**2 + 4 * sigma * self.size))
        y, mu = climb(self._at, start, _cubic(sigma, 0.0))
        return Root(torch.from_numpy(y), mu, False)

    def trust(self, radius: float) -> Root:
        """Return the global minimiser in the ball."""
        y, _ = self._at(0.0)
        if _norm(y) <= radius:
            return Root(torch.from_numpy(y), 0.0, False)
        y, mu = climb(self._at, max(0.0, self.size / radius - self.bound), lambda mu: (1 / radius, 0.0))
        return Root(torch.from_numpy(y), mu, False)

    def _at(self, mu: float) -> tuple[Any, Callable[[], float]]:
        diagonal, off, y, _ = _solve(self.diagonal + mu, self.off, -self.c)
        return y, lambda: float(y @ _again(diagonal, off, y)[0])
