"""Rotary position embedding (arXiv 2104.09864, eq. 34): turned queries and keys, whose products depend on i - j."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from lissome._checks import check_number, check_whole
from lissome._errors import UsageError

BASE = 10_000.0  # arXiv 2104.09864, section 3.3
MOST = sys.float_info.max


class Rotary(nn.Module):
    """Turn pairs (x_m, x_{m + D/2}) by the angle position * base^(-2m/D); the half-split layout of Llama and NeoX.

    Args:
        dimension: D of a head, even.
        base: of the wavelengths.

    Raises:
        UsageError: an odd dimension, or a base that is not above 1 or not finite.
    """

    def __init__(self, dimension: int, base: float = BASE):
        super().__init__()
        check_whole("the dimension of a head", dimension)
        if dimension % 2:
            raise UsageError(f"rotary turns pairs of numbers, and a head has {dimension}; legal are even ones")
        check_number("the base of rotary", base, "are finite numbers above 1", lambda base: 1 < base <= MOST)
        self.dimension, self.base = dimension, float(base)
        self.name = "rotary" if base == BASE else f"rotary(base={base:g})"

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return x (B, H, T, D) turned to its positions (1 or B, T), in x's dtype; angles are float32 or float64.

        Raises:
            UsageError: heads of another dimension.
        """
        if x.shape[-1] != self.dimension:
            raise UsageError(f"this rotary was made for heads of {self.dimension} numbers, and {x.shape[-1]} came")
        dtype = torch.promote_types(x.dtype, torch.float32)
        # no buffer: it would be rounded where a model is turned to half precision
        frequency = self.base ** (-torch.arange(0, self.dimension, 2, device=x.device).to(dtype) / self.dimension)
        angle = positions.to(dtype)[:, None, :, None] * frequency  # (., 1, T, D/2)
        cos, sin = angle.cos(), angle.sin()
        left, right = x.to(dtype).chunk(2, dim=-1)
        turned = torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(right * cos, left, sin)
        return torch.cat(turned, -1).to(x.dtype)
