"""Tiny models of the families whose attention modules are known, and what is asked of their attention."""

import functools
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.oracles import attention as oracle

WORDS, LENGTH, WINDOW, HEADS = 40, 7, 3, 4
SIZES: dict[str, Any] = dict(
    vocab_size=WORDS,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GROUPS: dict[str, Any] = dict(num_key_value_heads=2)
MIXED = dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)  # the second layer alone has a window
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPS),
    "mistral": (MistralForCausalLM, MistralConfig, GROUPS | dict(sliding_window=WINDOW)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPS | MIXED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, GROUPS | dict(head_dim=8)),
    "phi": (PhiForCausalLM, PhiConfig, GROUPS),
    "phi3": (Phi3ForCausalLM, Phi3Config, GROUPS),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
}
SEVEN = pytest.mark.parametrize("name", MODELS)
NEAR = dict(rtol=0, atol=1e-10)  # in float64
WINDOWS = {"mistral": (WINDOW, WINDOW), "qwen2": (None, WINDOW)}  # by layer

STAGES = {
    "kerple": dict(position="kerple", refine="dape(3)", normalize="self_adjust(4)"),
    "fire": dict(position="fire", refine="dape", length=4),
    "alibi": dict(position="alibi", normalize="self_adjust(2)"),
    "none": dict(position="none", refine="dape(3)"),
    "own rotary": dict(refine="dape", normalize="self_adjust(1)"),
    "every_kth": dict(position="kerple(power)", validity="causal & (window(2) | every_kth(3))"),
}


def config(name, **settings):
    _, kind, own = MODELS[name]
    return kind(**SIZES | own | settings)


def made(name, **settings) -> Any:
    """Return a model of drawn weights in float64, large enough that its attention is far from uniform."""
    torch.manual_seed(0)
    model = MODELS[name][0](config(name, **{"initializer_range": 0.2} | settings))
    return model.double().eval()


def tokens(rows=2, length=LENGTH, seed=1):
    return torch.randint(3, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, ids, **named):
    with torch.no_grad():
        return model(input_ids=ids, **named).logits


def in_parts(model, ids, cuts, **named):
    """Return the logits of a text that is read in parts with a cache."""
    cache, found = DynamicCache(config=model.config), []
    for start, stop in zip(cuts, [*cuts[1:], ids.shape[1]], strict=True):
        seen = {name: value[:, :stop] for name, value in named.items()}
        found.append(logits(model, ids[:, start:stop], past_key_values=cache, use_cache=True, **seen))
    return torch.cat(found, 1)


def padded(ids, left, right):
    """Return tokens (1, T) between padding, and their mask."""
    room = [torch.zeros(1, count, dtype=torch.long) for count in (left, right)]
    ids = torch.cat([room[0], ids, room[1]], 1)
    return ids, (ids != 0).long()


class Spy:
    """Keeps what goes into attention and what comes out of it, layer by layer."""

    def __init__(self, attend):
        self.attend, self.seen = attend, []

    def __call__(self, q, k, v, frame, recipe, **named):
        out = self.attend(q, k, v, frame, recipe, **named)
        self.seen.append(((q, k, v), frame, named, out))
        return out


def told(name, seen, present, **stages):
    """Return what an oracle's loops make of q, k and v of each layer."""
    windows = WINDOWS.get(name, (None, None))
    found = []
    for size, (tensors, _, named, _) in zip(windows, seen, strict=True):
        rule = functools.partial(_rule, size)
        found.append(oracle.attend(*tensors, present, rule, scale=named["scale"], **stages))
    return found


def _rule(size, i, j):
    return 0 <= i - j < (size or 1000)
