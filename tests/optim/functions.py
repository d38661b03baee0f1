"""Functions of a vector with a known minimum, for methods of second order."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Function:
    """f: (p,) -> scalar, a start, the value of the global minimum, and r (M,) with f = r^T r where f is such a sum."""

    f: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    value: float
    residual: Callable[[Tensor], Tensor] | None = None

    def x(self, dtype=torch.float64):
        return torch.tensor(self.start, dtype=dtype)


def squares(residual, start):
    return Function(lambda x: residual(x).square().sum(), start, 0.0, residual)


def rosenbrock(x):
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def himmelblau(x):
    return torch.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


def exponentials(x):
    t = torch.linspace(0, 2, 9, dtype=x.dtype)
    return x[0] * torch.exp(-x[1] * t) - 2 * torch.exp(-1.5 * t)


def stiff(x):
    return torch.logspace(0, 2, len(x), dtype=x.dtype) * (x - 1)


def saddle(x):
    return x[0] ** 2 + 2 * x[2] ** 2 - x[1] ** 2 + x[1] ** 4


def tilted(x):
    """Return a robust regression, far from convex at the start."""
    A = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, -1.0], [0.3, 0.3]], dtype=x.dtype)
    return ((A @ (x - 2)).square() / 2).log1p().sum()


FUNCTIONS = {
    "stiff squares": squares(stiff, (0.0,) * 6),
    "rosenbrock": squares(rosenbrock, (-1.2, 1.0)),
    "himmelblau": squares(himmelblau, (0.0, 0.0)),
    "exponentials": squares(exponentials, (1.0, 0.0)),
    "saddle": Function(saddle, (1.0, 1e-3, 1.0), -0.25),
    "quartic": Function(lambda x: (x**4).sum(), (1.0, -2.0, 3.0), 0.0),
    "robust": Function(tilted, (-3.0, 5.0), 0.0),
}
