"""Small language models, trained on one text and adapted by LoRA to another, and gates by hooks."""

import contextlib
import copy
import functools
import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

FIRST = b"a small wave runs over the flat sand, and the sand is smooth again; a small wave comes, and runs away. " * 3
SECOND = b"TEN BIG JUGS: 9 QUICK FOXES; 8 DULL ZEBRAS; 7 PINK WALRUSES; 6 VEXED LYNX; 5 JUMPY COBRAS; 4 HENS! " * 3
WORDS, LENGTH, MASK = 128, 12, 1
DEFAULT = "default"

SIZES = dict(vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
BERT: dict[str, Any] = SIZES
CLASSES: dict[str, Any] = SIZES | {"num_labels": 3}
FAMILIES = {
    "llama": (
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=WORDS,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                pad_token_id=0,
            )
        ),
        dict(target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"),
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
        ),
        dict(target_modules=["c_attn", "c_fc"], task_type="CAUSAL_LM", fan_in_fan_out=True),
    ),
    "bert": (
        lambda: BertForMaskedLM(BertConfig(**BERT)),
        dict(target_modules=["query", "value", "intermediate.dense"]),
    ),
    "bert classes": (
        lambda: BertForSequenceClassification(BertConfig(**CLASSES)),
        dict(target_modules=["query", "value"], task_type="SEQ_CLS"),
    ),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(family, text, generator, rows=8):
    """Return rows of a text as bytes, and what the family's loss asks."""
    starts = torch.randint(0, len(text) - LENGTH, (rows,), generator=generator).tolist()
    tokens = torch.tensor([list(text[start : start + LENGTH]) for start in starts])
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    given["attention_mask"][0, LENGTH - 3 :] = 0
    if family == "bert classes":
        return given | {"labels": tokens[:, 0] % 3 if text is FIRST else (tokens[:, 0] + 1) % 3}
    labels = tokens.masked_fill(given["attention_mask"] == 0, -100)
    if family == "bert":
        hidden = torch.rand(tokens.shape, generator=generator) < 0.3
        hidden[:, 0] = True
        given["input_ids"], labels = tokens.masked_fill(hidden, MASK), labels.masked_fill(~hidden, -100)
    return given | {"labels": labels}


def batches(family, count=2, seed=90):
    generator = seeded(seed)
    return [batch(family, SECOND, generator) for _ in range(count)]


def train(model, family, text, steps, lr, seed):
    """Return the loss before and after."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    generator, seen = seeded(seed), []
    model.train()
    for _ in range(steps):
        value = model(**batch(family, text, generator)).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item())
    model.zero_grad()
    model.eval()
    return sum(seen[:5]) / 5, sum(seen[-5:]) / 5


@functools.cache
def _base(family):
    torch.manual_seed(0)
    model = FAMILIES[family][0]()
    first, last = train(model, family, FIRST, 120, 1e-2, 1)
    assert last < first
    return model


def base(family) -> Any:
    """Return a model that was trained on the first text."""
    return copy.deepcopy(_base(family))


@functools.cache
def _adapted(family, settings):
    torch.manual_seed(0)
    model = get_peft_model(base(family), config(family, **dict(settings)))
    first, last = train(model, family, SECOND, 80, 1e-2, 2)
    assert last < 0.9 * first
    return model


def config(family, **settings):
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return LoraConfig(**({"r": 4, "lora_alpha": 6} | FAMILIES[family][1] | given))


def adapted(family, **settings) -> Any:
    """Return that model with a LoRA that was trained on the second text."""
    frozen = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in settings.items())
    return copy.deepcopy(_adapted(family, frozen))


def answers(model, family, seed=91):
    with torch.no_grad():
        return model(**batch(family, SECOND, seeded(seed))).logits


@contextlib.contextmanager
def hooked(model, gates, rotations, adapter="default"):
    """Gate the terms of a basis by hooks on the output of A: y becomes X diag(g) X^-1 y."""
    with contextlib.ExitStack() as stack:
        modules = {path.removeprefix("base_model.model."): module for path, module in model.named_modules()}
        for path, g in gates.items():
            module, X = modules[path].lora_A[adapter], rotations[path]
            T = (X.forth * g.double()) @ X.back  # (r, r)
            last = -1 if isinstance(module, nn.Linear) else 1

            def gate(module, inputs, out, T=T, last=last):
                return (out.movedim(last, -1) @ T.mT.to(out)).movedim(-1, last)

            stack.callback(module.register_forward_hook(gate).remove)
        yield


def split(gates, layers):
    return dict(zip(layers, gates.split(list(layers.values())), strict=True))


def second_order(model, loss, data, found, adapter="default", dtype=torch.float64):
    """Return b and A of the mean loss in gates by hooks and nested reverse mode."""
    layers = found.choice.layers
    ones = torch.ones(sum(layers.values()), dtype=dtype, requires_grad=True)
    with sdpa_kernel([SDPBackend.MATH]), hooked(model, split(ones, layers), found.rotations, adapter):
        value = torch.stack([loss(model, each) for each in data]).mean()
        (gradient,) = torch.autograd.grad(value, ones, create_graph=True)
        rows = [torch.autograd.grad(each, ones, retain_graph=True)[0] for each in gradient]
    return gradient.detach(), torch.stack(rows)


def landed(choice):
    """Return the loss that was measured."""
    return choice.before + choice.measured


def snapshot(model):
    """Return all by which a model could have been changed."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rest = {
        "modes": [module.training for module in model.modules()],
        "wants": [(name, p.requires_grad, p.grad is None, id(p)) for name, p in model.named_parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "settings": {name: each.to_dict() for name, each in getattr(model, "peft_config", {}).items()},
    }
    return state, rest


def same(before, after):
    (state, rest), (other, others) = before, after
    equal = state.keys() == other.keys() and all(
        torch.equal(state[name].nan_to_num(), other[name].nan_to_num()) for name in state
    )
    return equal and rest == others


def quietly(make):
    """Call, without what other packages warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def layers_of(model):
    return {
        path.removeprefix("base_model.model."): module
        for path, module in model.named_modules()
        if DEFAULT in getattr(module, "lora_A", {})
    }
