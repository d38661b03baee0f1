r"""How gradient descent on 1/2 |r|^2 goes, told from the tangent kernel K = J J^T at the start (arXiv 2410.08041).

Near the start r(theta - step J^T r) = (I - step K) r, so in the eigenvectors v_i of K, with eigenvalues lambda_i,

    r_t = sum_i (1 - step lambda_i)^t <r_0, v_i> v_i,

which is stable for step < 2 / lambda_max. The theorem's bound, |r_t|^2 <= (1 - step lambda_min / 2)^t |r_0|^2, says
nothing where lambda_min is tiny beside lambda_max, as it is in one dimension; the sum does. SGD, with b of the n rows
drawn with replacement and the gradient scaled by n / b, goes by r_{t+1} = (I - step K D) r_t, where D holds n / b times
the counts of the rows. As E D = I and E D K D = (1 - 1 / b) K + (n / b) diag(K), the mean of r^T K^{-1} r falls for

    step < eta* = 2 / ((1 - 1 / b) lambda_max + (n / b) max_i K_ii).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus.gram import gram
from lissome.calculus.ways import Function, Point

ROWS = 256  # steps of a prediction that are made at once


@dataclass(frozen=True)
class Tangent:
    """The spectrum of a tangent kernel K (n, n), float64 on the CPU.

    Attributes:
        eigenvalues: (n,), ascending, as they came: below 0 by rounding alone.
        vectors: (n, n), its columns belong to them.
        diagonal: (n,), of K.

    Of a kernel too large to be taken apart, `eigenvalues` and `vectors` may be Ritz values and vectors (k,) and (k, k)
    of its Krylov space from r_0, where r_0 is (|r_0|, 0, .., 0); only `diagonal` has all n rows then.
    """

    eigenvalues: Tensor
    vectors: Tensor
    diagonal: Tensor

    @classmethod
    def of(cls, kernel: Tensor) -> Tangent:
        """Take a dense kernel (n, n) apart."""
        K = kernel.detach().to("cpu", torch.float64)
        eigenvalues, vectors = torch.linalg.eigh((K + K.mT) / 2)
        return cls(eigenvalues, vectors, K.diagonal().clone())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue."""
        return float(self.eigenvalues[0])

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues[-1])

    @property
    def condition(self) -> float:
        """The largest eigenvalue over the smallest; infinite where the smallest is not above 0."""
        return self.largest / self.smallest if self.smallest > 0 else math.inf

    @property
    def step(self) -> float:
        """2 / largest, below which gradient descent on 1/2 |r|^2 is stable."""
        return 2 / self.largest if self.largest > 0 else math.inf

    def stochastic_step(self, batch: int, largest: float | None = None) -> float:
        """Return eta*, up to which SGD is stable in the mean square: rows with replacement, gradient scaled by n / b.

        Args:
            batch: b, rows of a step.
            largest: eigenvalue of K, where a Krylov space holds a smaller one; None is `self.largest`.

        Raises:
            UsageError: a batch below 1.
        """
        if batch < 1:
            raise UsageError(f"batch is {batch}; legal is a whole number of at least 1")
        n = len(self.diagonal)
        top = self.largest if largest is None else largest
        most = (1 - 1 / batch) * top + n / batch * float(self.diagonal.max())
        return 2 / most if most > 0 else math.inf

    def predict(self, residual: Tensor, step: float, steps: int) -> Tensor:
        """Return the norms |r_t| (steps + 1,) of gradient descent on the linear system.

        Args:
            residual: r_0 (n,).
            step: on 1/2 |r|^2.
            steps: how many.

        Raises:
            UsageError: a residual of another length or not finite, a step that is not above 0, steps below 0.
        """
        course = self._course(residual, step, steps)
        times = torch.arange(1, steps + 1, dtype=torch.float64)
        parts = [course.norms(part) for part in times.split(ROWS)]
        return torch.cat([torch.tensor([course.start], dtype=torch.float64), *parts])

    def steps_to(self, residual: Tensor, step: float, factor: float, most: int = 10**9) -> int | None:
        """Return the first t with |r_t| <= factor |r_0|; None if that is beyond `most`, or never.

        Raises:
            UsageError: as `predict`; a factor that is not above 0.
        """
        if not factor > 0:
            raise UsageError(f"factor is {factor}; legal is a number above 0")
        course = self._course(residual, step, most)
        wanted = factor * course.start
        if course.start <= wanted:
            return 0
        # a sum of exponentials is convex in t: up to its lowest point it only falls
        last = most if course.falls else _first(lambda t: course.norm(t + 1) >= course.norm(t), most)
        last = most if last is None else last
        return _first(lambda t: course.norm(t) <= wanted, last)

    def bound(self, residual: Tensor, step: float, steps: int) -> Tensor:
        """Return the theorem's bounds (steps + 1,) of the norms, sqrt((1 - step smallest / 2)^t) |r_0|.

        Raises:
            UsageError: as `predict`.
        """
        course = self._course(residual, step, steps)
        rate = max(1 - step * max(self.smallest, 0.0) / 2, 0.0)
        return course.start * rate ** (0.5 * torch.arange(steps + 1, dtype=torch.float64))

    def _course(self, residual: Tensor, step: float, steps: int) -> _Course:
        n = len(self.eigenvalues)
        if residual.shape != (n,):
            raise UsageError(f"residual has shape {tuple(residual.shape)}; legal is ({n},), one for each row of K")
        if not (math.isfinite(step) and step > 0):
            raise UsageError(f"step is {step}; legal is a number above 0")
        if steps < 0:
            raise UsageError(f"steps is {steps}; legal is a whole number of at least 0")
        r = residual.detach().to("cpu", torch.float64)
        if not bool(r.isfinite().all()):
            raise UsageError("residual holds numbers that are not finite; legal are finite ones")
        shares = (self.vectors.mT @ r).abs()  # (n,)
        # K has no eigenvalue below 0: what is found there is rounding, and would grow
        factors = (1 - step * self.eigenvalues.clamp_min(0)).abs()  # (n,)
        return _Course(2 * shares.log(), 2 * factors.log(), float(r.norm()), bool((factors[shares > 0] <= 1).all()))


