r"""Cubic regularisation, adaptive or not, with momentum or without, and a trust region: one iteration, one loop.

At x with gradient g and Hessian B, s minimises the cubic model (`cubic`), and

    rho = (f(x) - f(x + s)) / (f(x) - m(s)); rejected where rho < 0.1 or f(x + s) is not finite: sigma rises (`control`)
    y   = x + s where accepted;              x+ = y or y + beta (y - y_prev), whichever is lower (`momentum`)

so f never rises. `default` differs from the paper in four ways: sigma starts at 0.003 |B|^2 / |g|; after a step that
went as promised with tau > 0.1 it tries sigma / 10 with the same factorisation as long as f falls; beta is searched;
and after a Newton step (tau <= 0.01) up to two steps more use its Hessian, while each takes nine tenths of the gradient
away.

Where the change of f drowns in its rounding, at most 10 eps |f|, rho comes from the gradients at both ends, by the
trapezoid -(g(x) + g(y))^T s / 2, whose error is of third order in s.

References: arXiv 2210.05987 (ARCm); Y. Nesterov, B. Polyak 2006, doi 10.1007/s10107-006-0706-8 (CR); C. Cartis,
N. Gould, P. Toint 2011, doi 10.1007/s10107-009-0286-5 (ARC); Hessians used again: N. Doikov, E. M. Chayti, M. Jaggi,
arXiv 2212.00781. Differs from them: `default`, and the trapezoid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from lissome.optim.control import ACTS, CONTROLS, GOOD, Control, Trial
from lissome.optim.cubic import Exact, Krylov, Step, Subproblem
from lissome.optim.family import PRESETS, Minimum, Outcome, Report, Settings, State
from lissome.optim.momentum import MOMENTA, Moved, Place
from lissome.optim.oracle import Oracle

REJECT = 0.1  # rho of the least step that is taken
TRIES = 60  # trials from one point
LONGER = 0.1  # tau above which a longer step is tried
CHORD = 0.1  # |g(y)| / |g(x)| of a chord step that is worth its gradient
DROWNED = 10  # times eps |f|: changes of f that rounding makes
SHRUNK = 0.9  # |g(y)| / |g| that is progress where f is rounding
PATIENCE = 5  # drowned steps without a new least |g|


def begin(x: Tensor) -> State:
    """Return the state before the first iteration from x (p,)."""
    x = x.detach().clone()
    return State(x, x)


def look(oracle: Oracle, state: State) -> tuple[float, Tensor]:
    """Return f and its gradient (p,) at the state's point; the oracle is asked where they are not known."""
    if state.f is not None and state.g is not None:
        return state.f, state.g
    return oracle.gradient(state.x)


def minimize(
    oracle: Oracle,
    x: Tensor,
    settings: Settings = PRESETS["default"],
    *,
    tolerance: float = 1e-6,
    iterations: int = 1000,
    on_step: Callable[[State, Report], None] | None = None,
) -> Minimum:
    """Minimise from x until |g| <= tolerance.

    A start whose gradient is that small already gets one step, in case it is a saddle.

    Args:
        oracle: the function.
        x: the start (p,).
        settings: the member of the family.
        tolerance: of the gradient's norm.
        iterations: the most there may be; trials that were rejected are not counted.
        on_step: called after each iteration, with f and its gradient known.

    >>> oracle = Oracle(lambda x: (x**4).sum(), lambda x: ((x**4).sum(), 4 * x**3), lambda x: torch.diag(12 * x**2))
    >>> minimize(oracle, torch.ones(2).double()).outcome
    <Outcome.CONVERGED: 'The gradient is as small as was asked for.'>
    """
    state, history = begin(x), []
    spent = oracle.counts
    f, g = look(oracle, state)
    outcome = Outcome.LOWERED
    while outcome is Outcome.LOWERED and len(history) < iterations:
        state, report = advance(oracle, replace(state, f=f, g=g), settings)
        f, g = look(oracle, state)
        report = replace(report, **asdict(oracle.counts - spent))  # with the gradient at the end, or the start's
        state, spent, outcome = replace(state, f=f, g=g), oracle.counts, report.outcome
        history.append(report)
        if on_step is not None:
            on_step(state, report)
        if outcome is not Outcome.NOT_FINITE and float(g.norm()) <= tolerance:
            outcome = Outcome.CONVERGED
    ended = Outcome.ITERATIONS if outcome is Outcome.LOWERED else outcome
    return Minimum(state.x, f, float(g.norm()), ended, tuple(history))


