r"""Functions of one number of which a layer's univariate functions are sums, beside B-splines (`splines`).

| name | functions, on [-1, 1] | outside |
|---|---|---|
| `bspline` | G + p B-splines of order p over G intervals | fall to 0 over p intervals |
| `chebyshev` | T_1 .. T_K of tanh(x) | bounded, constant far away |
| `fourier` | sin and cos of j pi x / 2, j = 1 .. G | go on as waves |
| `rbf` | exp(-((x - c) / h)^2) at G + 1 centres, spaced h apart | fall to 0 |

Each is a module from points (N, inputs) to (N, K, inputs), with `size` K and `taylor`, its derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lissome._checks import check_whole
from lissome._errors import UsageError, unknown
from lissome.models.splines import BSpline, Taylor

ENDLESS = 99  # continuous derivatives of what has all of them


@runtime_checkable
class Smooth(Protocol):
    """A module whose functions have so many continuous derivatives and no more."""

    @property
    def smooth(self) -> int:
        """How many."""
        ...


class Basis(Protocol):
    """K functions of one number, for each input of a layer."""

    @property
    def size(self) -> int:
        """K."""
        ...

    @property
    def smooth(self) -> int:
        """How many continuous derivatives they have."""
        ...

    def taylor(self, x: Tensor) -> Taylor:
        """Return the functions and their first and second derivatives at x (N, inputs), (N, K, inputs) each."""
        ...

    def mean_square(self) -> float:
        """Return the sum over the functions of their mean square on [-1, 1]."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return the functions at x, (N, K, inputs)."""
        ...


class _Analytic(nn.Module):
    """What smooth bases share."""

    smooth = ENDLESS

    def __init__(self, size: int):
        super().__init__()
        if size < 1:
            raise UsageError(f"a basis of {size} functions; legal are 1 and more")
        self.size = size

    def taylor(self, x: Tensor) -> Taylor:
        """Return the functions and their derivatives."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the functions at x."""
        raise NotImplementedError

    def mean_square(self) -> float:
        """Return the sum of mean squares on [-1, 1]."""
        x = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
        return float(self(x).square().mean(0).sum())


class Chebyshev(_Analytic):
    """T_1 .. T_K of y = tanh(x): polynomials outside [-1, 1] would run away. The constant is left to other inputs.

    >>> Chebyshev(2)(torch.zeros(1, 1))[0, :, 0]
    tensor([ 0., -1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return T_k(y)."""
        y = torch.tanh(x)
        T = [torch.ones_like(y), y]
        while len(T) <= self.size:
            T.append(2 * y * T[-1] - T[-2])
        return torch.stack(T[1 : self.size + 1], 1)

    def taylor(self, x: Tensor) -> Taylor:
        """Return T_k(y) and its derivatives in x, by the recursion T_k+1 = 2 y T_k - T_k-1."""
        y = torch.tanh(x)
        inner = 1 - y * y  # dy/dx
        one, nil = torch.ones_like(y), torch.zeros_like(y)
        T, D, C = [one, y], [nil, one], [nil, nil]
        while len(T) <= self.size:
            T.append(2 * y * T[-1] - T[-2])
            C.append(4 * D[-1] + 2 * y * C[-1] - C[-2])
            D.append(2 * T[-2] + 2 * y * D[-1] - D[-2])
        value, first, second = (torch.stack(each[1 : self.size + 1], 1) for each in (T, D, C))
        inner = inner[:, None]
        return value, first * inner, second * inner * inner - 2 * y[:, None] * inner * first


class Fourier(_Analytic):
    """sin(j pi x / 2) and cos(j pi x / 2), j = 1 .. G; with a period of 4 ends of [-1, 1] need not agree.

    >>> Fourier(1)(torch.ones(1, 1))[0, :, 0].round(decimals=3) + 0
    tensor([1., 0.])
    """

    def __init__(self, waves: int):
        super().__init__(2 * waves)
        self.waves = waves

    def forward(self, x: Tensor) -> Tensor:
        """Return the waves."""
        angle = self._rates(x) * x[:, None]
        return torch.cat([torch.sin(angle), torch.cos(angle)], 1)

    def taylor(self, x: Tensor) -> Taylor:
        """Return the waves and their derivatives."""
        rate, value = self._rates(x), self(x)
        s, c = value.chunk(2, 1)
        return value, torch.cat([rate * c, -rate * s], 1), -torch.cat([rate, rate]).square() * value

    def _rates(self, x: Tensor) -> Tensor:
        """Return j pi / 2, (G, 1)."""
        return math.pi / 2 * torch.arange(1, self.waves + 1, device=x.device, dtype=x.dtype)[:, None]


class GaussianRBF(_Analytic):
    """exp(-((x - c) / h)^2) at G + 1 centres c from -1 to 1, h apart.

    >>> GaussianRBF(2)(torch.zeros(1, 1))[0, :, 0].round(decimals=3)
    tensor([0.3680, 1.0000, 0.3680])
    """

    def __init__(self, intervals: int):
        super().__init__(intervals + 1)
        self.intervals = intervals

    def forward(self, x: Tensor) -> Tensor:
        """Return the bells."""
        return torch.exp(-self._away(x).square())

    def taylor(self, x: Tensor) -> Taylor:
        """Return the bells and their derivatives."""
        h, z, value = 2 / self.intervals, self._away(x), self(x)
        return value, -2 / h * z * value, (4 * z * z - 2) / (h * h) * value

    def _away(self, x: Tensor) -> Tensor:
        """Return (x - c) / h, (N, G + 1, inputs)."""
        centres = torch.linspace(-1, 1, self.size, device=x.device, dtype=x.dtype)[:, None]
        return (x[:, None] - centres) * (self.intervals / 2)


BASES: dict[str, Callable[[int, int, int], Basis]] = {  # of inputs, intervals, order
    "bspline": lambda inputs, intervals, order: BSpline(inputs, intervals=intervals, order=order),
    "chebyshev": lambda inputs, intervals, order: Chebyshev(intervals + order),
    "fourier": lambda inputs, intervals, order: Fourier(intervals),
    "rbf": lambda inputs, intervals, order: GaussianRBF(intervals),
}


def basis(name: str, inputs: int, *, intervals: int = 5, order: int = 3) -> Basis:
    """Make a basis by name.

    Raises:
        UsageError: an unknown name, or sizes that it cannot have.
    """
    if name not in BASES:
        raise unknown("basis", name, BASES)
    check_whole("intervals", intervals)
    check_whole("order", order, 0)
    return BASES[name](inputs, intervals, order)
