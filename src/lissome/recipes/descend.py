"""Plain gradient descent on 1/2 |r|^2, with full gradients or few rows: what a prediction is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome._vector import flatten, unflatten
from lissome.calculus import linearize

Function = Callable[[Any], Tensor]


def descend(
    r: Function,
    theta: Any,
    *,
    step: float,
    steps: int,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    tick: Callable[[int, float], None] | None = None,
) -> tuple[Tensor, Any]:
    """Run theta <- theta - step J^T r, or SGD with some rows of it, and keep the norms of r.

    Args:
        r: from a point to a vector (n,).
        theta: (p,), or name -> tensor; it stays as it is.
        step: on 1/2 |r|^2.
        steps: how many.
        batch: rows of a step, drawn with replacement, the gradient scaled by n / batch; None takes all.
        generator: draws the rows.
        tick: told the step and the norm after each.

    Returns:
        |r_t| of all rows (steps + 1,) in float64, inf from where it diverged; and the numbers at the end.

    Raises:
        UsageError: a batch below 1, or without a generator; steps below 0; as in `calculus.linearize`.
        RunError: r is not finite at the start.

    >>> norms, end = descend(lambda x: x - 1, torch.zeros(1), step=0.5, steps=2)
    >>> norms.tolist(), end
    ([1.0, 0.5, 0.25], tensor([0.7500]))
    """
    if steps < 0:
        raise UsageError(f"steps is {steps}; legal is a whole number of at least 0")
    if batch is not None and (batch < 1 or generator is None):
        raise UsageError(f"batch is {batch}; legal is None, or a whole number of at least 1 with a generator")
    norms = torch.full((steps + 1,), torch.inf, dtype=torch.float64)
    value, J = linearize(r, theta, mode="double-backward")
    norms[0] = value.double().norm()
    for k in range(1, steps + 1):
        try:
            moved = _moved(theta, step * (J.T @ _drawn(value, batch, generator)))
            value, J = linearize(r, moved, mode="double-backward")
        except RunError:  # not finite: it has diverged, and theta is the last place where r was a number
            break
        theta, norms[k] = moved, value.double().norm()
        if tick is not None:
            tick(k, float(norms[k]))
        if not bool(norms[k].isfinite()):
            break
    return norms, theta


def _drawn(value: Tensor, batch: int | None, generator: torch.Generator | None) -> Tensor:
    """Return r itself, or n / batch times those of its rows that are drawn, as often as they are."""
    if batch is None:
        return value
    assert generator is not None
    n = len(value)
    rows = torch.randint(n, (batch,), generator=generator, device=generator.device)
    counts = torch.bincount(rows, minlength=n).to(value)
    return n / batch * counts * value


def _moved(theta: Any, change: Tensor) -> Any:
    """Return a point less a change (p,), of the point's own kind."""
    if not isinstance(theta, Mapping):
        return theta - change
    return unflatten(flatten(theta) - change, theta)
