"""The four stages one after another, every pair in memory: slow, obvious, and what all other ways are held to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome._errors import UsageError
from lissome.attention.frame import Frame
from lissome.attention.neighbours import refine
from lissome.attention.recipe import Attention


class Stages(NamedTuple):
    """What each stage gives.

    Attributes:
        scores: (B, H, Tq, Tk), scaled products, at least float32.
        bias: (1 or B, H, Tq, Tk), or None.
        valid: (1 or B, 1, Tq, Tk) bool.
        refined: (B, H, Tq, Tk), scores after bias and refinement, not masked.
        weights: (B, H, Tq, Tk).
    """

    scores: Tensor
    bias: Tensor | None
    valid: Tensor
    refined: Tensor
    weights: Tensor


def stages(q: Tensor, k: Tensor, frame: Frame, recipe: Attention, scale: float | None = None) -> Stages:
    """Return all stages; half precision is raised to float32 first, also under autocast.

    Args:
        q: (B, H, Tq, D).
        k: (B, H or a divisor of it, Tk, D).
        frame: where they stand.
        recipe: the stages.
        scale: of the products, 1 / sqrt(D) if None.
    """
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        scores = (q.to(dtype) * scale) @ spread(k, q.shape[1]).to(dtype).mT  # (B, H, Tq, Tk)
        valid = recipe.validity(frame)
        bias = None if recipe.bias is None else recipe.bias(frame)
        if bias is not None and bias.shape[1] != q.shape[1]:
            raise UsageError(f"the bias is for {bias.shape[1]} heads, and q has {q.shape[1]}")
        if recipe.refine is not None:
            refined = refine(recipe.refine, scores, bias, valid, frame)
        else:
            refined = scores if bias is None else scores + bias
        return Stages(scores, bias, valid, refined, recipe.normalize(refined, valid))


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), in v's dtype; dropout acts on the weights as they are at the end."""
    weights = stages(q, k, frame, recipe, scale).weights
    if dropout:
        weights = F.dropout(weights, dropout)
    with torch.autocast(q.device.type, enabled=False):
        return (weights @ spread(v, q.shape[1]).to(weights.dtype)).to(v.dtype)


def spread(x: Tensor, heads: int) -> Tensor:
    """Return keys or values (B, G, T, D) once per head of their group: (B, H, T, D)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)
