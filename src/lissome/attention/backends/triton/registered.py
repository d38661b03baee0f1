"""Kernels as what the operators of the special ways run on a GPU.

What no kernel takes stays with the operators' own torch operations. Forward and backward decide by the same sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lissome.attention.backends import compact, convolved, self_adjust, toeplitz
from lissome.attention.backends import dape as unconvolved
from lissome.attention.backends.toeplitz import Numbers
from lissome.attention.backends.triton import compact as gathered
from lissome.attention.backends.triton import dape, shapes
from lissome.attention.backends.triton import self_adjust as adjusted

# how exact torch's own products of float32 are is the user's setting, and it holds here too
PRECISION = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}


def add() -> None:
    """Add the kernels to the operators, for tensors on CUDA."""
    for name, run, back in (
        (self_adjust.NAME, forward_adjusted, backward_adjusted),
        (unconvolved.NAME, forward_refined, backward_refined),
        (convolved.NAME, forward_refined, backward_refined),
        (compact.NAME, forward_compact, backward_compact),
    ):
        torch.library.register_kernel(f"lissome::{name}", "cuda", run)
        torch.library.register_kernel(f"lissome::{name}_backward", "cuda", back)


def forward_adjusted(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, variant: int, detach: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return what `lissome::self_adjust` does."""
    if shapes.refusal(q, k, v, adjusted.SHARED):
        return _plainly(self_adjust._run)(q, k, v, table, variant, detach, scale)
    return adjusted.forward(q, k, v, table, variant, detach, scale, precision=_precision())


def backward_adjusted(
    slope: Tensor,
    out: Tensor,
    known: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    variant: int,
    detach: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `lissome::self_adjust_backward` does."""
    if shapes.refusal(q, k, v, adjusted.SHARED):
        return _plainly(self_adjust._run_backward)(slope, out, known, q, k, v, table, variant, detach, scale)
    return adjusted.backward(slope, out, known, q, k, v, table, variant, detach, scale, precision=_precision())


def forward_refined(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    hidden: Tensor,
    edge: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: float,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    """Return what `lissome::dape` and `lissome::convolved` do."""
    numbers = Numbers(table, hidden, edge, inner, outer)
    if _refused(q, k, v, numbers):
        return toeplitz.forward(q, k, v, numbers, scale, residual)
    return dape.forward(q, k, v, *numbers, scale, residual, precision=_precision())


def backward_refined(
    slope: Tensor,
    out: Tensor,
    logs: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    hidden: Tensor,
    edge: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: float,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what `lissome::dape_backward` and `lissome::convolved_backward` do."""
    numbers = Numbers(table, hidden, edge, inner, outer)
    if _refused(q, k, v, numbers):
        dq, dk, dv, of = toeplitz.backward(slope, q, k, v, numbers, out, logs, scale, residual)
        return dq, dk, dv, of.table, of.hidden, of.edge, of.inner, of.outer
    return dape.backward(slope, q, k, v, *numbers, out, logs, scale, residual, precision=_precision())


def forward_compact(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, present: Tensor | None, near: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return what `lissome::compact` does."""
    if shapes.refusal(q, k, v, gathered.SHARED):
        return _plainly(compact._run)(q, k, v, kept, present, near, scale)
    return gathered.forward(q, k, v, kept, present, near, scale, precision=_precision())


def backward_compact(
    slope: Tensor,
    out: Tensor,
    logs: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    present: Tensor | None,
    near: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `lissome::compact_backward` does."""
    if shapes.refusal(q, k, v, gathered.SHARED):
        return _plainly(compact._run_backward)(slope, out, logs, q, k, v, kept, present, near, scale)
    return gathered.backward(slope, out, logs, q, k, v, kept, present, near, scale, precision=_precision())


def _refused(q: Tensor, k: Tensor, v: Tensor, numbers: Numbers) -> str:
    own = dape.refusal(q, v, len(numbers.hidden), numbers.inner.shape[1] // q.shape[1])
    return shapes.refusal(q, k, v, dape.SHARED) or own


def _precision() -> str:
    return PRECISION[torch.get_float32_matmul_precision()]


def _plainly(operator: Any) -> Callable[..., Any]:
    """Return the torch operations that an operator was made of."""
    return operator._init_fn
