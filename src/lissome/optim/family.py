"""The members of the cubic family as data, and the values that an iteration takes and gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from torch import Tensor

from lissome._errors import UsageError, unknown
from lissome.optim.control import CONTROLS
from lissome.optim.momentum import MOMENTA

SUBPROBLEMS = ("auto", "exact", "krylov")


class Outcome(Enum):
    """What became of a step or of a minimisation, as advice where there is any."""

    LOWERED = "The step is taken; go on."
    CONVERGED = "The gradient is as small as was asked for."
    PRECISION = "Rounding hides what is left to gain; for a smaller gradient take float64."
    ITERATIONS = "All iterations are used; go on from this point with more of them."
    STALLED = "No step from here lowers f as its derivatives promise: check them, or stop here."
    NOT_FINITE = "f or a derivative is not finite at this point: start elsewhere, or scale the problem."


@dataclass(frozen=True)
class Settings:
    """A member of the family.

    Attributes:
        control: how sigma moves; a name in `control.CONTROLS`.
        momentum: where to go on from an accepted point; a name in `momentum.MOMENTA`.
        subproblem: exact, krylov, or auto: exact where the oracle gives a matrix.
        sigma: the first sigma (or radius); None takes the control's own.
        longer: how often sigma / 10 is tried with one factorisation.
        chords: the most steps after a Newton step that use its Hessian again, where that is formed, in place of
            momentum.
        size: the most products of one Krylov space.
        theta: the residual of a Krylov step, relative to min(1, |s|) |g|.

    Raises:
        UsageError: an unknown name, or a number out of its range.
    """

    control: str = "interpolate"
    momentum: str = "search"
    subproblem: str = "auto"
    sigma: float | None = None
    longer: int = 12
    chords: int = 2
    size: int = 50
    theta: float = 0.01

    def __post_init__(self):
        for kind, name, legal in (
            ("control", self.control, CONTROLS),
            ("momentum", self.momentum, MOMENTA),
            ("subproblem", self.subproblem, SUBPROBLEMS),
        ):
            if name not in legal:
                raise unknown(kind, name, legal)
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UsageError(f"sigma must be None or a positive number, not {self.sigma}")
        if self.longer and self.control == "radius":
            raise UsageError(f"longer is {self.longer}; with control 'radius', which has no sigma, 0 alone is legal")
        if min(self.longer, self.chords) < 0 or self.size < 1 or not 0 < self.theta < 1:
            raise UsageError(
                f"longer {self.longer}, chords {self.chords}, size {self.size} and theta {self.theta} must be at least "
                "0, at least 0, at least 1 and in (0, 1)"
            )


PRESETS: dict[str, Settings] = {
    "default": Settings(),
    "published": Settings("gradient", "published", sigma=1.0, longer=0, chords=0),
    "arc": Settings("factor", "none", sigma=1.0, longer=0, chords=0),
    "cr": Settings("fixed", "none", sigma=0.1, longer=0, chords=0),
    "crm": Settings("fixed", "fixed", sigma=0.1, longer=0, chords=0),
    "trust": Settings("radius", "none", sigma=1.0, longer=0, chords=0),
}


def preset(name: str, *, adaptive: bool | None = None, **changes: Any) -> Settings:
    """Return a preset with changes; those that are None keep what it has.

    Args:
        name: a name in `PRESETS`.
        adaptive: False fixes sigma (at 0.1 if none is given), True adapts it as the paper does where the preset
            fixes it.
        changes: fields of `Settings`.

    Raises:
        UsageError: an unknown name, or a field that `Settings` refuses.

    >>> preset("default", adaptive=False, momentum="fixed") == replace(PRESETS["crm"], sigma=None)
    True
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    settings = PRESETS[name]
    if adaptive is False:
        settings = replace(settings, control="fixed", sigma=None, longer=0, chords=0)
    elif adaptive and settings.control == "fixed":
        settings = replace(settings, control="gradient", sigma=1.0)
    return replace(settings, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class State:
    """What the next iteration depends on.

    Attributes:
        x: the point (p,).
        y_prev: the last accepted point (p,), before momentum; the start at first.
        sigma: of the next trial, or the radius; None before the first.
        f: f(x), and g: its gradient (p,); None where they are not known yet.
        best: the least |g| so far.
        drowned: steps without a new least |g| whose change of f was lost in rounding.
        iteration: steps so far; it seeds the random vectors of Krylov spaces.
    """

    x: Tensor
    y_prev: Tensor
    sigma: float | None = None
    f: float | None = None
    g: Tensor | None = None
    best: float = math.inf
    drowned: int = 0
    iteration: int = 0


@dataclass(frozen=True)
class Report:
    """One iteration.

    Attributes:
        before: f at its start, and f: f at its end.
        gradient_norm: |g| at its start.
        rho: the decrease of f over that promised, of the step taken or last tried.
        tau: the part of the regulariser in that step.
        sigma: of that step; the radius of a trust region.
        beta: of the momentum; 0 stayed at y.
        rejected: steps that were rejected.
        hard: whether the step was of the hard case.
        accepted: whether x moved.
        outcome: what became of it.
        evaluations: of f alone; gradients, Hessians formed and products beside.
    """

    before: float
    f: float
    gradient_norm: float
    rho: float
    tau: float
    sigma: float
    beta: float
    rejected: int
    hard: bool
    accepted: bool
    outcome: Outcome
    evaluations: int
    gradients: int
    hessians: int
    products: int


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended: the point (p,), f and |g| there, why, and a report per iteration."""

    x: Tensor
    f: float
    gradient_norm: float
    outcome: Outcome
    history: tuple[Report, ...]
