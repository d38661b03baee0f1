"""Gauss-Newton as a torch optimizer: its closure returns a residual, and its Jacobian comes from where one says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError, unknown
from lissome.optim.damping import RULES
from lissome.optim.flat import Flat
from lissome.optim.gauss_newton import LeastSquares, Report, State, advance

ROWS = 256  # backward passes at once through a closure's graph
LARGEST = 1_000_000_000  # numbers of a Jacobian, 8 GB in float64


class GaussNewton(torch.optim.Optimizer):
    """Damped Gauss-Newton with geodesic acceleration, as a torch optimizer whose closure returns a residual.

    The loss is the mean square of the residual. One step takes one Jacobian, two or three residuals and one
    factorization of the smaller of p x p and M x M: Cholesky's under `marquardt`; eigenvectors under `cubic`, which
    cost some 15 times more and serve all further tries. The closure may see other points in each step; within a step it
    has to see the same.

    Args:
        params: dense real parameters of one dtype and device, p numbers in all; float64 where accuracy decides.
        rule: marquardt or cubic, which penalises |u|^3; see `damping`.
        damping: the first; see `Damping.start`. None keeps the rule's, as it does for all that follow.
        momentum: how much of the step before a step keeps where the Jacobian does not see; see `gauss_newton`.
        shrink, grow, retreat, good, poor, reject, tries, acceleration, probe, bend: see `Damping` and `RULES`.
        linearize: gives the residual (M,) and its Jacobian (M, p) at the parameters as they are, the columns in their
            order; None takes the closure's graph, 256 backward passes at once.

    Attributes:
        report: of the last step; None before the first.

    Raises:
        UsageError: an unknown rule, a figure out of range, several groups, or parameters that are sparse, complex,
            unlike each other or without gradients.

    Example:
        >>> line = torch.nn.Linear(1, 1).double()
        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> optimizer = GaussNewton(line.parameters(), damping=1e-6)
        >>> for _ in range(3):
        ...     _ = optimizer.step(lambda: (line(x) - (3 * x - 1)).flatten())
        >>> round(line.weight.item(), 6), round(line.bias.item(), 6)
        (3.0, -1.0)
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: str = "marquardt",
        *,
        damping: float | None = None,
        momentum: float | None = None,
        shrink: float | None = None,
        grow: float | None = None,
        retreat: float | None = None,
        good: float | None = None,
        poor: float | None = None,
        reject: float | None = None,
        tries: int | None = None,
        acceleration: bool | None = None,
        probe: float | None = None,
        bend: float | None = None,
        linearize: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ):
        if rule not in RULES:
            raise unknown("rule", rule, RULES)
        given = dict(start=damping, shrink=shrink, grow=grow, retreat=retreat, good=good, poor=poor, reject=reject)
        given |= dict(tries=tries, momentum=momentum, acceleration=acceleration, probe=probe, bend=bend)
        figures: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.settings = replace(RULES[rule], **figures)
        super().__init__(params, {})
        if len(self.param_groups) > 1:
            raise UsageError(f"{len(self.param_groups)} groups of parameters were given; Gauss-Newton takes one")
        self.flat = Flat(self.param_groups[0]["params"])
        for index, p in enumerate(self.flat.parameters):
            if not p.requires_grad:
                raise UsageError(f"parameter {index} does not require gradients; call requires_grad_() on it")
        self.linearize = linearize
        self.report: Report | None = None

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do one step and return the loss before it, ().

        Args:
            closure: returns the residual (M,), with its graph if there is no `linearize`.

        Raises:
            UsageError: the closure returns no vector of the parameters' dtype, or one without a graph, or one whose
                Jacobian is more than can be held.
            RunError: the residual or its Jacobian is not finite. The parameters are left as they were.
        """
        if closure is None:
            raise UsageError("GaussNewton.step needs a closure that returns the residual, a vector (M,)")
        first = self.flat.parameters[0]
        kept = State(**self.state.get(first, {}))
        if kept.last is not None and kept.last.shape != (len(self.flat),):
            raise UsageError(
                f"the loaded state is of {len(kept.last)} numbers and these parameters are {len(self.flat)}: load the "
                "state that was saved with them"
            )

        def residual(x: Tensor) -> Tensor:
            self.flat.put(x)
            with torch.no_grad():
                return _vector(closure(), x.dtype).detach()

        def linearize(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linearize() if self.linearize is not None else _by_graph(closure, self.flat)

        with self.flat.kept():
            x = self.flat.get()
            x, state, self.report = advance(LeastSquares(residual, linearize), x, kept, self.settings)
            self.flat.put(x)
        self.state[first] = state._asdict()
        return x.new_tensor(self.report.before)


def _vector(residual: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(residual, Tensor) or residual.dim() != 1 or not len(residual):
        got = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
        raise UsageError(f"the closure returned {got}; legal is a residual vector (M,), whose mean square is the loss")
    if residual.dtype != dtype:
        raise UsageError(
            f"the closure returned a residual of {residual.dtype}; legal is {dtype}, as the parameters are"
        )
    return residual


def _by_graph(closure: Callable[[], Tensor], flat: Flat) -> tuple[Tensor, Tensor]:
    """Return the residual and its Jacobian by a batch of backward passes through the closure's graph."""
    with torch.enable_grad():
        r = _vector(closure(), flat.parameters[0].dtype)
    if not r.requires_grad:
        raise UsageError("the closure's residual has no graph: compute it from the parameters, outside torch.no_grad")
    if len(r) * len(flat) > LARGEST:
        raise UsageError(
            f"the Jacobian would hold {len(r) * len(flat):,} numbers, and legal are {LARGEST:,}: take fewer points, or "
            "lbfgs, or ARC with subproblem='krylov'"
        )
    rows = []
    for chosen in torch.arange(len(r), device=r.device).split(ROWS):
        units = r.new_zeros(len(chosen), len(r))  # rows of the identity
        units[:, chosen] = torch.eye(len(chosen), dtype=r.dtype, device=r.device)
        found = torch.autograd.grad(
            r,
            flat.parameters,
            units,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([part.reshape(len(units), -1) for part in found], 1))
    return r.detach(), torch.cat(rows)
