"""Derivatives in the input by nested reverse mode: slow, and right for any differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Derivatives:
    """Value (N,), first (k, N), second (m, N) and along (a, N) of a function at N points."""

    value: Tensor
    first: Tensor
    second: Tensor
    along: Tensor


def nested(
    u: Callable[[Tensor], Tensor],
    z: Tensor,
    first: tuple[int, ...] = (),
    second: tuple[tuple[float, ...], ...] = (),
    along: Tensor | None = None,
) -> Derivatives:
    """Return what `jets.derivatives` returns, by one reverse pass for the gradient and one per second derivative."""

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        value = u(z).reshape(len(z))
        return value.sum(), value

    # functions of functions, so that the result may itself be differentiated by torch.func
    gradient, pull, value = torch.func.vjp(torch.func.grad(total, has_aux=True), z, has_aux=True)  # type: ignore[misc]
    curvature = {}
    for i in sorted({i for row in second for i, weight in enumerate(row) if weight}):
        unit = torch.zeros_like(z)
        unit[:, i] = 1
        curvature[i] = pull(unit)[0][:, i]  # (N,)
    zeros = torch.zeros_like(value)
    firsts = [gradient[:, i] for i in first]
    seconds = [sum((row[i] * bend for i, bend in curvature.items() if row[i]), zeros) for row in second]
    alongs = [(direction * gradient).sum(1) for direction in along] if along is not None else []
    return Derivatives(value, _stack(firsts, value), _stack(seconds, value), _stack(alongs, value))


def _stack(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like.new_zeros(0, len(like))
