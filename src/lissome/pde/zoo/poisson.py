"""Poisson's equation in the unit cube, in any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class Poisson(Family):
    """-Lap u = f with u = prod sin(k pi x_i) + c prod sin(2 k pi x_i); u = 0 on the faces where k is whole."""

    name = "poisson"
    title = "-Lap u = f in the unit cube"
    parameters = (
        Parameter("c", 0.0, near=0.5, middle=2.0, far=50.0),
        Parameter("k", 1.0, near=2.0, middle=3.0, far=4.0, low=0.1, high=64.0),
    )
    c: float
    k: float

    def domain(self) -> Box:
        """Return the unit cube."""
        return Box((0.0,) * self.dimension, (1.0,) * self.dimension)

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return -Lap u."""
        return -u.laplacian

    def exact(self, p: Points) -> Tensor:
        """Return the two products of sines."""
        a = self.k * math.pi * p.x
        return torch.sin(a).prod(1) + self.c * torch.sin(2 * a).prod(1)
