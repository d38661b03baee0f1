"""Convection on a circle, which networks find hard when it is fast (arXiv 2109.01050)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class Convection(Family):
    """u_t + beta u_x = 0 from sin x on the circle; beta = 30 is where plain networks fail."""

    name = "convection"
    title = "u_t + beta u_x = 0 on the circle, 0 < t < 1"
    parameters = (Parameter("beta", 1.0, near=2.0, middle=10.0, far=30.0),)
    dimensions = 1
    homogeneous = True
    beta: float

    def domain(self) -> Box:
        """Return the circle of length 2 pi with 0 < t < 1."""
        return Box((0.0,), (2 * math.pi,), time=(0.0, 1.0), periodic=True)

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_t + beta u_x."""
        return u.dt + self.beta * u.d(0)

    def exact(self, p: Points) -> Tensor:
        """Return the moving wave."""
        return torch.sin(p.x[:, 0] - self.beta * p.t)
