"""Plain causal attention by torch's fused kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention, plain


def serves(q: Tensor, k: Tensor, frame: Frame, recipe: Attention) -> bool:
    """Say whether the kernels give what the recipe asks: no stage between, and all keys or a square without holes."""
    return plain(recipe) and frame.whole and q.shape[2] in (1, k.shape[2])


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv) of a recipe that `serves` allows."""
    square = q.shape[2] > 1
    groups = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=square, scale=scale, enable_gqa=groups)
