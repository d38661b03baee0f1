"""The weights of a plain decoder under the names of Llama, Mistral and Arcee, and back.

Names differ, and q, k and v are one weight here:

    qkv = [q; k; v]      ((H + 2 G) D, width), rows of heads one after another

The norms of a decoder have one eps, e; a folder may have another, f. With c = sqrt(e / f),

    c x / sqrt(mean((c x)^2) + e) = x / sqrt(mean(x^2) + f),

so what is written into the residual stream (embedding, out, down) comes in c times as large, and every norm gives what
it gave; a tied embedding is the output layer too, for which the last norm's weight goes by c. Only rounding is left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome._weights import check_weights
from lissome.bridges.llama import Shape

Weights = dict[str, Tensor]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOP = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
HEAD = {"head.weight": "lm_head.weight"}
LAYER = {
    "norm_heads.weight": "input_layernorm.weight",
    "heads.out.weight": "self_attn.o_proj.weight",
    "norm_feed.weight": "post_attention_layernorm.weight",
    "feed.up.weight": "mlp.up_proj.weight",
    "feed.down.weight": "mlp.down_proj.weight",
}
GATE = {"feed.gate.weight": "mlp.gate_proj.weight"}
QKV = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
WRITERS = ("embedding.weight", "heads.out.weight", "feed.down.weight")  # into the residual stream
LEFT = "rotary_emb.inv_freq"  # in folders of old: a function of the sizes


def outward(weights: Mapping[str, Tensor], shape: Shape) -> Weights:
    """Return the weights of a decoder under the names of transformers, on the CPU."""
    dimension = shape.width // shape.heads
    parts = [heads * dimension for heads in (shape.heads, shape.groups, shape.groups)]
    found = {theirs: weights[ours] for ours, theirs in _names(shape).items()}
    for layer in range(shape.layers):
        own = weights[f"blocks.{layer}.heads.qkv.weight"].split(parts)  # (H D or G D, width)
        found |= {f"model.layers.{layer}.{name}": part for name, part in zip(QKV, own, strict=True)}
    # copies: safetensors takes no two weights in one memory
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def inward(weights: Mapping[str, Tensor], shape: Shape, *, eps: float, own: float, source: str) -> Weights:
    """Return weights of transformers under the names of a decoder, in float32, or float64 if any is.

    Args:
        weights: of a folder.
        shape: its sizes.
        eps: of its norms.
        own: the eps of a decoder's norms.
        source: the folder, as a sentence is to name it.

    Raises:
        UsageError: one is missing, of another shape, or none of a decoder's, such as a bias.
    """
    there = {name: value for name, value in weights.items() if not name.endswith(LEFT)}
    if shape.tied and "lm_head.weight" in there:
        head, embedding = there.pop("lm_head.weight"), there.get("model.embed_tokens.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise UsageError(f"{source} says that the embedding is its output layer, and holds another lm_head.weight")
    _check_layers(there, shape.layers, source)
    check_weights(_blank(shape), there, source, dtypes=False)
    for name, value in there.items():
        if value.dtype not in DTYPES:
            legal = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise UsageError(f"'{name}' in {source} is {value.dtype}; legal are {legal}")
    dtype = torch.float64 if any(value.dtype == torch.float64 for value in there.values()) else torch.float32
    found = {ours: there[theirs].to(dtype) for ours, theirs in _names(shape).items()}
    for layer in range(shape.layers):
        parts = [there[f"model.layers.{layer}.{name}"].to(dtype) for name in QKV]
        found[f"blocks.{layer}.heads.qkv.weight"] = torch.cat(parts)
    return found if eps == own else _scaled(found, math.sqrt(own / eps), tied=shape.tied)


def _check_layers(there: Mapping[str, Tensor], layers: int, source: str) -> None:
    """Refuse a number of layers that is not that of the weights, before a name is made for each."""
    held = {found[1] for name in there if (found := re.match(r"model\.layers\.(\d+)\.", name))}
    if len(held) != layers:
        raise UsageError(
            f"{source} says that it has {layers:,} layers and holds weights of {len(held):,}; save it again"
        )


def _scaled(weights: Weights, c: float, *, tied: bool) -> Weights:
    """Write c times as much into the residual stream; the logits stay."""
    found = {name: value * c if name.endswith(WRITERS) else value for name, value in weights.items()}
    return found | ({"norm.weight": weights["norm.weight"] / c} if tied else {})


def _names(shape: Shape) -> dict[str, str]:
    """Return our names and theirs, of all weights that are the same on both sides."""
    layer = LAYER | (GATE if shape.feed == "swiglu" else {})
    return (TOP if shape.tied else TOP | HEAD) | {
        f"blocks.{number}.{ours}": f"model.layers.{number}.{theirs}"
        for number in range(shape.layers)
        for ours, theirs in layer.items()
    }


def _blank(shape: Shape) -> Weights:
    """Return weights of the sizes that a folder has to have, which take no memory."""
    narrow = shape.width // shape.heads * shape.groups
    sizes = {
        **dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (shape.vocabulary, shape.width)),
        **dict.fromkeys(("self_attn.q_proj.weight", "self_attn.o_proj.weight"), (shape.width, shape.width)),
        **dict.fromkeys(("self_attn.k_proj.weight", "self_attn.v_proj.weight"), (narrow, shape.width)),
        **dict.fromkeys(("mlp.gate_proj.weight", "mlp.up_proj.weight"), (shape.hidden, shape.width)),
        "mlp.down_proj.weight": (shape.width, shape.hidden),
    }
    names = [
        *_names(shape).values(),
        *(f"model.layers.{layer}.{name}" for layer in range(shape.layers) for name in QKV),
    ]
    found = {name: sizes.get(re.sub(r"^model\.layers\.\d+\.", "", name), (shape.width,)) for name in names}
    return {name: torch.zeros(size, device="meta") for name, size in found.items()}
