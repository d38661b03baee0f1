"""Allen-Cahn equations on the ball, the first family of SVD-PINNs (arXiv 2211.08760), in any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Ball
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class AllenCahn(Family):
    """u_t - Lap u - u + u^3 = f_c, u_c = e^-t [sin(pi/2 |1 - r|^2.5) + c sin(pi/2 (1 - r))], u = 0 on r = 1.

    u is C^2 with an r^3 term at the centre, where f has a kink; near r = 1 f is Hoelder-1/2.
    """

    name = "allen-cahn"
    title = "u_t - Lap u - u + u^3 = f on the unit ball, 0 < t < 1"
    parameters = (Parameter("c", 0.0, near=0.5, middle=2.0, far=50.0),)
    default_dimension = 10
    sampling = "published"
    radial = True
    c: float

    def domain(self) -> Ball:
        """Return the unit ball with 0 < t < 1."""
        return Ball(self.dimension, time=(0.0, 1.0))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_t - Lap u - u + u^3."""
        return u.dt - u.laplacian - u.value + u.value**3

    def exact(self, p: Points) -> Tensor:
        """Return the solution of the paper."""
        s = 1 - p.r
        return torch.exp(-p.t) * (torch.sin(math.pi / 2 * s.abs() ** 2.5) + self.c * torch.sin(math.pi / 2 * s))
