"""Where the attention modules, the rotary embedding and the decoder of a transformers model sit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lissome._checks import check_kind
from lissome._errors import UsageError
from lissome.bridges.installed import PreTrainedModel

# model type -> name of the attention module in each of the decoder's layers
FAMILIES: Mapping[str, str] = {
    "gpt_neox": "attention",
    "llama": "self_attn",
    "mistral": "self_attn",
    "phi": "self_attn",
    "phi3": "self_attn",
    "qwen2": "self_attn",
    "qwen3": "self_attn",
}


@dataclass(frozen=True)
class Parts:
    """What a model of a known family is made of.

    Attributes:
        model: the transformers model itself, out of what wraps it.
        decoder: holds `layers` and `rotary_emb`, and gets the masks and positions.
        attentions: one module a layer, each of which calls the attention function.
        rotary: returns cosines and sines (1 or B, T, turned numbers of a head).
        heads: H, of queries.
        groups: heads of keys and values.
        dimension: D of a head.
    """

    model: Any
    decoder: Any
    attentions: list[nn.Module]
    rotary: nn.Module
    heads: int
    groups: int
    dimension: int


def parts(model: nn.Module) -> Parts:
    """Return the parts of a model, also where peft, torch or Accelerate wraps it.

    Raises:
        UsageError: it holds no transformers model, or one whose attention modules are not known.

    >>> from transformers import LlamaConfig, LlamaModel
    >>> small = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=8)
    >>> found = parts(LlamaModel(small))
    >>> found.heads, found.dimension, len(found.attentions)
    (4, 4, 2)
    """
    check_kind("model", model, nn.Module, "is a transformers model")
    inner: Any = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    if inner is None:
        raise UsageError(
            f"model is a {type(model).__name__} that holds no transformers model; legal is one, or a wrap of it"
        )
    kind = inner.config.model_type
    if kind not in FAMILIES:
        raise UsageError(
            f"the attention modules of a {type(inner).__name__} (model type '{kind}') are not known; "
            f"legal are the types {', '.join(FAMILIES)}"
        )
    decoder = inner.get_decoder()
    config = decoder.config
    attentions = [layer.get_submodule(FAMILIES[kind]) for layer in decoder.layers]
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads  # GPT-NeoX has no groups
    dimension = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Parts(inner, decoder, attentions, decoder.rotary_emb, heads, groups, dimension)


def unturned(module: nn.Module, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Switch a rotary embedding off: as a forward hook, give ones for cosines and zeros for sines."""
    cos, sin = output
    return torch.ones_like(cos), torch.zeros_like(sin)
