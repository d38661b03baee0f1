"""A nonlinear Klein-Gordon equation, of second order in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class KleinGordon(Family):
    """u_tt - u_xx + gamma u^3 = f with u = x cos(omega pi t) + (x t)^3.

    omega = 5 is the usual test (arXiv 2001.04536). The blend of the faces, x (cos(omega pi t) + t^3), would hold the
    whole wave and leave (x^3 - x) t^3 to a network under a hard constraint, for every member; see `lift`.
    """

    name = "klein-gordon"
    title = "u_tt - u_xx + gamma u^3 = f, 0 < x < 1, 0 < t < 1"
    parameters = (
        Parameter("omega", 1.0, near=1.5, middle=3.0, far=5.0, low=0.0, high=64.0),
        Parameter("gamma", 1.0, near=2.0, middle=5.0, far=20.0),
    )
    dimensions = 1
    order_in_time = 2
    omega: float
    gamma: float

    def domain(self) -> Box:
        """Return the unit interval with 0 < t < 1."""
        return Box((0.0,), (1.0,), time=(0.0, 1.0))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_tt - u_xx + gamma u^3."""
        return u.dtt - u.laplacian + self.gamma * u.value**3

    def exact(self, p: Points) -> Tensor:
        """Return the usual solution."""
        x, t = p.x[:, 0], p.t
        return x * torch.cos(self.omega * math.pi * t) + (x * t) ** 3

    def lift(self, p: Points) -> Tensor:
        """Return x^2 times the values on x = 1, which leaves x (1 - x) (cos(omega pi t) - x t^3) to the network."""
        x, t = p.x[:, 0], p.t
        return x**2 * (torch.cos(self.omega * math.pi * t) + t**3)
