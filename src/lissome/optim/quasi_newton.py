r"""Quasi-Newton methods with a dense inverse Hessian: BFGS, and the self-scaled BFGS and Broyden families.

With s the step, y the change of the gradient, H (p, p) the inverse Hessian and B = H^-1 (never formed: B s = -t g for
the step length t), a rule is the pair (theta, tau) of

    H+  = (H - H y y^T H / y^T H y + phi v v^T) / tau + s s^T / y^T s
    v   = sqrt(y^T H y) (s / y^T s - H y / y^T H y),    phi = (1 - theta) / (1 + a theta)

(Urban, Stefanou, Pons, arXiv 2405.04230, equations 11 and 13 to 23; theta = 0 is BFGS, theta = 1 DFP), given by

    b = s^T B s / y^T s,    h = y^T H y / y^T s,    a = b h - 1 >= 0,    c = sqrt(a / (1 + a)).

H+ y = s for every rule, and H+ is positive definite where y^T s > 0, tau > 0 and theta > -1/a. The rule `ssbroyden` is
that of M. Al-Baali and H. Khalfan, "A wide interval for efficient self-scaling quasi-Newton algorithms" (2003), the
function `ssbroyden`; `ssbfgs` is M. Al-Baali's (Comput. Optim. Appl. 9, 1998), tau = min(1, 1/b).

Differs from the paper: the matrix before the first update is (y^T s / y^T y) I (Nocedal and Wright 2006, equation
6.20), and the first tau 1 / (1 + a theta), which is 1 for BFGS; h (1 - c) is computed as 1 / (b (1 + c)), which does
not cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError, unknown
from lissome.optim.flat import Flat
from lissome.optim.line_search import Search, Trial, Verdict, search

LARGEST = 20_000  # parameters: 3.2 GB of H in float64

Evaluate = Callable[[Tensor], tuple[float, Tensor]]


def bfgs(b: float, h: float, p: int) -> tuple[float, float]:
    """Return (theta, tau) of BFGS: no scaling."""
    return 0.0, 1.0


def ssbfgs(b: float, h: float, p: int) -> tuple[float, float]:
    """Return (theta, tau) of self-scaled BFGS; arXiv 2405.04230, equation 11.

    >>> ssbfgs(4.0, 1.0, 10)
    (0.0, 0.25)
    """
    return 0.0, min(1.0, 1 / b)


def ssbroyden(b: float, h: float, p: int) -> tuple[float, float]:
    """Return (theta, tau) of the self-scaled Broyden family; arXiv 2405.04230, equations 13 to 23.

    >>> theta, tau = ssbroyden(4.0, 1.0, 10)
    >>> round(theta, 4), round(tau, 4)
    (-0.2887, 0.134)
    """
    a = max(b * h - 1, 0.0)  # Cauchy and Schwarz, but for rounding
    c = math.sqrt(a / (1 + a))
    rho = min(1.0, 1 / (b * (1 + c)))  # rho^- = min(1, h (1 - c))
    least, most = (rho - 1) / a if a > 0 else -math.inf, 1 / rho  # theta^-, theta^+
    theta = max(least, min(most, (1 - b) / b))
    sigma = 1 + a * theta  # at least rho^-
    tau, power = min(1.0, 1 / b), sigma ** (-1 / max(p - 1, 1))
    return theta, min(tau * power, sigma) if theta <= 0 else tau * power  # not min(power, 1 / theta): theta <= 1


Rule = Callable[[float, float, int], tuple[float, float]]
RULES: dict[str, Rule] = {"bfgs": bfgs, "ssbfgs": ssbfgs, "ssbroyden": ssbroyden}


class Ending(Enum):
    """What became of an iteration, as advice where there is any."""

    MOVED = "The step lowers the loss."
    RESTARTED = "The search failed, the matrix was forgotten, and a step of steepest descent lowers the loss."
    FLAT = "The gradient is zero: there is nothing to do here."
    STUCK = "Not even steepest descent lowers the loss: draw new points, use float64, or stop here."


@dataclass(frozen=True)
class State:
    """Where an iteration stands; H is updated in place.

    Attributes:
        x: the numbers, (p,).
        f: the loss there.
        g: its gradient there, (p,).
        H: the inverse Hessian, (p, p), symmetric; the identity before the first update.
        updates: how often H was updated since it was the identity.
    """

    x: Tensor
    f: float
    g: Tensor
    H: Tensor
    updates: int = 0


@dataclass(frozen=True)
class Report:
    """A step: loss and |gradient| at its end, the last step length, what it cost, and what became of it."""

    f: float
    gradient_norm: float
    step_length: float
    evaluations: int
    iterations: int
    ending: Ending


def update(H: Tensor, s: Tensor, y: Tensor, g: Tensor, t: float, *, rule: Rule, first: bool = False) -> bool:
    """Update the inverse Hessian in place by one rule; say whether the curvature y^T s allowed it.

    Args:
        H: (p, p), symmetric and positive definite; it stays exactly symmetric.
        s: the step (p,), t times the direction -H g.
        y: the change of the gradient over it (p,).
        g: the gradient before it (p,).
        t: the step length.
        rule: from b, h and p to theta and tau.
        first: H is the identity and is scaled by y^T s / y^T y before.

    >>> H, s, y = torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([4.0, 2.0])
    >>> update(H, s, y, -s, 1.0, rule=bfgs), torch.allclose(H @ y, s, atol=1e-6)
    (True, True)
    """
    ys = float(y @ s)
    if not ys > torch.finfo(H.dtype).eps * float(y.norm()) * float(s.norm()):
        return False  # also where one of them is not finite
    scale = ys / float(y @ y) if first else 1.0
    if first:
        H.mul_(scale)
    u = H @ y  # (p,)
    yHy = float(y @ u)
    b, h = -t * float(g @ s) / (scale * ys), yHy / ys
    if not (yHy > 0 and b > 0):
        return False  # rounding has made H indefinite
    theta, tau = rule(b, h, len(s))
    sigma = 1 + max(b * h - 1, 0.0) * theta
    if first:
        tau = 1 / sigma
    phi = (1 - theta) / sigma
    v = s / ys - u / yHy
    H.mul_(1 / tau)
    # products of two entries commute and are added one by one: symmetric to the bit, which addmm and addr are not
    for w, weight in ((u, -1 / (yHy * tau)), (v, phi * yHy / tau), (s, 1 / ys)):
        w = w * math.sqrt(abs(weight))
        H.addcmul_(w[:, None], w[None], value=math.copysign(1.0, weight))
    return True


def advance(
    evaluate: Evaluate, state: State, rule: Rule, settings: Search | None = None, *, first: float = 1.0
) -> tuple[State, Report]:
    """Do one iteration: a direction, a line search along it, an update of H.

    Where the search fails, H becomes the identity and steepest descent is tried once.

    Args:
        evaluate: from x (p,) to the loss and its gradient (p,), which may hold numbers that are not finite.
        state: at a finite loss and gradient.
        rule: from b, h and p to theta and tau.
        settings: of the line search.
        first: the first step length tried.

    >>> half = lambda x: (float(x @ x) / 2, x.clone())
    >>> x = torch.ones(2)
    >>> state, report = advance(half, State(x, *half(x), torch.eye(2)), bfgs)
    >>> state.f, report.ending.name
    (0.25, 'MOVED')
    """
    settings = settings or Search(rounding=10 * torch.finfo(state.g.dtype).eps)
    norm, count = float(state.g.norm()), 0
    if norm == 0:
        return state, Report(state.f, norm, 0.0, 0, 0, Ending.FLAT)
    for ending in (Ending.MOVED, Ending.RESTARTED):
        if ending is Ending.RESTARTED:
            if not state.updates:
                break  # that was steepest descent
            state = replace(state, H=state.H.zero_().fill_diagonal_(1.0), updates=0)
        d = -(state.H @ state.g)  # (p,)
        slope = float(state.g @ d)
        if not slope < 0:
            continue  # rounding has made H indefinite

        def along(t: float, x: Tensor = state.x, d: Tensor = d) -> Trial:
            f, g = evaluate(x + t * d)
            return Trial(t, f, float(g @ d), g)

        # nothing is known of the scale yet: the first step is at most 1 long in any norm, as torch's LBFGS does
        length = first if state.updates else first * min(1.0, 1 / float(state.g.abs().sum()))
        found = search(along, Trial(0.0, state.f, slope, state.g), length, settings)
        count += found.evaluations
        if found.verdict is not Verdict.FAILED:
            t, g = found.trial.t, found.trial.g
            assert g is not None
            s = t * d
            done = update(state.H, s, g - state.g, state.g, t, rule=rule, first=not state.updates)
            moved = State(state.x + s, found.trial.f, g, state.H, state.updates + done)
            return moved, Report(moved.f, float(g.norm()), t, count, 1, ending)
    return state, Report(state.f, norm, 0.0, count, 1, Ending.STUCK)


class QuasiNewton(torch.optim.Optimizer):
    """A quasi-Newton method as a torch optimizer, for up to 20,000 parameters taken as one vector.

    One step draws a direction from H (p, p), searches along it by the strong Wolfe conditions and updates H: about two
    evaluations and three passes over H. For new points between steps leave `fresh` on: H is kept, loss and gradient are
    evaluated anew. `report` says what became of the last step.

    Args:
        params: dense and real, of one dtype and device; one group.
        lr: the first step length tried.
        rule: `bfgs`, `ssbfgs` or `ssbroyden`.
        max_iter: iterations per step.
        max_eval: the most evaluations of one line search.
        c1: the least part of the promised decrease.
        c2: the largest part of the slope that may be left.
        fresh: evaluate loss and gradient at the start of each step; False takes them from the end of the last one if
            the parameters are still those, for a closure that is always the same.

    Raises:
        UsageError: an unknown rule, a number out of range, several groups, or more parameters than H can be held for.

    >>> w = torch.nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    >>> optimizer = QuasiNewton([w], max_iter=20)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w[0] - 1) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(closure)
    >>> optimizer.report.f < 1e-6, optimizer.report.ending.name
    (True, 'MOVED')
    """

    report: Report | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rule: str = "ssbroyden",
        max_iter: int = 1,
        max_eval: int = 25,
        c1: float = 1e-4,
        c2: float = 0.9,
        fresh: bool = True,
    ):
        if rule not in RULES:
            raise unknown("rule", rule, RULES)
        if not 0 < lr < math.inf:
            raise UsageError(f"lr is {lr}; legal is a number above 0")
        if max_iter < 1:
            raise UsageError(f"max_iter is {max_iter}; legal is a whole number of at least 1")
        Search(c1, c2, max_eval)
        super().__init__(
            params, dict(lr=lr, rule=rule, max_iter=max_iter, max_eval=max_eval, c1=c1, c2=c2, fresh=fresh)
        )
        if len(self.param_groups) != 1:
            raise UsageError(f"there are {len(self.param_groups)} groups of parameters; legal is one, with one H")
        flat = self._flat()
        size = flat.parameters[0].element_size() * len(flat) ** 2
        if len(flat) > LARGEST:
            raise UsageError(
                f"{len(flat):,} parameters need a matrix of {size:,} bytes; legal are at most {LARGEST:,}: take lbfgs"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state as a copy: H is updated in place."""
        super().__setstate__(state)
        for own in self.state.values():
            own.update({name: value.clone() for name, value in own.items() if isinstance(value, Tensor)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do `max_iter` iterations, fewer where one no longer moves; return the loss at the start.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss; the same function
                for all calls within a step.

        Raises:
            RunError: the loss or its gradient at the start is not finite; the parameters stay as they were.
        """
        group, flat = self.param_groups[0], self._flat()
        differentiable = torch.enable_grad()(closure)

        def evaluate(x: Tensor) -> tuple[float, Tensor]:
            flat.put(x)
            loss, gradients = _number(differentiable()), [p.grad for p in flat.parameters]
            if all(gradient is None for gradient in gradients):
                raise UsageError("the closure left no gradient in any parameter: call backward() on its loss")
            return loss, flat.join(gradients)

        with flat.kept():
            state, count = self._begin(evaluate, flat, group)
            loss = state.x.new_tensor(state.f)
            settings = Search(group["c1"], group["c2"], group["max_eval"], 10 * torch.finfo(state.x.dtype).eps)
            report = Report(state.f, float(state.g.norm()), 0.0, count, 0, Ending.MOVED)
            for _ in range(group["max_iter"]):
                state, last = advance(evaluate, state, RULES[group["rule"]], settings, first=group["lr"])
                report = replace(
                    last,
                    evaluations=report.evaluations + last.evaluations,
                    iterations=report.iterations + last.iterations,
                )
                if last.ending in (Ending.FLAT, Ending.STUCK):
                    break
            flat.put(state.x)
        self.state[flat.parameters[0]] = dict(vars(state))
        self.report = report
        return loss

    def _begin(self, evaluate: Evaluate, flat: Flat, group: Mapping[str, Any]) -> tuple[State, int]:
        """Return where the step starts, and the evaluations that took."""
        x, kept = flat.get(), self.state.get(flat.parameters[0], {})
        if kept and not group["fresh"] and torch.equal(kept["x"], x):
            return State(**kept), 0
        f, g = evaluate(x)
        if not (math.isfinite(f) and bool(g.isfinite().all())):
            raise RunError(
                f"the loss at the start of the step is {f} and its gradient has norm {float(g.norm())}; a line search "
                "needs finite ones: start from other numbers, or use float64"
            )
        if kept:
            return State(x, f, g, kept["H"], kept["updates"]), 1
        return State(x, f, g, torch.eye(len(x), dtype=x.dtype, device=x.device)), 1

    def _flat(self) -> Flat:
        return Flat(self.param_groups[0]["params"])


def _number(loss: Any) -> float:
    """Return the loss of a closure as a number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if isinstance(loss, int | float):
        return float(loss)
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise UsageError(f"the closure returned {got}; legal is the loss, one number")
