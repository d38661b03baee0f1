"""The heat equation in the unit cube, in any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class Heat(Family):
    """u_t = kappa Lap u from prod sin(pi x_i) + prod sin(2 pi x_i) / 2, with u = 0 on the faces."""

    name = "heat"
    title = "u_t = kappa Lap u in the unit cube, 0 < t < 1"
    parameters = (Parameter("kappa", 0.05, near=0.07, middle=0.2, far=0.5, low=0.0, high=100.0),)
    default_dimension = 1
    homogeneous = True
    kappa: float

    def domain(self) -> Box:
        """Return the unit cube with 0 < t < 1."""
        return Box((0.0,) * self.dimension, (1.0,) * self.dimension, time=(0.0, 1.0))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_t - kappa Lap u."""
        return u.dt - self.kappa * u.laplacian

    def exact(self, p: Points) -> Tensor:
        """Return the two decaying products of sines."""
        rate = self.kappa * self.dimension * math.pi**2 * p.t
        slow, fast = torch.sin(math.pi * p.x).prod(1), torch.sin(2 * math.pi * p.x).prod(1)
        return torch.exp(-rate) * slow + torch.exp(-4 * rate) * fast / 2
