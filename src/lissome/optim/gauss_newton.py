r"""Damped Gauss-Newton steps for a residual vector, with momentum and geodesic acceleration.

With the residual r (M,), its Jacobian J (M, p) and w the step before, a rule of `damping` gives u and the step is bent:

    v     = mu w + u,   u the damped step for the residual r + J mu w: v is near mu w where J does not see
    r_vv  = (2 / h) ((r(x + h v) - r(x)) / h - J v)
    a     = -1/2 (J^T J + lam)^-1 J^T r_vv

and it is v + a where 2 |a| / |v| < 0.75, else, or where that does not help, v. Points may be new in each step: what J
does not see now, the J before saw, and without mu w the step forgets it. The first rejection takes mu w away. A
rejected step costs no new Jacobian, and none of `cubic` a new factorization.

References: acceleration: M. Transtrum, J. Sethna, arXiv 1201.5885, equation (5); momentum: G. Goldshlager,
N. Abrahamsen, L. Lin, arXiv 2401.10190 (SPRING). Differs from the latter: damping by trial, and no bound on the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from lissome._errors import RunError
from lissome.optim.damping import SYSTEMS, Damping, System


class Ending(Enum):
    """What became of a step, as advice where there is any."""

    ACCEPTED = "The step lowers the loss."
    REJECTED = "No damping tried lowers the loss on these points: draw new ones, use float64, or stop here."


class State(NamedTuple):
    """What one step leaves to the next: the damping, and the step itself (p,); None begins."""

    damping: float | None = None
    last: Tensor | None = None


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


def advance(problem: LeastSquares, x: Tensor, state: State, settings: Damping) -> tuple[Tensor, State, Report]:
    """Do one step from x (p,) with one Jacobian; return the new x, what the next step needs, and a report.

    Args:
        problem: the residual and its Jacobian.
        x: where the step starts, (p,).
        state: what the step before left.
        settings: the rule and its figures.

    Raises:
        RunError: the residual, its Jacobian or the square of it is not finite at x, or the residual wherever a step
            leads.
    """
    r, J = problem.linearize(x)  # (M,), (M, p)
    square = float(r @ r)
    gradient = J.mT @ r  # (p,)
    if not (torch.isfinite(r).all() and torch.isfinite(gradient).all()):
        raise RunError(
            f"the residual or its Jacobian is not finite (mean square {square / len(r)}); the parameters are as they "
            "were: start from other numbers, or use float64"
        )
    system = SYSTEMS[settings.rule](J, settings)
    base = None if state.last is None or settings.momentum == 0 else settings.momentum * state.last

    def aim() -> None:
        if base is None:
            system.aim(r, gradient)
        else:
            ahead = r + J @ base
            system.aim(ahead, J.mT @ ahead)

    aim()
    damping = system.first() if state.damping is None else state.damping
    norm = 2 * float(gradient.norm()) / len(r)
    count, used, least = 0, damping, math.inf

    def tried(step: Tensor) -> float:
        nonlocal count, least
        count += 1
        new = problem.residual(x + step)
        value = float(new @ new)
        value = value if value == value else math.inf
        least = min(least, value)
        return value

    for solve in range(1, settings.tries + 1):
        used = damping
        u = system.step(damping)
        if u is None:
            damping = system.rejected(damping, math.inf, solve - 1)
            continue
        v = u if base is None else base + u
        linear = r + J @ v
        model = float(linear @ linear)
        promise = square - model - system.charge(damping)
        bent = None
        if settings.acceleration:
            count += 1
            bent = _bent(problem, system, x, v, r, linear, settings)
        value, step = math.inf, v
        if bent is not None:
            value, step = tried(v + bent), v + bent
        if not value < square:
            bent = None
            value, step = tried(v), v
        rho = (square - value) / promise if promise > 0 else -1.0
        if rho > settings.reject:
            damping = system.accepted(damping, rho)
            report = Report(
                square / len(r), value / len(r), norm, used, rho, bent is not None, count, solve, Ending.ACCEPTED
            )
            return x + step, State(damping, step), report
        if base is None:
            damping = system.rejected(damping, value - model, solve - 1)
        else:
            base = None
            aim()
    if least == math.inf and count:
        raise RunError(
            f"the residual is not finite wherever the step leads, up to a damping of {used:.0e}; the parameters are as "
            "they were: start from other numbers, or use float64"
        )
    flat = Report(square / len(r), square / len(r), norm, used, 0.0, False, count, settings.tries, Ending.REJECTED)
    return x, State(system.first()), flat  # a damping that has run away would take long to come back


def _bent(
    problem: LeastSquares, system: System, x: Tensor, v: Tensor, r: Tensor, linear: Tensor, settings: Damping
) -> Tensor | None:
    """Return the acceleration (p,), or None where it is not to be trusted."""
    h = settings.probe
    curved = (2 / h) * ((problem.residual(x + h * v) - r) / h - (linear - r))  # (M,)
    a = -0.5 * system.pull(curved)
    size = 2 * float(a.norm()) / float(v.norm().clamp_min(1e-300))
    return a if size < settings.bend else None
