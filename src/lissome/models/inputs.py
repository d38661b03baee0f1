"""How a network reads its points: shifted, and brought onto [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lissome._errors import UsageError


class Shift(nn.Module):
    """z -> z - offset, with a fixed offset of shape (D,)."""

    offset: Tensor

    def __init__(self, offset: Tensor):
        super().__init__()
        self.register_buffer("offset", offset)

    def forward(self, z: Tensor) -> Tensor:
        """Return z - offset, shape (N, D).

        Raises:
            UsageError: points of another number of coordinates.
        """
        # points of one coordinate would be broadcast to all D
        if z.shape[-1:] != self.offset.shape:
            raise UsageError(f"points have shape {tuple(z.shape)}; legal is (N, {self.offset.shape[0]})")
        return z - self.offset

    def translate(self, z: Tensor) -> Tensor:
        """Return z - offset; the name tells one-pass derivatives that nothing else happens."""
        return self(z)


def shift_by(offset: Sequence[float] | None, inputs: int) -> Shift:
    """Return the shift of a network's inputs; None is 0 for each.

    Raises:
        UsageError: an offset of another length, or a number in it that is not finite.
    """
    if offset is not None:
        if len(offset) != inputs:
            raise UsageError(f"offset has {len(offset)} numbers; the network has {inputs} inputs")
        for each in offset:
            if not math.isfinite(each):
                raise UsageError(f"offset holds {each}; legal are finite numbers")
    return Shift(torch.tensor(list(offset) if offset is not None else [0.0] * inputs))


class Scale(nn.Module):
    """z -> z / extent, with a fixed extent of shape (D,)."""

    extent: Tensor

    def __init__(self, extent: Tensor):
        super().__init__()
        self.register_buffer("extent", extent)

    def forward(self, z: Tensor) -> Tensor:
        """Return z / extent, shape (N, D)."""
        return z / self.extent

    def taylor(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, first and second derivative of each number in itself."""
        return self(z), (1 / self.extent).expand_as(z), torch.zeros_like(z)


def scale_by(extent: Sequence[float] | None, inputs: int) -> Scale:
    """Return the scale of a network's inputs; None is 1 for each.

    Raises:
        UsageError: an extent of another length, or a number in it that is not above 0.
    """
    if extent is not None and len(extent) != inputs:
        raise UsageError(f"extent has {len(extent)} numbers; the network has {inputs} inputs")
    for each in extent or ():
        if not (math.isfinite(each) and each > 0):
            raise UsageError(f"extent holds {each}; legal are numbers above 0")
    return Scale(torch.tensor(list(extent) if extent is not None else [1.0] * inputs))