def advance(oracle: Oracle, state: State, settings: Settings) -> tuple[State, Report]:
    """Do one iteration: as many trials as it takes with one Hessian, then momentum.

    Returns:
        The next state, whose f and g may be unknown, and a report. Where no step is accepted x is the same.

    >>> oracle = Oracle(lambda x: (x**4).sum(), lambda x: ((x**4).sum(), 4 * x**3), lambda x: torch.diag(12 * x**2))
    >>> state, report = advance(oracle, begin(torch.ones(2).double()), PRESETS["trust"])
    >>> state.x, report.hessians
    (tensor([0.6667, 0.6667], dtype=torch.float64), 1)
    """
    spent = oracle.counts
    f, g = look(oracle, state)
    slope = float(g.norm())
    state = replace(state, best=min(state.best, slope), iteration=state.iteration + 1)
    report = Report(f, f, slope, 0.0, 0.0, state.sigma or 0.0, 0.0, 0, False, False, Outcome.NOT_FINITE, 0, 0, 0, 0)

    def told(state: State, report: Report, **changes: Any) -> tuple[State, Report]:
        return state, replace(report, **changes, **asdict(oracle.counts - spent))

    subproblem = _subproblem(oracle, state, g, settings) if math.isfinite(f) and math.isfinite(slope) else None
    if subproblem is None or not subproblem.finite():
        return told(state, report)
    control = CONTROLS[settings.control]
    sigma = state.sigma or settings.sigma or control.start(subproblem.norm(), slope)
    place = _Place(oracle, state.x, f, g, control)
    drowned = state.drowned
    for rejected in range(TRIES):
        step = control.solve(subproblem, sigma)
        if step.norm == 0:
            return told(state, report, outcome=Outcome.CONVERGED)
        trial = place.tried(step)
        report = replace(report, rho=trial.rho, tau=step.share, sigma=sigma, hard=step.hard, rejected=rejected)
        if place.accepts(trial):
            break
        if control.rejected is None:
            return told(state, report, rejected=1, outcome=Outcome.STALLED)
        drowned += place.drowned
        if drowned >= PATIENCE:
            return told(replace(state, drowned=0), report, rejected=rejected + 1, outcome=Outcome.PRECISION)
        sigma = control.rejected(sigma, trial)
    else:
        return told(state, report, rejected=TRIES, outcome=Outcome.STALLED)
    y, moved, outcome = state.x + step.s, Moved(state.x + step.s, trial.f, 0.0), Outcome.LOWERED
    if place.g is not None:  # rounding rules: neither longer steps nor momentum could be judged
        drowned = 0 if float(place.g.norm()) < state.best else drowned + 1
        outcome = Outcome.PRECISION if drowned >= PATIENCE else outcome
        after = replace(state, f=trial.f, g=place.g, drowned=drowned)
    else:
        sigma, trial = _lengthened(place, subproblem, sigma, trial, settings.longer)
        report = replace(report, rho=trial.rho, tau=trial.step.share, sigma=sigma, hard=trial.step.hard)
        y, s, after = state.x + trial.step.s, trial.step.s, replace(state, f=None, g=None, drowned=0)
        if settings.chords and isinstance(subproblem, Exact) and trial.step.share <= ACTS:
            y, f, g = _chords(oracle, subproblem, control, sigma, y, settings.chords)
            moved, after = Moved(y, f, 0.0), replace(after, f=f, g=g)
        else:
            moved = MOMENTA[settings.momentum](oracle, Place(y, trial.f, s, trial.step.share, state.y_prev))
    after = replace(after, x=moved.x, y_prev=y, sigma=control.accepted(sigma, trial))
    return told(after, report, f=moved.f, beta=moved.beta, accepted=True, outcome=outcome)


class _Place:
    """Trials from one point; g is the gradient at the last one, where its change of f was rounding."""

    def __init__(self, oracle: Oracle, x: Tensor, f: float, slope: Tensor, control: Control):
        self.oracle, self.x, self.f, self.slope, self.control = oracle, x, f, slope, control
        self.norm = float(slope.norm())
        self.rounding = DROWNED * torch.finfo(x.dtype).eps * abs(f)
        self.g: Tensor | None = None

    @property
    def drowned(self) -> bool:
        """Whether the last trial's change of f was rounding."""
        return self.g is not None

    def tried(self, step: Step) -> Trial:
        y = self.x + step.s
        f, promise = self.oracle.value(y), self.control.promise(step)
        actual, self.g = self.f - f, None
        if math.isfinite(f) and min(promise, abs(actual)) <= self.rounding:
            self.g = self.oracle.gradient(y)[1]
            actual = -float((self.slope + self.g) @ step.s) / 2
        rho = actual / promise if promise > 0 else -math.inf
        return Trial(step, f, rho, step.quadratic - actual, self.norm)

    def accepts(self, trial: Trial) -> bool:
        if self.control.rejected is None or not math.isfinite(trial.f):
            return math.isfinite(trial.f)
        shrunk = self.g is not None and float(self.g.norm()) <= SHRUNK * self.norm
        return trial.rho >= REJECT or shrunk


def _lengthened(place: _Place, subproblem: Subproblem, sigma: float, trial: Trial, tries: int) -> tuple[float, Trial]:
    """Try sigma / 10 as long as f falls; no product is needed."""
    for _ in range(tries):
        if not (trial.rho > GOOD and trial.step.share > LONGER):
            break
        longer = place.tried(place.control.solve(subproblem, sigma / 10))
        if not longer.f < trial.f:
            break
        sigma, trial = sigma / 10, longer
    return sigma, trial


def _chords(
    oracle: Oracle, subproblem: Exact, control: Control, sigma: float, x: Tensor, most: int
) -> tuple[Tensor, float, Tensor]:
    """Go on from x with the Hessian of the point before as long as each step takes nine tenths of the gradient away."""
    f, g = oracle.gradient(x)
    for _ in range(most):
        subproblem.aim(g)
        y = x + control.solve(subproblem, sigma).s
        f_y, g_y = oracle.gradient(y)
        if not (f_y <= f and float(g_y.norm()) <= CHORD * float(g.norm())):
            break
        x, f, g = y, f_y, g_y
    return x, f, g


def _subproblem(oracle: Oracle, state: State, g: Tensor, settings: Settings) -> Subproblem | None:
    """Return the solver at the state's point, or None where the Hessian is not finite."""
    B = oracle.hessian(state.x)
    if settings.subproblem == "exact" and not isinstance(B, Tensor):
        B = B.dense()
    if isinstance(B, Tensor) and settings.subproblem != "krylov":
        return Exact(B, g) if math.isfinite(float(B.sum())) else None  # a tenth of the time of a look at each
    generator = torch.Generator().manual_seed(state.iteration)
    return Krylov(B, g, settings.size, theta=settings.theta, generator=generator)
