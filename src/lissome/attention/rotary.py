"""Rotary position embedding (arXiv 2104.09864, eq. 34): turned queries and keys, whose products depend on i - j."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from lissome._checks import check_number, check_whole
from lissome._errors import UsageError

BASE = 10_000.0  # arXiv 2104.09864, section 3.3
MOST = sys.float_info.max
Angles = tuple[Tensor, Tensor]  # cosines and sines


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

    def angles(self, positions: Tensor, dtype: torch.dtype, heads: int = 1) -> Angles:
        """Return cosines and sines of positions (1 or B, T), for all layers of a pass that turn alike.

        Args:
            positions: whole numbers.
            dtype: of what will be turned; angles are float64 if it is that, else float32.
            heads: H to write them out for each head, as heads that a projection gave, (B, T, H, D) in memory, are
                turned faster; one serves any number of heads.

        Returns:
            (1 or B, heads, T, D) each: cosines, and sines, those of the left half negative.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        # no buffer: it would be rounded where a model is turned to half precision
        powers = torch.arange(0, self.dimension, 2, device=positions.device).to(dtype) / self.dimension
        angle = positions.to(dtype)[:, :, None, None] * self.base**-powers  # (., T, 1, D/2)
        cos, sin = angle.cos(), angle.sin()
        both = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)  # (., T, 1, D)
        return both[0].repeat(1, 1, heads, 1).transpose(1, 2), both[1].repeat(1, 1, heads, 1).transpose(1, 2)

    def forward(self, x: Tensor, positions: Tensor, angles: Angles | None = None) -> Tensor:
        """Return x (B, H, T, D) turned to its positions (1 or B, T), in x's dtype; angles are float32 or float64.

        Args:
            x: queries or keys.
            positions: of each, whole numbers.
            angles: what `angles` gives for these positions, this dtype and one head, H or more; None: computed here.

        Raises:
            UsageError: heads of another dimension.
        """
        if x.shape[-1] != self.dimension:
            raise UsageError(f"this rotary was made for heads of {self.dimension} numbers, and {x.shape[-1]} came")
        cos, sin = (each[:, : x.shape[1]] for each in angles or self.angles(positions, x.dtype))
        # a compiler fuses the single operations
        turned: Tensor = (_turn if torch.compiler.is_compiling() else _Turn.apply)(x, cos, sin, 1)
        return turned


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    wide = x.to(cos.dtype)
    swapped = wide.roll(x.shape[-1] // 2, -1)  # all loops run over whole heads, those over halves are too short
    return torch.addcmul(wide * cos, swapped, sin, value=sign).to(x.dtype)


class _Turn(torch.autograd.Function):
    """The turn by an angle or, with the sign -1, back: one is the derivative of the other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
        return _turn(x, cos, sin, sign)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, cos, sin, ctx.sign = inputs
        ctx.save_for_backward(cos, sin)
        ctx.save_for_forward(cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return _Turn.apply(grad, *ctx.saved_tensors, -ctx.sign), None, None, None

    @staticmethod
    def jvp(ctx, dot: Tensor, *_):  # type: ignore[override]
        return _Turn.apply(dot, *ctx.saved_tensors, ctx.sign)
