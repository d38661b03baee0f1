"""Helmholtz's equation in a square, with waves of two lengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class Helmholtz(Family):
    """Lap u + kappa^2 u = f with u = sin(pi x) sin(a pi y); a = 4, kappa = 1 is the usual test (arXiv 2001.04536)."""

    name = "helmholtz"
    title = "Lap u + kappa^2 u = f in the square (-1, 1)^2"
    parameters = (
        Parameter("a", 1.0, near=2.0, middle=3.0, far=4.0, low=0.1, high=64.0),
        Parameter("kappa", 1.0, near=2.0, middle=4.0, far=8.0, low=0.0, high=100.0),
    )
    dimensions = 2
    a: float
    kappa: float

    def domain(self) -> Box:
        """Return the square."""
        return Box((-1.0, -1.0), (1.0, 1.0))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return Lap u + kappa^2 u."""
        return u.laplacian + self.kappa**2 * u.value

    def exact(self, p: Points) -> Tensor:
        """Return the product of two sines."""
        return torch.sin(math.pi * p.x[:, 0]) * torch.sin(self.a * math.pi * p.x[:, 1])
