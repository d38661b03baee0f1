"""A fixed random map phi of the inputs, the same in all prompts (arXiv 2402.13572).

    phi(x) = c f(W_L ... f(W_1 x)),   f(z) = max(z, slope z),

with orthogonal W_l, and c such that E|phi(x)|^2 = d for x ~ N(0, I). Gaussian W_l would have condition numbers of 50 to
2,400 at d = 20.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lissome._checks import check_number, check_whole
from lissome._errors import UsageError

MEASURED = 1 << 15  # draws by which the scale of more than one layer is found


class Representation:
    """The map phi, a function of tensors (..., d).

    Args:
        dimension: d.
        layers: L.
        slope: of the negative side, 0 (ReLU) to below 1. With 0.5 phi is 90 to 96% affine, so that regression on x
            itself already comes far.
        seed: of the weights, from 0.

    Raises:
        UsageError: a value out of its range.

    >>> phi = Representation(4, layers=2, slope=0.0)
    >>> x = torch.randn(4096, 4, generator=torch.Generator().manual_seed(1))
    >>> round(float(phi(x).square().sum(1).mean()))
    4
    """

    def __init__(self, dimension: int, *, layers: int = 1, slope: float = 0.0, seed: int = 0):
        check_whole("dimension of a representation", dimension)
        check_whole("layers of a representation", layers)
        check_whole("seed of the weights of a representation", seed, 0, 2**63 - 1)
        check_number("slope of a representation", slope, "are numbers from 0 to below 1", lambda s: 0 <= s < 1)
        self.dimension, self.layers, self.slope, self.seed = dimension, layers, slope, seed
        generator = torch.Generator().manual_seed(seed)
        self.weights = [orthogonal(generator, dimension) for _ in range(layers)]
        self.scale = 1.0
        if layers > 1:  # what comes out of the first layer is no Gaussian
            x = torch.randn(MEASURED, dimension, generator=generator, dtype=torch.float64)
            self.scale = math.sqrt(dimension / float(self(x).square().sum(1).mean()))

    def __call__(self, x: Tensor) -> Tensor:
        """Return phi(x) of the same shape and dtype.

        Raises:
            UsageError: inputs of another dimension.
        """
        if x.shape[-1] != self.dimension:
            raise UsageError(f"the representation takes inputs of dimension {self.dimension}, not {x.shape[-1]}")
        for weight in self.weights:
            x = leaky(x @ weight.to(x).T, self.slope)
        return self.scale * x


def leaky(z: Tensor, slope: float) -> Tensor:
    """Return max(z, slope z), scaled such that the mean square of Gaussian z stays as it is.

    >>> leaky(torch.tensor([-1.0, 1.0]), 0.0)
    tensor([-0.0000, 1.4142])
    """
    return gain(slope) * F.leaky_relu(z, slope)


def unleaky(y: Tensor, slope: float) -> Tensor:
    """Undo `leaky` of a positive slope.

    >>> unleaky(leaky(torch.tensor([-2.0, 3.0]), 0.5), 0.5)
    tensor([-2.,  3.])
    """
    z = y / gain(slope)
    return torch.where(z < 0, z / slope, z)


def gain(slope: float) -> float:
    """Return sqrt(2 / (1 + slope^2))."""
    return math.sqrt(2 / (1 + slope * slope))


def orthogonal(generator: torch.Generator, dimension: int, n: int | None = None) -> Tensor:
    """Return an orthogonal matrix (d, d), or n of them (n, d, d), uniform, in float64.

    >>> Q = orthogonal(torch.Generator().manual_seed(0), 3)
    >>> torch.allclose(Q @ Q.T, torch.eye(3, dtype=torch.float64))
    True
    """
    shape = (dimension, dimension) if n is None else (n, dimension, dimension)
    Q, R = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]  # without the signs it would not be uniform
