"""A plain decoder as config.json of Llama, Mistral or Arcee, which transformers reads with no code of ours, and back.

Both are the same function: RMSNorm before each part, rotary in the half-split layout, grouped key heads, SwiGLU
(arXiv 2302.13971, section 2.2), or GELU as Arcee has it. The weights are in `layout`.

Nothing here needs transformers: a folder is JSON and safetensors.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lissome._checks import check_flag, check_number, check_whole, refuse
from lissome._errors import UsageError, unknown
from lissome.attention import Attention, Rotary, softmax
from lissome.attention.notation import brief
from lissome.attention.rotary import BASE


@dataclass(frozen=True)
class Kind:
    """A class of transformers: its name, the feed it has, how it names that, and whether it has a window."""

    name: str
    feed: str
    act: str
    windowed: bool = False


KINDS: Mapping[str, Kind] = {
    "llama": Kind("LlamaForCausalLM", "swiglu", "silu"),
    "mistral": Kind("MistralForCausalLM", "swiglu", "silu", windowed=True),
    "arcee": Kind("ArceeForCausalLM", "gelu", "gelu"),
}
UNLIKE = {  # types that people have, and what of them a decoder has not
    "qwen2": "adds biases to q, k and v",
    "qwen3": "normalizes q and k in each head",
    "gemma": "scales its embedding and its norms otherwise",
    "gpt2": "learns a vector for each position",
    "gpt_neox": "turns a part of each head and adds biases",
}
SIZES = {  # ours -> theirs
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feed_width": "intermediate_size",
    "length": "max_position_embeddings",
}
WINDOW = re.compile(r"causal & window\((\d+)\)|window\((\d+)\) & causal")
MISTRAL_WINDOW = 4096  # where a folder of that type does not say it
EPS_OF_LLAMA = 1e-6  # where a folder does not say it


class Shape(Protocol):
    """The sizes of a decoder, such as `lissome.models.DecoderShape`."""

    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def groups(self) -> int: ...  # noqa: D102
    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def feed(self) -> str: ...  # noqa: D102
    @property
    def tied(self) -> bool: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def length(self) -> int | None: ...  # noqa: D102
    @property
    def body(self) -> str: ...  # noqa: D102


def config_of(
    shape: Shape, recipes: Sequence[Attention], *, eps: float, end: int | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return config.json of a decoder.

    Args:
        shape: its sizes.
        recipes: its attention, layer by layer.
        eps: of its norms.
        end: the token that ends a text and begins one; None: there is none.
        dtype: of its weights.

    Raises:
        UsageError: a part of its attention that no class of transformers has, by name, layers that differ, or a GELU
            with a window.

    >>> from lissome.models import Decoder, DecoderShape
    >>> model = Decoder(DecoderShape(vocabulary=8, layers=1, width=8, heads=2, validity="causal & window(4)"))
    >>> config = config_of(model.shape, model.recipes, eps=1e-5, end=None, dtype=torch.float32)
    >>> config["model_type"], config["sliding_window"]
    ('mistral', 4)
    """
    if shape.body != "plain":
        raise _unknown("body", shape.body, "plain")
    forms = [_parts(recipe) for recipe in recipes]
    if len(set(forms)) > 1:
        kinds = " and ".join(f"'{kind}'" for kind in dict.fromkeys(brief(recipe.explain()) for recipe in recipes))
        raise UsageError(
            f"layers differ in their attention, {kinds}, and a model of type {_listed()} has one kind; legal is one "
            "validity for all layers"
        )
    base, window = forms[0]
    if window is not None and shape.feed == "gelu":
        raise UsageError(
            f"feed 'gelu' with validity '{brief(recipes[0].validity.name)}' is in no class of transformers; legal are "
            "swiglu with a window, and gelu without"
        )
    kind = "arcee" if shape.feed == "gelu" else "llama" if window is None else "mistral"
    told = {
        "architectures": [KINDS[kind].name],
        "model_type": kind,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "head_dim": shape.width // shape.heads,
        "hidden_act": KINDS[kind].act,
        "rms_norm_eps": eps,
        "rope_theta": base,  # for readers of old; the next line is for those of today
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "tie_word_embeddings": shape.tied,
        "attention_dropout": shape.dropout,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": str(dtype).removeprefix("torch."),
    }
    told |= {} if shape.length is None else {"max_position_embeddings": shape.length}
    return told | ({"sliding_window": window} if kind == "mistral" else {"attention_bias": False, "mlp_bias": False})


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `DecoderShape` is made of, from config.json.

    Raises:
        UsageError: a type of model that has another form, or a part of one that a decoder has not: biases, scaled
            rotary, heads of another width, another activation, weights that are kept as small whole numbers.

    >>> told = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> told |= {"model_type": "llama", "intermediate_size": 16, "max_position_embeddings": 32}
    >>> sizes_of(told)["position"], sizes_of(told)["validity"]
    ('rotary', 'causal')
    """
    kind = _kind(config)
    if lacking := [theirs for theirs in SIZES.values() if theirs not in config]:
        raise UsageError(f"config.json lacks {', '.join(lacking)}")
    for theirs in SIZES.values():
        check_whole(f"{theirs} in config.json", config[theirs])
    if (act := config.get("hidden_act", KINDS[kind].act if kind != "arcee" else "relu2")) != KINDS[kind].act:
        raise UsageError(f"hidden_act is '{act}' in a model of type {kind}; legal is {KINDS[kind].act}")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise UsageError(f"{name} is {config[name]}, and a decoder adds no biases; legal is False")
    if config.get("quantization_config"):
        raise UsageError("the folder holds quantized weights; save the model in float32 or bfloat16")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if (dimension := config.get("head_dim")) is not None and dimension * heads != width:
        raise UsageError(
            f"head_dim is {dimension} for {heads} heads of a width of {width}; legal are heads that together are as "
            "wide as the model"
        )
    groups = config.get("num_key_value_heads")
    tied = config.get("tie_word_embeddings", False)
    check_flag("tie_word_embeddings in config.json", tied)
    return {
        **{ours: config[theirs] for ours, theirs in SIZES.items()},
        "key_heads": None if groups == heads else groups,
        "feed": KINDS[kind].feed,
        "tied": tied,
        "position": _position(config),
        "validity": _validity(config, kind),
    }


def eps_of(config: Mapping[str, Any]) -> float:
    """Return the eps of the norms, from config.json.

    Raises:
        UsageError: it is no positive number.
    """
    eps = config.get("rms_norm_eps", EPS_OF_LLAMA)
    check_number("rms_norm_eps in config.json", eps, "are numbers above 0", lambda eps: 0 < eps < 1)
    return eps


def _parts(recipe: Attention) -> tuple[float, int | None]:
    """Return the base of rotary and the window of an attention that transformers has too."""
    bias, refine, rotary, rule = recipe.bias, recipe.refine, recipe.rotary, recipe.validity.name
    near = WINDOW.fullmatch(rule)
    if bias is not None or not isinstance(rotary, Rotary):
        raise _unknown("position", "none" if bias is None else bias, "rotary")
    if refine is not None:
        raise _unknown("refine", refine, "none")
    if recipe.normalize is not softmax:
        raise _unknown("normalize", recipe.normalize, "softmax")
    if rule != "causal" and near is None:
        raise _unknown("validity", rule, "causal, or such as causal & window(256)")
    return rotary.base, None if near is None else int(near[1] or near[2])


def _unknown(part: str, value: object, legal: str) -> UsageError:
    name = value if isinstance(value, str) else getattr(value, "name", type(value).__name__.lower())
    return UsageError(
        f"{part} is '{brief(name)}', which no class of transformers has; legal is {legal}: train such a decoder, or "
        "put this attention into a model of transformers by lissome.bridges.transformers.attach"
    )


def _kind(config: Mapping[str, Any]) -> str:
    kind = config.get("model_type")
    if kind in UNLIKE:
        raise UsageError(f"a model of type '{kind}' {UNLIKE[kind]}, which a decoder does not; legal are {_listed()}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("model type", kind, KINDS)
    return kind


def _position(config: Mapping[str, Any]) -> str:
    """Return how positions are told, from either of the two ways in which a folder says it."""
    told = {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor", 1)}
    for name in ("rope_scaling", "rope_parameters"):
        said = config.get(name) or {}
        if not isinstance(said, Mapping) or any(isinstance(value, Mapping) for value in said.values()):
            raise refuse(f"{name} in config.json", said, "is one object for all layers, of rope_type default")
        kind = said.get("rope_type", said.get("type", "default"))
        if kind != "default":
            raise UsageError(f"{name} in config.json scales rotary by '{kind}'; legal is default, which scales nothing")
        told |= {key: said[key] for key in told if said.get(key) is not None}
    if told["partial_rotary_factor"] != 1:
        raise UsageError(f"partial_rotary_factor is {told['partial_rotary_factor']}; legal is 1, whole heads")
    base = BASE if told["rope_theta"] is None else told["rope_theta"]
    check_number("rope_theta in config.json", base, "are finite numbers above 1", lambda x: 1 < x <= sys.float_info.max)
    return "rotary" if base == BASE else f"rotary(base={int(base) if base == int(base) else base})"


def _validity(config: Mapping[str, Any], kind: str) -> str:
    if not KINDS[kind].windowed:
        return "causal"
    if config.get("layer_types"):
        raise UsageError("layer_types in config.json gives layers windows of their own; legal is one window for all")
    window = config.get("sliding_window", MISTRAL_WINDOW)
    if window is None:
        return "causal"
    check_whole("sliding_window in config.json", window)
    return f"causal & window({window})"


def _listed() -> str:
    return ", ".join(KINDS)
