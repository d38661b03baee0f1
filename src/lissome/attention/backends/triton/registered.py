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


def _either(run: Callable[..., Any], operator: Any, shared: int, at: int) -> Callable[..., Any]:
    """Return what does as `operator`: by a kernel where one takes q, k and v, its arguments from place `at` on."""

    def either(*given: Any) -> Any:
        q, k, v = given[at : at + 3]
        if shapes.refusal(q, k, v, shared):
            return _plainly(operator)(*given)
        return run(*given, precision=_precision())

    return either


forward_adjusted = _either(adjusted.forward, self_adjust._run, adjusted.SHARED, 0)
backward_adjusted = _either(adjusted.backward, self_adjust._run_backward, adjusted.SHARED, 3)
forward_compact = _either(gathered.forward, compact._run, gathered.SHARED, 0)
backward_compact = _either(gathered.backward, compact._run_backward, gathered.SHARED, 3)


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


def _refused(q: Tensor, k: Tensor, v: Tensor, numbers: Numbers) -> str:
    own = dape.refusal(q, v, len(numbers.hidden), numbers.inner.shape[1] // q.shape[1])
    return shapes.refusal(q, k, v, dape.SHARED) or own


def _precision() -> str:
    return PRECISION[torch.get_float32_matmul_precision()]


def _plainly(operator: Any) -> Callable[..., Any]:
    """Return the torch operations that an operator was made of."""
    return operator._init_fn
