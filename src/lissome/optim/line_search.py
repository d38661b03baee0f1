r"""A step length that satisfies the strong Wolfe conditions, and why the search for it ended.

With phi(t) = f(x + t d) and phi'(0) < 0, a step length t is accepted where

    phi(t) <= phi(0) + c1 t phi'(0)      and      |phi'(t)| <= c2 |phi'(0)|,

found by bracketing and zoom with cubic interpolation: Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5
and 3.6, equation (3.59). Where phi(t) and phi(0) are equal up to rounding, the second condition alone decides, after
Hager and Zhang, SIAM J. Optim. 16 (2005), equation (4.1). A trial that is not finite counts as too long. Written here
because scipy's search takes numpy callables, torch's is private, and neither gets over such a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from lissome._errors import UsageError

REACH = (1.1, 4.0)  # least and largest growth of the last stretch while bracketing: MINPACK's dcsrch
MARGIN = 0.1  # of the bracket that a trial keeps from either end


class Verdict(Enum):
    """Why a search ended, as advice where there is any."""

    WOLFE = "The step satisfies the strong Wolfe conditions."
    DECREASE = "The step lowers the loss, and none was found that is flat enough too: allow more evaluations."
    FAILED = "No step along this direction lowers the loss: take another direction, use float64, or stop here."


@dataclass(frozen=True)
class Search:
    """The conditions of a search and what it may cost.

    Attributes:
        c1: the least part of the promised decrease.
        c2: the largest part of the slope that may be left.
        evaluations: the most trials of one search.
        rounding: the relative change of phi that counts as none.

    Raises:
        UsageError: not 0 < c1 < c2 < 1, or no evaluation allowed.
    """

    c1: float = 1e-4  # Nocedal and Wright, section 3.1, also c2
    c2: float = 0.9
    evaluations: int = 25
    rounding: float = 0.0

    def __post_init__(self):
        if not 0 < self.c1 < self.c2 < 1:
            raise UsageError(f"c1 is {self.c1} and c2 is {self.c2}; legal is 0 < c1 < c2 < 1")
        if self.evaluations < 1:
            raise UsageError(f"evaluations is {self.evaluations}; legal is a whole number of at least 1")


@dataclass(frozen=True)
class Trial:
    """One point of the line: step length, phi, phi', and the gradient (p,) of f there."""

    t: float
    f: float
    slope: float
    g: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether both numbers are."""
        return math.isfinite(self.f) and math.isfinite(self.slope)


@dataclass(frozen=True)
class Found:
    """The best trial, the start itself if the search failed; the evaluations spent; why it ended."""

    trial: Trial
    evaluations: int
    verdict: Verdict


def search(evaluate: Callable[[float], Trial], start: Trial, first: float, settings: Search | None = None) -> Found:
    """Look for a step length that satisfies the strong Wolfe conditions.

    Args:
        evaluate: from a step length to what is there.
        start: what is at t = 0; its slope is below 0.
        first: the first step length tried, above 0.
        settings: None takes `Search()`.

    >>> def parabola(t):
    ...     return Trial(t, (t - 3) ** 2, 2 * (t - 3))
    >>> found = search(parabola, parabola(0.0), 10.0)
    >>> found.trial.t, found.evaluations, found.verdict.name
    (3.0, 2, 'WOLFE')
    """
    return _Line(evaluate, start, settings or Search()).bracket(first)


class _Line:
    """One search: the line, the conditions on it, and the count of trials."""

    def __init__(self, evaluate: Callable[[float], Trial], start: Trial, settings: Search):
        self.evaluate, self.start, self.settings = evaluate, start, settings
        self.count = 0

    def bracket(self, t: float) -> Found:
        """Go outwards until a trial is accepted or too long: algorithm 3.5."""
        low = self.start
        while self.count < self.settings.evaluations:
            trial = self.look(t)
            if self.flat(trial) and self.low(trial):
                return Found(trial, self.count, Verdict.WOLFE)
            if not self.falls(trial) or (low is not self.start and trial.f >= low.f):
                return self.zoom(low, trial)
            if trial.slope >= 0:
                return self.zoom(trial, low)
            stretch = t - low.t
            least, most = t + REACH[0] * stretch, t + REACH[1] * stretch
            wanted = interpolate(low, trial)
            # a minimiser behind the trial is none ahead of it
            low, t = trial, most if wanted is None or wanted <= t else min(max(wanted, least), most)
        return self.ended(low)

    def zoom(self, low: Trial, high: Trial) -> Found:
        """Narrow a bracket; `low` is its lower end, and has decrease unless it is the start: algorithm 3.6."""
        while self.count < self.settings.evaluations:
            width = high.t - low.t  # negative where the bracket lies to the left
            trial = self.look(low.t + width * self.share(low, high))
            if trial.t in (low.t, high.t):
                break  # no number is left between the ends
            if self.flat(trial) and self.low(trial):
                return Found(trial, self.count, Verdict.WOLFE)
            if not self.falls(trial) or trial.f >= low.f:
                high = trial
            else:
                if trial.slope * width >= 0:
                    high = low
                low = trial
        return self.ended(low)

    def share(self, low: Trial, high: Trial) -> float:
        """Return where in the bracket to look next, between 0 (low) and 1 (high)."""
        if not high.finite:
            return MARGIN
        wanted = interpolate(low, high)
        if wanted is None:
            return 0.5
        return min(max((wanted - low.t) / (high.t - low.t), MARGIN), 1 - MARGIN)

    def look(self, t: float) -> Trial:
        self.count += 1
        return self.evaluate(t)

    def falls(self, trial: Trial) -> bool:
        return trial.finite and trial.f <= self.start.f + self.settings.c1 * trial.t * self.start.slope

    def low(self, trial: Trial) -> bool:
        change = abs(trial.f - self.start.f)
        return self.falls(trial) or change <= self.settings.rounding * abs(self.start.f)

    def flat(self, trial: Trial) -> bool:
        return trial.finite and abs(trial.slope) <= self.settings.c2 * abs(self.start.slope)

    def ended(self, low: Trial) -> Found:
        return Found(low, self.count, Verdict.FAILED if low is self.start else Verdict.DECREASE)


def interpolate(a: Trial, b: Trial) -> float | None:
    """Return the minimiser of the cubic through both values and slopes, None where it has none: equation (3.59).

    >>> interpolate(Trial(0.0, 4.0, -4.0), Trial(3.0, 1.0, 2.0))
    2.0
    """
    if not (a.finite and b.finite) or a.t == b.t:
        return None
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return None
    d2 = math.copysign(math.sqrt(square), b.t - a.t)
    below = b.slope - a.slope + 2 * d2
    t = b.t - (b.t - a.t) * (b.slope + d2 - d1) / below if below else math.nan
    return t if math.isfinite(t) else None  # squares of huge slopes are infinite
