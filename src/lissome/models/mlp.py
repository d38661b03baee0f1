"""Fully connected networks from points to one number."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lissome._checks import check_whole
from lissome.models.activation import activation as make_activation
from lissome.models.inputs import shift_by


class MLP(nn.Module):
    """`depth` hidden layers of `width` and a linear output; (N, inputs) -> (N, outputs).

    Weights start as Glorot's normal draw and biases at 0, from the generator given.

    Args:
        inputs: D, the number of input coordinates.
        width: neurons of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: tanh, sin, gelu or relu3.
        outputs: numbers per point.
        offset: subtracted from the input, D numbers (SVD-PINNs shifts t by 1/2).
        generator: source of the random start.

    Raises:
        UsageError: a size below 1, an unknown activation, an offset of another length.

    >>> MLP(3, width=8, depth=2)(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int,
        *,
        width: int = 64,
        depth: int = 4,
        activation: str = "tanh",
        outputs: int = 1,
        offset: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, size in {"inputs": inputs, "width": width, "depth": depth, "outputs": outputs}.items():
            check_whole(name, size)
        self.shift = shift_by(offset, inputs)
        sizes = [inputs] + [width] * depth
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            parts += [nn.Linear(before, after), make_activation(activation)]
        self.layers = nn.Sequential(*parts, nn.Linear(width, outputs))
        self.reset(generator)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw a new start."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs (N, outputs) at points z (N, inputs)."""
        return self.layers(self.shift(z))

    def chain(self) -> list[nn.Module]:
        """Return the modules whose composition this is, for one-pass derivatives."""
        return [self.shift, *self.layers]
