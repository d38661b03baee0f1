"""The residual of a problem as a system of equations, its tangent kernel, and how gradient descent goes on it.

The rows are scaled so that 1/2 |r|^2 is the problem's own loss: all steps told here are learning rates of that loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissome._types import Batch
from lissome._vector import functional
from lissome.calculus import Operator, Tangent, drift, extreme_eigenvalues, gram, lanczos
from lissome.calculus.rowwise import rowwise
from lissome.pde import Problem
from lissome.pde.balance import weight_of
from lissome.recipes.descend import descend

JACOBIAN_NUMBERS = 50_000_000  # numbers of J up to which it is made: 0.4 gigabytes in float64
PROBES = 16  # random vectors by which the drift of a kernel too large is found
LOST = 10.0  # times the first norm, above which a descent has diverged
Theta = dict[str, Tensor]


@dataclass(frozen=True)
class System:
    """The residual of a model on one batch, as a function of its numbers.

    Attributes:
        problem: whose residual it is.
        model: under the problem's constraint.
        parts: of the batch, each with the factor of its rows and how many they are; the interior first.
        function: from the numbers to r (n,), with 1/2 |r|^2 the loss.
        start: the numbers as they are.
    """

    problem: Problem
    model: nn.Module
    parts: list[tuple[Batch, float, int]]
    function: Callable[[Any], Tensor]
    start: Theta

    @property
    def rows(self) -> int:
        """n, of the residual."""
        return sum(count for *_, count in self.parts)

    @property
    def size(self) -> int:
        """p, of the numbers."""
        return sum(value.numel() for value in self.start.values())

    def jacobian(self, theta: Theta) -> Tensor | None:
        """Return J (n, p), all rows of a part at once; None where it is too large to be made."""
        if self.rows * self.size > JACOBIAN_NUMBERS:
            return None
        return torch.cat([factor * self._slopes(theta, part) for part, factor, _ in self.parts])

    def diagonal(self, theta: Theta) -> Tensor:
        """Return the diagonal of K (n,), from a piece of J at a time."""
        size, found = max(1, JACOBIAN_NUMBERS // self.size), []
        for part, factor, _ in self.parts:
            for start in range(0, len(next(iter(part.values()))), size):
                piece = {name: value[start : start + size] for name, value in part.items()}
                found.append((factor * self._slopes(theta, piece)).square().sum(1))
        return torch.cat(found)

    def balanced(self, diagonal: Tensor) -> float | None:
        """Return the weight of the problem at which both sides move at one pace; None where there is but one side."""
        if len(self.parts) < 2:
            return None
        counts, factors = [count for *_, count in self.parts], [factor for _, factor, _ in self.parts]
        means = [each.mean() / factor**2 for each, factor in zip(diagonal.split(counts), factors, strict=True)]
        return weight_of(means, counts)

    def _slopes(self, theta: Theta, part: Batch) -> Tensor:
        return rowwise(functional(self.problem.rows, self.model, theta)[0], theta, part)[1]


def system(problem: Problem, model: nn.Module, batch: Batch) -> System:
    """Return the residual of a model on a batch, with the weights that training would take for it."""
    batch = batch | problem.weigh(model, batch)
    with torch.no_grad():
        counts = [problem.rows(model, part).numel() for part, _ in problem.parts(batch)]
    scale = math.sqrt(2 / sum(counts))
    function, start = functional(lambda net: scale * problem.residual(net, batch), model)
    parts = [
        (part, scale * float(factor), count) for (part, factor), count in zip(problem.parts(batch), counts, strict=True)
    ]
    return System(problem, model, parts, function, start)


@dataclass(frozen=True)
class Kernel:
    """The tangent kernel of a system at a point.

    Attributes:
        tangent: its spectrum; that of the Krylov space from r where K has more rows than the limit, whose largest
            eigenvalue may be below `largest`.
        coordinates: of r, where `tangent` takes a residual.
        smallest: eigenvalue.
        largest: eigenvalue.
        smallest_bound: an eigenvalue lies within so much of the smallest found; 0 where all were found.
        largest_bound: the same of the largest.
        matrix: K itself, or its products.
        jacobian: J, where it was made.
    """

    tangent: Tangent
    coordinates: Tensor
    smallest: float
    largest: float
    smallest_bound: float
    largest_bound: float
    matrix: Tensor | Operator
    jacobian: Tensor | None

    @property
    def whole(self) -> bool:
        """Whether all eigenvalues were found."""
        return len(self.tangent.eigenvalues) == len(self.tangent.diagonal)

    @property
    def step(self) -> float:
        """The largest stable learning rate of gradient descent on the loss; infinite where nothing moves."""
        return 2 / self._top if self._top > 0 else math.inf

    def stochastic_step(self, batch: int) -> float:
        """Return the largest stable learning rate of SGD with so many rows; see `Tangent.stochastic_step`."""
        return self.tangent.stochastic_step(batch, self._top)

    @property
    def _top(self) -> float:
        """The largest eigenvalue found, and how far above it one may lie."""
        return self.largest + self.largest_bound


def kernel(found: System, theta: Theta, *, limit: int, products: int, generator: torch.Generator) -> Kernel:
    """Return the tangent kernel of a system: whole up to `limit` rows, above that its ends by Lanczos' method.

    Args:
        found: the system.
        theta: where.
        limit: rows.
        products: for each of extremes and prediction.
        generator: draws the start of Lanczos' method.
    """
    n = found.rows
    if n <= limit:
        J = found.jacobian(theta)
        K = gram(found.function, theta).dense(limit=n * n) if J is None else J @ J.mT
        tangent = Tangent.of(K)
        with torch.no_grad():
            r = found.function(theta)
        return Kernel(tangent, r.cpu().double(), tangent.smallest, tangent.largest, 0.0, 0.0, K, J)
    operator = gram(found.function, theta)
    with torch.no_grad():
        r = found.function(theta)
    ends = extreme_eigenvalues(operator, generator=generator, most=products)
    values, vectors, bounds = lanczos(operator, r, products).ritz()
    tangent = Tangent(values, vectors, found.diagonal(theta).cpu().double())
    coordinates = torch.zeros(len(values), dtype=torch.float64)
    coordinates[0] = r.norm()
    # a bound is of the space that its value came from
    lowest = [(float(ends.smallest), float(ends.smallest_bound)), (float(values[0]), float(bounds[0]))]
    highest = [(float(ends.largest), float(ends.largest_bound)), (float(values[-1]), float(bounds[-1]))]
    (smallest, low), (largest, high) = min(lowest), max(highest)
    return Kernel(tangent, coordinates, smallest, largest, low, high, operator, None)


def moved(before: Kernel, after: Kernel, generator: torch.Generator) -> float:
    """Return |K_t - K_0| / |K_0| in the Frobenius norm, from products with random vectors where they are too large.

    Args:
        before: K_0 (n, n).
        after: K_t (n, n).
        generator: draws the vectors (n, 16), normal numbers, of which none are needed where both K are made.
    """
    if isinstance(before.matrix, Tensor) and isinstance(after.matrix, Tensor):
        return drift(before.matrix, after.matrix)
    n, like = before.matrix.shape[0], before.matrix
    Z = torch.randn(n, PROBES, generator=generator, device=generator.device, dtype=torch.float64)
    Z = Z.to(device=like.device, dtype=like.dtype)
    return drift(before.matrix @ Z, after.matrix @ Z)


@dataclass(frozen=True)
class Descent:
    """Gradient descent from the start of a kernel, beside what the kernel foretold; norms are (steps + 1,)."""

    predicted: Tensor
    measured: Tensor
    bound: Tensor
    drift: float

    @property
    def error(self) -> float:
        """The largest difference of the norms, relative to the first; infinite where one of them is."""
        if not bool(self.measured.isfinite().all()):
            return math.inf
        return float(((self.predicted - self.measured).abs() / self.measured[0]).max())

    @property
    def diverged(self) -> bool:
        """Whether the descent ends far above its start."""
        return not float(self.measured[-1]) < LOST * float(self.measured[0])


def descent(
    found: System,
    before: Kernel,
    *,
    step: float,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[int, float], None] | None = None,
    **how: int,
) -> Descent:
    """Run gradient descent, and find the kernel again where it ends.

    Args:
        found: the system, of n rows.
        before: its kernel at the start.
        step: on the loss, 1/2 |r|^2.
        steps: how many.
        generator: draws what `kernel` and `moved` need.
        tick: told the step and the norm after each.
        how: limit and products, as in `kernel`.

    Returns:
        norms (steps + 1,), foretold, measured and bounded; the bound is nan where not all eigenvalues were found.

    Raises:
        UsageError: a step that is not above 0, or steps below 0.
        RunError: r is not finite at the start.
    """
    measured, end = descend(found.function, found.start, step=step, steps=steps, tick=tick)
    after = kernel(found, end, generator=generator, **how)
    r0, tangent = before.coordinates, before.tangent
    bound = tangent.bound(r0, step, steps) if before.whole else torch.full_like(measured, math.nan)
    return Descent(tangent.predict(r0, step, steps), measured, bound, moved(before, after, generator))


def elsewhere(found: System, at: Kernel, other: System, step: float, steps: int) -> tuple[float, float] | None:
    """Foretell which part of |r|^2 stays after many steps: at the points that are trained on, and at others.

    At others r' moves by the kernel between the points, r'_t = r'_0 - K' V diag((1 - (1 - step l_i)^t) / l_i) V^T r_0.
    None where the Jacobians are too large, and for steps that are not stable.

    Args:
        found: the system, of n rows.
        at: its kernel at the start.
        other: the system at other points, of n' rows.
        step: on the loss, 1/2 |r|^2.
        steps: how many.
    """
    if step > at.step or at.jacobian is None or (slopes := other.jacobian(found.start)) is None:
        return None
    tangent, r = at.tangent, at.coordinates
    change = tangent.vectors @ (paces(tangent.eigenvalues, step, steps) * (tangent.vectors.mT @ r))  # (n,)
    with torch.no_grad():
        before = other.function(found.start)
    cross = slopes @ at.jacobian.mT  # (n', n)
    after = before - cross @ change.to(cross)
    own = float(tangent.predict(r, step, steps)[-1] / r.norm()) if float(r.norm()) else 0.0
    return own**2, float(after.norm() / before.norm()) ** 2


def paces(eigenvalues: Tensor, step: float, steps: int) -> Tensor:
    """Return sum_{k < steps} step (1 - step l)^k = (1 - (1 - step l)^steps) / l for eigenvalues l (n,).

    Args:
        eigenvalues: (n,), float64; those below 0 are rounding, and taken as 0.
        step: such that step l is at most 2.
        steps: how many.

    >>> paces(torch.tensor([0.0, 0.5, 2.0]), 1.0, 3)
    tensor([3.0000, 1.7500, 1.0000])
    """
    x = step * eigenvalues.clamp_min(0)
    # below 1 the difference cancels for small x, above it there is no logarithm
    gone = torch.where(x < 1, -torch.expm1(steps * torch.log1p(-x)), 1 - (1 - x) ** steps)
    small = torch.finfo(x.dtype).tiny
    return step * torch.where(x > small, gone / x.clamp_min(small), steps)


def still(at: Kernel, step: float, steps: int) -> float:
    """Return the part of |r|^2 in directions that lose less than half of theirs in so many steps."""
    tangent, shares = at.tangent, parts_of(at)
    left = steps * torch.log1p(-(step * tangent.eigenvalues).clamp(0, 1 - 1e-15))
    return float(shares[left > math.log(0.5)].sum())


def parts_of(at: Kernel) -> Tensor:
    """Return the part of |r|^2 in each eigendirection; they sum to 1."""
    squares = (at.tangent.vectors.mT @ at.coordinates).square()
    return squares / squares.sum() if float(squares.sum()) else squares
