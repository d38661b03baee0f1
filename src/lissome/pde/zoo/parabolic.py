"""Linear parabolic equations on the ball, the second family of SVD-PINNs (arXiv 2211.08760), in any dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from lissome.pde.domain import Ball
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points


class Parabolic(Family):
    """u_t - div(a grad u) = f_c with a = 1 + r / 2, u_c = exp(r (sqrt(1 - t) + c (1 - t))).

    Differs from the paper: points are uniform in the ball. u is a cone at the centre and f ~ 1 / r, so with the radius
    uniform the mean of f^2 is infinite and the ten points nearest the centre carry most of the loss; `published` keeps
    that draw. The u_t of a published implementation has a wrong factor 2; here f follows from u.
    """

    name = "parabolic"
    title = "u_t - div((1 + r/2) grad u) = f on the unit ball, 0 < t < 1/2"
    parameters = (Parameter("c", 0.0, near=0.5, middle=1.0, far=3.0, low=-100.0, high=100.0),)
    default_dimension = 10
    radial = True
    c: float

    def domain(self) -> Ball:
        """Return the unit ball with 0 < t < 1/2."""
        return Ball(self.dimension, time=(0.0, 0.5))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_t - a Lap u - grad a . grad u, with grad a = x / (2 r)."""
        return u.dt - (1 + p.r / 2) * u.laplacian - u.along(p.x / (2 * p.r[:, None]))

    def exact(self, p: Points) -> Tensor:
        """Return the solution of the paper."""
        return torch.exp(p.r * self._rate(p))

    def lift(self, p: Points) -> Tensor:
        """Return the values on r = 1, which depend on t alone."""
        return torch.exp(self._rate(p))

    def offset(self) -> tuple[float, ...]:
        """Return the paper's shift of t by 1/2."""
        return (0.5, *([0.0] * self.dimension))

    def _rate(self, p: Points) -> Tensor:
        return torch.sqrt(1 - p.t) + self.c * (1 - p.t)
