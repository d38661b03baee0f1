"""Smooth activations, each with its first two derivatives beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown


class Sin(nn.Module):
    """sin(a), for any shape."""

    def forward(self, a: Tensor) -> Tensor:
        """Return sin(a)."""
        return torch.sin(a)

    def taylor(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, first and second derivative at a."""
        y = torch.sin(a)
        return y, torch.cos(a), -y


class ReLU3(nn.Module):
    """max(a, 0)^3 / 6, twice differentiable (SVD-PINNs, arXiv 2211.08760)."""

    smooth = 2  # continuous derivatives: the third jumps

    def forward(self, a: Tensor) -> Tensor:
        """Return max(a, 0)^3 / 6."""
        r = torch.relu(a)
        return r * r * r / 6

    def taylor(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, first and second derivative at a."""
        r = torch.relu(a)
        half = r * r / 2
        return half * r / 3, half, r


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "sin": Sin, "gelu": nn.GELU, "relu3": ReLU3}


def activation(name: str) -> nn.Module:
    """Make an activation by name: tanh, sin, gelu or relu3.

    Raises:
        UsageError: the name is unknown, or is plain ReLU, whose second derivative vanishes.
    """
    if name == "relu":
        raise UsageError("activation 'relu' has no second derivative, so a second-order operator sees 0; use 'relu3'")
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
