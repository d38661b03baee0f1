r"""ARC as a torch optimizer: adaptive cubic regularisation with momentum for a closure that returns the loss.

See `descent` for the iteration, `family` for its members, and arXiv 2210.05987 for the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome.optim import family
from lissome.optim.cubic import Product
from lissome.optim.curvature import LARGEST
from lissome.optim.descent import advance, begin, minimize
from lissome.optim.family import PRESETS, Minimum, Outcome, Report, Settings, State, preset
from lissome.optim.flat import Flat
from lissome.optim.oracle import Recorded

__all__ = [
    "ARC",
    "PRESETS",
    "Minimum",
    "Outcome",
    "Report",
    "Settings",
    "State",
    "advance",
    "begin",
    "minimize",
    "preset",
]
KEPT = ("sigma", "best", "drowned", "iteration")  # of the state, beside y_prev


class ARC(torch.optim.Optimizer):
    """Adaptive cubic regularisation, with or without momentum, or a trust region.

    The closure returns the loss with its graph and does not call `backward`. It is asked several times within a step
    and must stand for the same function each time: with mini-batches, draw the batch outside. From step to step the
    function may change. All parameters, of all groups, are one vector (p,), dense, real, of one dtype and device.

    Args:
        params: the parameters, or groups of them.
        preset: default, published, arc, cr, crm or trust; see `family.PRESETS`.
        adaptive: False fixes sigma; None keeps what the preset does.
        momentum: search, plane, published, wang, fixed or none; None keeps the preset's.
        subproblem: exact (a Hessian and its eigenvectors), krylov (products), or auto: whichever is cheaper by the
            clock at the first step, kept in the state from then on.
        hessian: () -> the Hessian at the parameters as they are, (p, p), or an operator with `shape` and `@`; in place
            of automatic differentiation.
        sigma: the first sigma, or the radius; None keeps the preset's.
        lr: not read; it is there for schedules that write it.

    Attributes:
        report: of the last step; None before the first. After a step that cannot improve, `report.accepted` is False
            and `report.outcome` says why.

    Raises:
        UsageError: an unknown name, or parameters that are sparse, complex or unlike each other; in `step`, a closure
            that returns no scalar with a graph, or more numbers than subproblem 'exact' can hold.
        RunError: in `step`, where the loss, its gradient or its Hessian is not finite at the point where the step
            starts. The parameters are then as they were.

    >>> x = torch.nn.Parameter(torch.tensor([2.0, 1.0], dtype=torch.float64))
    >>> optimizer = ARC([x])
    >>> for _ in range(20):
    ...     loss = optimizer.step(lambda: (x**4).sum() - (x**2).sum())
    >>> round(float(loss), 6)
    -0.5
    """

    def __init__(
        self,
        params: Iterable[Any],
        preset: str = "default",
        *,
        adaptive: bool | None = None,
        momentum: str | None = None,
        subproblem: str = "auto",
        hessian: Callable[[], Tensor | Product] | None = None,
        sigma: float | None = None,
        lr: float = 1.0,
    ):
        self.settings = family.preset(preset, adaptive=adaptive, momentum=momentum, subproblem=subproblem, sigma=sigma)
        self.hessian = hessian
        self.report: Report | None = None
        # the choice of the Hessian's form is measured once: it must survive a saved and a cleared state
        super().__init__(params, {"lr": lr, "dense": {"auto": None, "exact": True, "krylov": False}[subproblem]})
        self.flat = Flat(p for group in self.param_groups for p in group["params"])
        for index, p in enumerate(self.flat.parameters):
            if not p.requires_grad:
                raise UsageError(f"parameter {index} does not require gradients; call requires_grad_() on it")
        if subproblem == "exact" and len(self.flat) > LARGEST:
            raise UsageError(
                f"subproblem 'exact' holds the Hessian of at most {LARGEST} numbers, and there are {len(self.flat)}; "
                "take 'krylov'"
            )

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do one iteration, as many trials as it takes, and return the loss before it.

        Args:
            closure: returns the loss, a scalar with its graph.
        """
        if closure is None:
            raise UsageError("ARC.step needs a closure that returns the loss with its graph")
        group = self.param_groups[0]
        recorded = Recorded(closure, self.flat, self.hessian, group["dense"])
        with self.flat.kept():
            state, report = advance(recorded.oracle(), self._state(), self.settings)
            if report.outcome is Outcome.NOT_FINITE:
                raise RunError(
                    f"the loss is {report.before} and the gradient's norm {report.gradient_norm}, or the Hessian is "
                    "not finite; the parameters are as they were: start elsewhere, or scale the problem"
                )
            self.flat.put(state.x)
        group["dense"], self.report = recorded.dense, report
        self.state[self.flat.parameters[0]] = {"y_prev": state.y_prev} | {name: getattr(state, name) for name in KEPT}
        return state.x.new_tensor(report.before)

    def _state(self) -> State:
        """Return what is remembered, at the parameters as they are."""
        kept = self.state.get(self.flat.parameters[0], {})
        return replace(begin(self.flat.get()), **kept)
