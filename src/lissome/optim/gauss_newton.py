r"""Damped Gauss-Newton steps for a residual vector, with geodesic acceleration.

With the residual r (M,), its Jacobian J (M, p) and the damping lam, a part of the mean diagonal of J^T J,

    v     = -(J^T J + lam)^-1 J^T r
    r_vv  = (2 / h) ((r(x + h v) - r(x)) / h - J v)
    a     = -1/2 (J^T J + lam)^-1 J^T r_vv

and the step is v + a where 2 |a| / |v| < 0.75, else, or where that does not help, v. Where M < p the same numbers come
from the M x M system: (J^T J + lam)^-1 J^T = J^T (J J^T + lam)^-1. A rejected step costs no new Jacobian.

References: K. Levenberg 1944, D. Marquardt 1963; acceleration: M. Transtrum, J. Sethna, arXiv 1201.5885, equation (5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from scipy.linalg import get_blas_funcs
from torch import Tensor

from lissome._errors import RunError

SYRK: dict[torch.dtype, Any] = {torch.float32: get_blas_funcs("syrk", dtype="f"), torch.float64: get_blas_funcs("syrk")}
TIGHT = 1e-14  # damping is kept above it


class Ending(Enum):
    """What became of a step, as advice where there is any."""

    ACCEPTED = "The step lowers the loss."
    REJECTED = "No damping tried lowers the loss on these points: draw new ones, use float64, or stop here."


@dataclass(frozen=True)
class Damping:
    """How steps are damped and accepted; the figures are those that trials on networks for equations settled.

    Attributes:
        start: the first damping, relative to the mean diagonal of J^T J.
        shrink: what it is divided by when the loss falls by more than `good` of what the model promised.
        grow: what it is multiplied by when it falls by less than `poor`.
        retreat: what it is multiplied by when the step is rejected.
        reject: the least part of the promise that is accepted.
        tries: solves with one Jacobian before the step is given up.
        acceleration: whether the curve r_vv bends the step.
        probe: the h of r_vv.
        bend: the largest 2 |a| / |v| that is trusted.
    """

    start: float = 1e-2
    shrink: float = 3.0
    grow: float = 2.0
    retreat: float = 4.0
    good: float = 0.75
    poor: float = 0.25
    reject: float = 1e-3
    tries: int = 12
    acceleration: bool = True
    probe: float = 0.1
    bend: float = 0.75


@dataclass(frozen=True)
class LeastSquares:
    """Half of the problem min |r(x)|^2 that a step has to know; x is (p,).

    Attributes:
        residual: x -> r (M,), without graph; it may hold numbers that are not finite.
        linearize: x -> r (M,) and J (M, p).
    """

    residual: Callable[[Tensor], Tensor]
    linearize: Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Report:
    """One step: mean square before and after, |gradient| of it, damping used, and what it cost."""

    before: float
    loss: float
    gradient_norm: float
    damping: float
    rho: float
    accelerated: bool
    residuals: int
    solves: int
    ending: Ending


def advance(problem: LeastSquares, x: Tensor, damping: float, settings: Damping) -> tuple[Tensor, float, Report]:
    """Do one step from x (p,) with one Jacobian; return the new x, the damping of the next step, and a report.

    Raises:
        RunError: the residual or its Jacobian at x is not finite.
    """
    r, J = problem.linearize(x)  # (M,), (M, p)
    square, promise = float(r @ r), 0.0
    gradient = J.mT @ r  # (p,)
    if not (torch.isfinite(r).all() and torch.isfinite(gradient).all()):
        raise RunError("the residual or its Jacobian is not finite; start from other numbers, or use float64")
    system = _System(r, J, gradient)
    norm = 2 * float(gradient.norm()) / len(r)
    count, used = 0, damping

    def tried(step: Tensor) -> float:
        nonlocal count
        count += 1
        new = problem.residual(x + step)
        value = float(new @ new)
        return value if value == value else float("inf")

    for solve in range(1, settings.tries + 1):
        used = damping
        v = system.step(damping)
        if v is None:
            damping *= settings.retreat
            continue
        linear = r + J @ v
        promise = square - float(linear @ linear)
        bent = None
        if settings.acceleration:
            count += 1
            bent = _bent(problem, system, x, v, r, linear, settings)
        value, step = float("inf"), v
        if bent is not None:
            value, step = tried(v + bent), v + bent
        if not value < square:
            bent = None
            value, step = tried(v), v
        rho = (square - value) / promise if promise > 0 else -1.0
        if rho > settings.reject:
            damping = _next(damping, rho, settings)
            report = Report(
                square / len(r), value / len(r), norm, used, rho, bent is not None, count, solve, Ending.ACCEPTED
            )
            return x + step, damping, report
        damping *= settings.retreat
    flat = Report(square / len(r), square / len(r), norm, used, 0.0, False, count, settings.tries, Ending.REJECTED)
    return x, settings.start, flat  # a damping that has run away would take long to come back


def _next(damping: float, rho: float, settings: Damping) -> float:
    if rho > settings.good:
        return max(damping / settings.shrink, TIGHT)
    return damping * settings.grow if rho < settings.poor else damping


def _bent(
    problem: LeastSquares, system: _System, x: Tensor, v: Tensor, r: Tensor, linear: Tensor, settings: Damping
) -> Tensor | None:
    """Return the acceleration (p,), or None where it is not to be trusted."""
    h = settings.probe
    curved = (2 / h) * ((problem.residual(x + h * v) - r) / h - (linear - r))  # (M,)
    a = -0.5 * system.pull(curved)
    size = 2 * float(a.norm()) / float(v.norm().clamp_min(1e-300))
    return a if size < settings.bend else None


class _System:
    """(J^T J + lam m)^-1 J^T with m the mean diagonal of J^T J: the smaller of the two products is formed once."""

    def __init__(self, r: Tensor, J: Tensor, gradient: Tensor):
        self.r, self.J, self.gradient = r, J, gradient
        self.primal = J.shape[1] <= J.shape[0]
        self.product = product(J, rows=not self.primal)
        self.mean = float(self.product.diagonal().sum()) / J.shape[1]
        self.factor: Tensor | None = None

    def step(self, damping: float) -> Tensor | None:
        """Return v (p,), or None where rounding has made the damped matrix indefinite."""
        damped = self.product.clone()
        damped.diagonal().add_(damping * self.mean)
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) != 0:
            return None
        self.factor = factor
        return -(self._solve(self.gradient) if self.primal else self.pull(self.r))

    def pull(self, q: Tensor) -> Tensor:
        """Return (J^T J + lam m)^-1 J^T q (p,) for q (M,), with the damping of the last step."""
        return self._solve(self.J.mT @ q) if self.primal else self.J.mT @ self._solve(q)

    def _solve(self, right: Tensor) -> Tensor:
        assert self.factor is not None
        return torch.cholesky_solve(right[:, None], self.factor)[:, 0]


def product(J: Tensor, *, rows: bool = False) -> Tensor:
    """Return the lower triangle of J^T J (p, p), or of J J^T (M, M), from J (M, p); the upper one may hold anything.

    On a CPU by the library's symmetric product, half of the operations: 53 ms in place of 120 (3,000 x 941, float64,
    one thread).
    """
    if J.device.type != "cpu" or J.dtype not in SYRK:
        return J @ J.mT if rows else J.mT @ J
    # J by rows is J^T by columns, and an upper triangle by columns the lower one by rows
    return torch.from_numpy(SYRK[J.dtype](1.0, J.contiguous().numpy().T, trans=int(rows)).T)
