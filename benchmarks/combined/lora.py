"""Ranks for a LoRA of peft on a model whose attention is SA-Softmax, beside other ranks and beside softmax."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import lissome.bridges.transformers  # noqa: F401  (SA-Softmax by its name)
from benchmarks.combined.ways import Figures, Row, clocked
from lissome.allocation import measuring
from lissome.bridges.labels import own_loss
from lissome.bridges.peft import choose_ranks, cut_adapter_
from lissome.recipes.sublora_text import texts

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
LENGTH, ROWS, RANK = 64, 8, 6
BASE, ADAPT, RETUNE = 200, 100, 30  # steps on the first text, on the second, and after the cut
NAMES = {"SA-Softmax": "lissome_sa_softmax", "softmax": "sdpa"}
# way -> attention, rank at first, rule that cuts to half (none: never)
WAYS = {
    "SA-Softmax, by curvature": ("SA-Softmax", RANK, "sublora"),
    "SA-Softmax, by size": ("SA-Softmax", RANK, "magnitude"),
    "SA-Softmax, at random": ("SA-Softmax", RANK, "random"),
    "SA-Softmax, equal ranks": ("SA-Softmax", RANK // 2, ""),
    "softmax, by curvature": ("softmax", RANK, "sublora"),
}


def run(seed: int, *, quick: bool) -> Figures:
    """Train a base on one text for each attention, then adapt it to another in each way."""
    first, second = texts(())
    border = len(second) * 9 // 10
    steps = (2, 2, 1) if quick else (BASE, ADAPT, RETUNE)
    bases = {name: _base(first, attention, steps[0], seed) for name, attention in NAMES.items()}
    held = [_rows(second[border:], torch.Generator().manual_seed(9), 32) for _ in range(4)]
    return {
        "ways": {
            way: clocked(_adapted, bases[name], second[:border], held, rank, rule, steps[1:], seed)
            for way, (name, rank, rule) in WAYS.items()
        }
    }


def _base(text: Tensor, attention: str, steps: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)  # of this process alone
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, pad_token_id=0, **SIZES, attn_implementation=attention))  # pyright: ignore[reportCallIssue]
    _train(model, text, steps, 5e-3, seed)
    return model


def _adapted(
    base: LlamaForCausalLM,
    text: Tensor,
    held: Sequence[dict[str, Tensor]],
    rank: int,
    rule: str,
    steps: tuple[int, int],
    seed: int,
) -> Row:
    torch.manual_seed(1000 + seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model: Any = get_peft_model(copy.deepcopy(base), config)  # type: ignore[arg-type]
    untouched = _nats(model, held)
    _train(model, text, steps[0], 1e-2, 1000 + seed)
    trained = _nats(model, held)
    more: dict[str, Any] = {"trained": trained, "cut": trained}
    if rule:
        generator = torch.Generator().manual_seed(2000 + seed)
        batches = [_rows(text, generator, ROWS) for _ in range(2)]
        basis = "trained" if rule == "magnitude" else None
        ranks = choose_ranks(model, None, batches, len(TARGETS) * 2 * rank // 2, rule=rule, seed=seed, basis=basis)
        cut_adapter_(model, ranks)
        more |= {"cut": _nats(model, held), "ranks": list(ranks.allocation.ranks.values())}
    _train(model, text, steps[1], 5e-3, 3000 + seed)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    attention = base.config._attn_implementation
    return {"numbers": count, "attention": attention, "untouched": untouched, "nats": _nats(model, held)} | more


def _rows(text: Tensor, generator: torch.Generator, n: int) -> dict[str, Tensor]:
    starts = torch.randint(0, len(text) - LENGTH, (n, 1), generator=generator)
    rows = text[starts + torch.arange(LENGTH)]  # (n, LENGTH)
    return {"input_ids": rows, "labels": rows}


def _train(model: Any, text: Tensor, steps: int, rate: float, seed: int) -> None:
    """Train what requires gradients, by Adam."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1 * rate)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        own_loss(model, _rows(text, generator, ROWS)).backward()
        optimizer.step()
        schedule.step()


def _nats(model: Any, batches: Sequence[dict[str, Tensor]]) -> float:
    with torch.no_grad(), measuring(model):
        return sum(float(own_loss(model, batch)) for batch in batches) / len(batches)
