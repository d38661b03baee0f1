"""Burgers' equation with a shock in the middle, and its exact solution by the Cole-Hopf transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.pde.domain import Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points

NODES = 513
CHUNK = 4096


class Burgers(Family):
    r"""u_t + u u_x = nu u_xx from -sin(pi x), u = 0 at x = -1 and 1; nu = 0.01/pi is the usual test (arXiv 1711.10561).

    u = -int sin(pi y) G dy / int G dy, G(y) = exp((1 - cos(pi y)) / (2 pi nu) - (x - y)^2 / (4 nu t)), by the trapezoid
    rule, which converges faster than any power here.
    """

    name = "burgers"
    title = "u_t + u u_x = nu u_xx, -1 < x < 1, 0 < t < 1"
    parameters = (
        Parameter(
            "nu", 0.01 / math.pi, near=0.015 / math.pi, middle=0.05 / math.pi, far=0.2 / math.pi, low=1e-3, high=10.0
        ),
    )
    dimensions = 1
    homogeneous = True
    adaptive = True
    nu: float

    def domain(self) -> Box:
        """Return the interval with 0 < t < 1."""
        return Box((-1.0,), (1.0,), time=(0.0, 1.0))

    def operator(self, u: Field, p: Points) -> Tensor:
        """Return u_t + u u_x - nu u_xx."""
        return u.dt + u.value * u.d(0) - self.nu * u.laplacian

    def exact(self, p: Points) -> Tensor:
        """Return the Cole-Hopf solution; it is not differentiable."""
        with torch.no_grad():
            pieces = zip(p.t.double().split(CHUNK), p.x[:, 0].double().split(CHUNK), strict=True)
            return torch.cat([cole_hopf(t, x, self.nu) for t, x in pieces]).to(p.z.dtype)

    def data(self, p: Points) -> Tensor:
        """Return -sin(pi x), which is also 0 at both ends."""
        return -torch.sin(math.pi * p.x[:, 0])


def cole_hopf(t: Tensor, x: Tensor, nu: float, nodes: int = NODES) -> Tensor:
    """Return u(t, x), both (N,) in float64, by a trapezoid rule of so many nodes."""
    t = t.clamp_min(0.0)[:, None]
    # beyond it the Gaussian is 1e-17 of the largest value of G, whatever the other factor gains
    reach = torch.sqrt(4 * nu * t * (1 / (math.pi * nu) + 40))
    y = x[:, None] + reach * torch.linspace(-1, 1, nodes, dtype=torch.float64, device=x.device)  # (N, nodes)
    exponent = -torch.cos(math.pi * y) / (2 * math.pi * nu) - (x[:, None] - y) ** 2 / (4 * nu * t.clamp_min(1e-300))
    weight = torch.softmax(exponent, 1)
    return -(torch.sin(math.pi * y) * weight).sum(1)
