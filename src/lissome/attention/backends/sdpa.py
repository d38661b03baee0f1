"""Softmax attention with nothing between, by torch's fused kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lissome.attention.backends.once import forward_mode
from lissome.attention.frame import Frame
from lissome.attention.normalize import softmax
from lissome.attention.recipe import Attention
from lissome.attention.validity import causal

NAME = "sdpa"
LEAST = 0  # pairs from which it is the quicker one
SHORTEST = 0  # keys of a text from which it is
MASK = 2**23  # pairs of a mask over rows: the kernels turn it into 32 MB of numbers, and skip nothing under it


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Say why the kernels cannot give what the recipe asks, or "" if they can."""
    if recipe.bias is not None or recipe.refine is not None or recipe.normalize is not softmax:
        return "it runs softmax without bias and refinement alone"
    if not k.shape[2]:
        return "there are no keys"
    if not _square(q, k, frame, recipe) and (pairs := len(q) * q.shape[2] * k.shape[2]) > MASK:
        return f"its mask would have {pairs:,} pairs, more than {MASK:,}"
    return forward_mode((q, k, v))


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv) of a recipe that is not refused."""
    groups, mask, ahead = q.shape[1] != k.shape[1], None, False
    # branches and not `and`: of a length that the compiler keeps open that is no bool, which the kernels want
    if not _square(q, k, frame, recipe):
        mask = recipe.validity(frame)  # (1 or B, 1, Tq, Tk)
    elif q.shape[2] > 1:
        ahead = True
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=ahead, scale=scale, enable_gqa=groups)
    return out.to(v.dtype)  # autocast would give its own


def _square(q: Tensor, k: Tensor, frame: Frame, recipe: Attention) -> bool:
    """Whether no mask is needed: a triangle without holes, or the last query that sees all."""
    return recipe.validity == causal and frame.whole and q.shape[2] in (1, k.shape[2])
