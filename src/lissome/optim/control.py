r"""How far a step may go: sigma of the cubic term, or the radius of a ball, before and after each trial.

With rho the decrease of f over the decrease promised, and tau in [0, 1] the part that the regulariser has in the step:

    fixed        sigma = M / 2 for ever; every step is accepted (CR)
    factor       sigma / 2 where rho > 0.9, 2 sigma after a rejection (ARC)
    gradient     max(min(sigma, |g|), 1e-16) where rho > 0.9, 2 sigma after a rejection (ARC, ARCm as published)
    interpolate  starts at 0.003 |B|^2 / |g|: at most 18 steps of |g| / |B| far, and scaling f changes nothing;
                 sigma / 2 where rho > 0.9 and tau > 0.01; after a rejection the sigma that would have foretold it,
                 3 (f(x + s) - q(s)) / |s|^3, within 3 to 100 times the old one
    radius       a trust region: a quarter of |s| where rho < 0.25, twice the radius where rho > 0.75 at the boundary

References: arXiv 2210.05987; C. Cartis, N. Gould, P. Toint 2011, doi 10.1007/s10107-009-0286-5, section 7;
J. Nocedal, S. Wright, Numerical Optimization (2006), algorithm 4.1. `interpolate` is of this library: ARC loses its
time while sigma falls slowly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lissome.optim.cubic import Step, Subproblem

GOOD = 0.9  # rho above which sigma falls
ACTS = 0.01  # tau below which sigma does not act, and is never lowered
LEAST, MOST = 1e-16, 1e16
FIRST = 0.003  # times |B|^2 / |g|; from 0, 1 takes half as many evaluations again; 1e-4 a tenth more Hessians


@dataclass(frozen=True)
class Trial:
    """A step, f where it leads, and how it did.

    Attributes:
        step: what was tried.
        f: f(x + s).
        rho: decrease of f over the decrease promised.
        excess: f(x + s) - q(s), what the quadratic did not foresee.
        gradient_norm: |g| at x.
    """

    step: Step
    f: float
    rho: float
    excess: float
    gradient_norm: float


@dataclass(frozen=True)
class Control:
    """A rule for sigma (or the radius).

    Attributes:
        start: (|B|, |g|) -> the first one.
        solve: (subproblem, sigma) -> step.
        accepted: (sigma, trial) -> the next one after a step that is taken.
        rejected: (sigma, trial) -> the next one to try; None means that every step is accepted.
        promise: step -> the decrease that rho compares with.
    """

    start: Callable[[float, float], float]
    solve: Callable[[Subproblem, float], Step]
    accepted: Callable[[float, Trial], float]
    rejected: Callable[[float, Trial], float] | None
    promise: Callable[[Step], float] = lambda step: step.cubic


def _clip(sigma: float) -> float:
    return min(max(sigma, LEAST), MOST)


def _gradient(sigma: float, trial: Trial) -> float:
    return max(min(sigma, trial.gradient_norm), LEAST) if trial.rho > GOOD else sigma


def _halved(sigma: float, trial: Trial) -> float:
    return _clip(sigma / 2) if trial.rho > GOOD and trial.step.share > ACTS else sigma


def _foretold(sigma: float, trial: Trial) -> float:
    if not math.isfinite(trial.f):
        return 100 * sigma
    return min(max(3 * trial.excess / trial.step.norm**3, 3 * sigma), 100 * sigma)


def _radius(radius: float, trial: Trial) -> float:
    if trial.rho < 0.25:
        return trial.step.norm / 4
    grows = trial.rho > 0.75 and trial.step.norm > 0.99 * radius
    return 2 * radius if grows else radius


CONTROLS: dict[str, Control] = {
    "fixed": Control(lambda norm, slope: 0.1, lambda sub, sigma: sub.cubic(sigma), lambda sigma, trial: sigma, None),
    "factor": Control(
        lambda norm, slope: 1.0,
        lambda sub, sigma: sub.cubic(sigma),
        lambda sigma, trial: _clip(sigma / 2) if trial.rho > GOOD else sigma,
        lambda sigma, trial: 2 * sigma,
    ),
    "gradient": Control(
        lambda norm, slope: 1.0, lambda sub, sigma: sub.cubic(sigma), _gradient, lambda sigma, trial: 2 * sigma
    ),
    "interpolate": Control(
        lambda norm, slope: _clip(FIRST * norm * norm / slope) if slope > 0 else 1.0,
        lambda sub, sigma: sub.cubic(sigma),
        _halved,
        _foretold,
    ),
    "radius": Control(
        lambda norm, slope: 1.0,
        lambda sub, radius: sub.trust(radius),
        _radius,
        lambda radius, trial: trial.step.norm / 4,
        lambda step: step.quadratic,
    ),
}
