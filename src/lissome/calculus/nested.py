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
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        value = u(z).reshape(len(z))  # (N,)
        gradient = _gradient(value, z)  # (N, D)
        used = sorted({i for row in second for i, weight in enumerate(row) if weight})
        curvature = {i: _gradient(gradient[:, i], z)[:, i] for i in used}  # (N,) each
    zeros = value.new_zeros(len(z))
    firsts = [gradient[:, i] for i in first]
    seconds = [sum((row[i] * curvature[i] for i in used if row[i]), zeros) for row in second]
    alongs = [(direction * gradient).sum(1) for direction in along] if along is not None else []
    parts = [value, _stack(firsts, value), _stack(seconds, value), _stack(alongs, value)]
    return Derivatives(*(parts if graph else [part.detach() for part in parts]))


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:  # u does not depend on z at all, or no longer
        return torch.zeros_like(z)
    return torch.autograd.grad(value.sum(), z, create_graph=True, allow_unused=True, materialize_grads=True)[0]


def _stack(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like.new_zeros(0, len(like))