@dataclass(frozen=True)
class _Course:
    """|r_t|^2 = sum_i exp(shares_i + t rates_i): logarithms, so that neither end of the exponent is left."""

    shares: Tensor
    rates: Tensor
    start: float
    falls: bool

    def norms(self, times: Tensor) -> Tensor:
        """Return |r_t| at times (k,) of at least 1."""
        return (0.5 * torch.logsumexp(self.shares + times[:, None] * self.rates, 1)).exp()

    def norm(self, t: int) -> float:
        """Return |r_t| at one time."""
        return float(self.norms(torch.tensor([t], dtype=torch.float64))[0]) if t else self.start


def _first(holds: Callable[[int], bool], last: int) -> int | None:
    """Return the first t in 0..last that holds, where all later ones hold too; None if there is none."""
    if not holds(last):
        return None
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def tangent(r: Function, theta: Point, *, limit: int = 2000) -> Tangent:
    """Return the tangent kernel's spectrum of a vector function at a point.

    Args:
        r: from a point to a vector (n,).
        theta: (p,), or name -> tensor.
        limit: rows above which it is refused, for K is made in full and taken apart.

    Raises:
        UsageError: no rows, or more than `limit`; as in `gram`.
        RunError: as in `gram`.

    >>> found = tangent(lambda x: torch.stack([x[0], 2 * x[1]]), torch.ones(2))
    >>> found.eigenvalues.tolist(), found.step
    ([1.0, 4.0], 0.5)
    """
    kernel = gram(r, theta)
    n = kernel.shape[0]
    if not n:
        raise UsageError("r has 0 rows; legal is at least one")
    if n > limit:
        raise UsageError(
            f"the tangent kernel has {n} rows, more than limit={limit}: take fewer points, raise limit, or take the "
            "ends of the spectrum alone, extreme_eigenvalues(gram(r, theta), generator=...)"
        )
    return Tangent.of(kernel.dense(limit=n * n))


def drift(before: Tensor, after: Tensor) -> float:
    """Return |after - before| / |before| in the Frobenius norm: how far a kernel (n, n) has moved.

    >>> drift(torch.eye(2), 3 * torch.eye(2))
    2.0
    """
    if before.shape != after.shape:
        raise UsageError(f"the kernels have shapes {tuple(before.shape)} and {tuple(after.shape)}; legal is one shape")
    return float((after - before).norm() / before.norm())


def balance(inside: Tensor, outside: Tensor) -> float:
    """Return the weight of boundary rows, where those inside have 1, at which both parts move at one pace.

    Args:
        inside: diagonal of K of the rows inside, unweighted.
        outside: the same of the boundary's rows.

    Returns:
        mean(inside) / mean(outside); infinite where the boundary's rows do not move.

    >>> balance(torch.tensor([6.0, 2.0]), torch.tensor([0.5]))
    8.0
    """
    for name, part in (("inside", inside), ("outside", outside)):
        if not len(part):
            raise UsageError(f"{name} holds no rows; legal is at least one")
    outer = float(outside.mean())
    return float(inside.mean()) / outer if outer > 0 else math.inf
