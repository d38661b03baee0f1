"""Attention by name: SA-Softmax (arXiv 2502.18277) for any model that asks transformers for its attention function.

model = AutoModelForCausalLM.from_config(config, attn_implementation="lissome_sa_softmax")
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lissome.attention import Attention, SelfAdjust, attend, causal, everything, stages
from lissome.bridges.frames import check_rows, framed, mask
from lissome.bridges.installed import AttentionInterface, AttentionMaskInterface

NAMES: Mapping[str, SelfAdjust] = {
    "lissome_sa_softmax": SelfAdjust(4),
    "lissome_sa_softmax_detached": SelfAdjust(4, detach_extrema=True),
    "lissome_sa_softmax_1": SelfAdjust(1),
    "lissome_sa_softmax_2": SelfAdjust(2),
    "lissome_sa_softmax_2_detached": SelfAdjust(2, detach_extrema=True),
    "lissome_sa_softmax_3": SelfAdjust(3),
    "lissome_sa_softmax_3_detached": SelfAdjust(3, detach_extrema=True),
}


def mixed(
    module: nn.Module,
    recipe: Attention,
    tensors: tuple[Tensor, Tensor, Tensor],
    seen: Tensor | None,
    scale: float | None,
    dropout: float,
    named: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """Return what an attention function of transformers returns.

    Args:
        module: the attention module.
        recipe: its stages.
        tensors: q (B, H, Tq, D), k and v (B, G, Tk, D), turned where the model turns them.
        seen: what the mask function returned, or a mask of the caller's own.
        scale: of the products.
        dropout: part of the weights that is set to 0.
        named: the other keywords.

    Returns:
        The mix of values (B, Tq, H, D), and the weights (B, H, Tq, Tk) before dropout where they are asked for.

    Raises:
        UsageError: as `framed` and `check_rows`.
    """
    q, k, v = (each.to(tensors[2].dtype) for each in tensors)  # under autocast rotary leaves q and k in float32
    frame, recipe = framed(q, k, seen, recipe, named)
    if recipe.validity.causal and not getattr(module, "layer_idx", 0):  # once a forward: it waits for the device
        check_rows(frame, seen, named.get("position_ids"))
    out = attend(q, k, v, frame, recipe, scale=scale, dropout=dropout).transpose(1, 2).contiguous()  # (B, Tq, H, D)
    asked = named.get("output_attentions", getattr(getattr(module, "config", None), "output_attentions", False))
    return out, stages(q, k, frame, recipe, scale=scale).weights.to(v.dtype) if asked else None


def _named(
    normalize: SelfAdjust,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **named: Any,
) -> tuple[Tensor, Tensor | None]:
    given = named.get("is_causal")
    forward = getattr(module, "is_causal", True) if given is None else given
    by_positions = attention_mask is None or attention_mask.dtype == torch.long
    # another mask is the whole rule: it may be that of an encoder
    validity = causal if forward and by_positions else everything
    recipe = Attention(validity, normalize=normalize)
    return mixed(module, recipe, (query, key, value), attention_mask, scaling, dropout, named)


for _name, _normalize in NAMES.items():
    AttentionInterface.register(_name, partial(_named, _normalize))
    AttentionMaskInterface.register(_name, mask)
