"""What one-pass derivatives know of modules: which are stacks, and how an activation bends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Bend = tuple[Tensor, Tensor, Tensor]


@runtime_checkable
class Chained(Protocol):
    """A module that is the composition of others, such as `models.MLP`."""

    def chain(self) -> list[nn.Module]:
        """Return those others, first applied first."""
        ...


@runtime_checkable
class Smooth(Protocol):
    """An activation that knows its derivatives."""

    def taylor(self, a: Tensor) -> Bend:
        """Return value, first and second derivative at a, each of a's shape."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """A layer y_q = sum_p f_qp(x_p), such as that of a KAN: it has slopes of its own at each point."""

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return y (N, w'), its slopes (N, w', w), and the map of g (N or 1, w') to sum_q g_q f_qp'' (N, w)."""
        ...


@runtime_checkable
class Translation(Protocol):
    """A module z -> z - offset, which leaves every derivative as it is."""

    def translate(self, z: Tensor) -> Tensor:
        """Return the moved points."""
        ...


@runtime_checkable
class Chart(Protocol):
    """A fixed smooth map of points to what a network reads, without parameters; the first module of a chain."""

    def chart(
        self, z: Tensor, first: tuple[int, ...], second: tuple[tuple[float, ...], ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return f(z) (N, K), its derivatives in some coordinates (k, N, K), and weighted second ones (m, N, K)."""
        ...


def _tanh(a: Tensor) -> Bend:
    y = torch.tanh(a)
    d1 = 1 - y * y
    return y, d1, -2 * y * d1


def _sigmoid(a: Tensor) -> Bend:
    y = torch.sigmoid(a)
    d1 = y * (1 - y)
    return y, d1, d1 * (1 - 2 * y)


def _silu(a: Tensor) -> Bend:
    s = torch.sigmoid(a)
    d = s * (1 - s)
    return a * s, s + a * d, d * (2 + a * (1 - 2 * s))


def _gelu(a: Tensor) -> Bend:
    cdf = 0.5 * (1 + torch.erf(a / math.sqrt(2)))
    pdf = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    return a * cdf, cdf + a * pdf, pdf * (2 - a * a)


_TORCH: dict[type, Callable[[Tensor], Bend]] = {
    nn.GELU: _gelu,
    nn.SiLU: _silu,
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
}


def bend(module: object) -> Callable[[Tensor], Bend] | None:
    """Return the rule a -> (value, slope, curvature) of an activation, or None where there is none."""
    if isinstance(module, Smooth):
        return module.taylor
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    return _TORCH.get(type(module))


def chain_of(module: object) -> list[nn.Module] | None:
    """Return the chart, translations, linear maps, layers and activations that a module composes; None if more."""
    if type(module) is nn.Identity:
        return []
    if isinstance(module, Chained):
        parts = module.chain()
    elif type(module) is nn.Sequential:
        parts = list(module)
    elif isinstance(module, nn.Module) and (
        type(module) is nn.Linear or isinstance(module, Translation | Chart | Mixing) or bend(module) is not None
    ):
        return [module]
    else:
        return None
    inner = [chain_of(part) for part in parts]
    leaves = [leaf for part in inner for leaf in part or []]
    late = any(isinstance(leaf, Chart) for leaf in leaves[1:])
    return None if late or any(part is None for part in inner) else leaves


def first_width(chain: list[nn.Module]) -> int:
    """Return the width of the first linear map if only translations precede it, else 0."""
    for module in chain:
        if isinstance(module, nn.Linear):
            return module.out_features
        if not isinstance(module, Translation):
            break
    return 0
