"""How a model of transformers tells a cache of each forward: a hook on its decoder, and what models it cannot serve.

A layer hands a cache its keys and nothing else. The hook sees the tokens and the mask before, and may replace mask and
positions. Layers that keep something else than the first one have a hook of their own, which places their mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lissome._checks import check_kind
from lissome._errors import UsageError
from lissome.bridges.installed import Cache, PreTrainedModel

COUNTED = "get_query_offset" in vars(Cache)  # from 5.13 on a cache says in which stored column queries begin
OURS = "lissome"  # how the names of our own attention functions begin
ATTEND = {"full_attention", "sliding_attention", "chunked_attention"}  # layers that keep keys, one a token
MOVING = ("dynamic", "longrope")  # rotary that changes with the length
Announce = Callable[[Any, dict[str, Any]], dict[str, Any]]
Place = Callable[[Any, Tensor, dict[str, Any]], dict[str, Any]]


def decoder_of(model: nn.Module) -> Any:
    """Return the module of a model that gets tokens and masks, also where peft or Accelerate wraps the model.

    Raises:
        UsageError: it holds no decoder of transformers.
    """
    check_kind("model", model, nn.Module, "is a transformers model")
    inner: Any = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    if inner is None or inner.config.is_encoder_decoder:
        raise UsageError(f"model is a {type(model).__name__}; legal is a decoder of transformers, such as a Llama")
    return inner.get_decoder()


def check_config(config: Any) -> None:
    """Refuse models whose layers have windows of their own or no keys, or whose rotary depends on the length.

    Raises:
        UsageError: it is such a model.
    """
    kind = config.model_type
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    size = getattr(config, "sliding_window", None)
    if strange := types - ATTEND:
        raise UsageError(
            f"layer_types has {min(strange)} in this config of type {kind}, and such layers keep something else than a "
            "key for each token, of which a cache could drop some; legal are models whose layers all keep keys"
        )
    windowed = types - {"full_attention"}
    if windowed or size is not None:
        told = f"layer_types has {min(windowed)}" if windowed else f"sliding_window is {size}"
        raise UsageError(
            f"{told} in this config of type {kind}, and the windows of a model are not joined with those of the cache; "
            "legal are models whose layers attend to all: set config.sliding_window to None to let the cache alone say "
            "what is kept"
        )
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    name = rotary.get("rope_type", rotary.get("type", "default"))
    if name in MOVING:
        raise UsageError(
            f"the rotary embedding of this config of type {kind} is '{name}', which turns keys otherwise once the text "
            "is long, so that keys that are kept would be wrong; legal are the kinds that do not, such as default, "
            "linear, llama3 and yarn"
        )


def announcing(decoder: Any, cache: Any, announce: Announce) -> Any:
    """Install the hook on a decoder; return its handle.

    Args:
        decoder: of `decoder_of`.
        cache: only forwards with it are told of.
        announce: (decoder, arguments of the forward) -> those that are to be replaced.
    """
    names = list(inspect.signature(decoder.forward).parameters)

    def before(decoder: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if inputs:  # GPT-NeoX gets its tokens by position
            named = dict(zip(names, inputs, strict=False)) | named
        if named.get("past_key_values") is not cache:
            return None
        return (), named | announce(decoder, named)

    return decoder.register_forward_pre_hook(before, with_kwargs=True)


def placing(layer: nn.Module, cache: Any, place: Place) -> Any:
    """Install the hook on a layer that keeps something else than the first one; return its handle.

    Args:
        layer: of the decoder.
        cache: only forwards with it are touched.
        place: (decoder layer, hidden states, arguments) -> the arguments that are to be replaced.
    """

    def before(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if named.get("past_key_values", named.get("layer_past")) is not cache:  # GPT-NeoX says layer_past
            return None
        if not inputs or "attention_mask" not in named:
            raise UsageError(
                f"a {type(layer).__name__} does not get its mask by name, so that its layers cannot differ; legal for "
                "it is one window for all layers, and full='none'"
            )
        return inputs, named | place(layer, inputs[0], named)

    return layer.register_forward_pre_hook(before, with_kwargs=True)


def tokens_of(decoder: Any, named: dict[str, Any]) -> Tensor:
    """Return the tokens of a forward, (B, T).

    Raises:
        UsageError: there are none, or gradient checkpointing would keep the cache from the layers.
    """
    ids = named.get("input_ids")
    if ids is None:
        raise UsageError(
            "inputs_embeds came in place of input_ids, and separators are told by their ids; give input_ids"
        )
    if decoder.training and any(getattr(layer, "gradient_checkpointing", False) for layer in decoder.modules()):
        raise UsageError(
            "gradient checkpointing in training takes the cache away from the layers; call model.eval(), or switch it "
            "off"
        )
    return ids


def present_of(mask: Any, columns: int, coming: int) -> Tensor | None:
    """Return which of the tokens that come are there, (B, T) bool; None: all are.

    Args:
        mask: of the caller.
        columns: that the mask has to have, those that were dropped included.
        coming: T.

    Raises:
        UsageError: a mask of another shape.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != columns:
        came = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UsageError(
            f"attention_mask is of shape {came}; legal with this cache is (B, {columns}), all tokens so far, 0 or "
            "False at padding"
        )
    return mask[:, -coming:].bool()


def shaped(decoder: Any, seen: Tensor) -> Tensor:
    """Return a mask (B, 1, T, S) bool as the attention of a decoder reads it.

    Raises:
        UsageError: it reads no such mask.
    """
    name = decoder.config._attn_implementation
    if name == "sdpa":
        return seen
    if name == "eager":  # adds it; a mask of True and False would be silently wrong
        least = torch.finfo(decoder.dtype).min
        return torch.zeros_like(seen, dtype=decoder.dtype).masked_fill(~seen, least)
    raise UsageError(
        f"attention '{name}' reads no mask of queries by keys, which sees='window' and layers that differ need; legal "
        "for them are sdpa and eager"
    )
