"""Gauss-Newton as a torch optimizer: its closure returns a residual, and its Jacobian comes from where one says."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.optim.flat import Flat
from lissome.optim.gauss_newton import Damping, LeastSquares, Report, advance

ROWS = 256  # backward passes at once through a closure's graph


class GaussNewton(torch.optim.Optimizer):
    """Damped Gauss-Newton with geodesic acceleration, as a torch optimizer whose closure returns a residual.

    The loss is the mean square of the residual. One step takes one Jacobian, two or three residuals and one
    factorization of the smaller of p x p and M x M. The closure may see other points in each step; within a step it has
    to see the same.

    Args:
        params: dense real parameters of one dtype and device, p numbers in all; float64 where accuracy decides.
        damping, shrink, grow, retreat, good, poor, reject, tries, acceleration, probe, bend: see `Damping`.
        linearize: gives the residual (M,) and its Jacobian (M, p) at the parameters as they are, the columns in their
            order; None takes the closure's graph, M backward passes at once.

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
        params: Iterable[Tensor],
        *,
        damping: float = 1e-2,
        shrink: float = 3.0,
        grow: float = 2.0,
        retreat: float = 4.0,
        good: float = 0.75,
        poor: float = 0.25,
        reject: float = 1e-3,
        tries: int = 12,
        acceleration: bool = True,
        probe: float = 0.1,
        bend: float = 0.75,
        linearize: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ):
        self.settings = Damping(damping, shrink, grow, retreat, good, poor, reject, tries, acceleration, probe, bend)
        super().__init__(params, {})
        if len(self.param_groups) > 1:
            raise UsageError(f"{len(self.param_groups)} groups of parameters were given; Gauss-Newton takes one")
        self.flat = Flat(self.param_groups[0]["params"])
        self.linearize = linearize
        self.report: Report | None = None

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Do one step and return the loss before it, ().

        Args:
            closure: returns the residual (M,), with its graph if there is no `linearize`.

        Raises:
            UsageError: the closure returns no vector, or one without a graph.
            RunError: the residual or its Jacobian is not finite. The parameters are left as they were.
        """
        kept = self.state[self.flat.parameters[0]]

        def residual(x: Tensor) -> Tensor:
            self.flat.put(x)
            with torch.no_grad():
                return _vector(closure())

        def linearize(x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linearize() if self.linearize is not None else _by_graph(closure, self.flat)

        with self.flat.kept():
            x = self.flat.get()
            x, damping, self.report = advance(
                LeastSquares(residual, linearize), x, kept.get("damping", self.settings.start), self.settings
            )
            self.flat.put(x)
        kept["damping"] = damping
        return x.new_tensor(self.report.before)


def _vector(residual: Tensor) -> Tensor:
    if not isinstance(residual, Tensor) or residual.dim() != 1 or not len(residual):
        got = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
        raise UsageError(f"the closure returned {got}; legal is a residual vector (M,), whose mean square is the loss")
    return residual


def _by_graph(closure: Callable[[], Tensor], flat: Flat) -> tuple[Tensor, Tensor]:
    """Return the residual and its Jacobian by a batch of backward passes through the closure's graph."""
    with torch.enable_grad():
        r = _vector(closure())
    if not r.requires_grad:
        raise UsageError("the closure's residual has no graph: compute it from the parameters, outside torch.no_grad")
    rows = []
    for units in torch.eye(len(r), dtype=r.dtype, device=r.device).split(ROWS):
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
