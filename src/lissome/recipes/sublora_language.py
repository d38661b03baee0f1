"""A language model adapted by a LoRA of peft, cut in every basis by every rule, beside AdaLoRA and half the rank.

A small Llama of bytes is trained on one text, then a LoRA on another one. Everything is judged by the perplexity per
byte of a part of the second text that nothing was trained or chosen on.
"""

from __future__ import annotations

import copy
import functools
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._files import write
from lissome.allocation import Allocation, JointRanks, Schedule, Weighed, measuring, weigh
from lissome.bridges.labels import own_loss, sampled_likelihood
from lissome.bridges.peft import PeftRanks, PeftTerms, cut_adapter_
from lissome.bridges.trainer import GatedLora
from lissome.recipes.paper import Row, Tick, kept
from lissome.recipes.sublora_control import Anew
from lissome.recipes.sublora_names import ANEW, FASTER, HALF, JOINT, LONGER, START
from lissome.recipes.sublora_text import HELD, texts

try:
    from peft import AdaLoraConfig, LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as error:
    raise UsageError("the language part needs peft and transformers; install: pip install 'lissome[peft]'") from error

RULES = ("reverse", "sublora", "swap", "diagonal", "first_order", "adalora", "magnitude", "random", "greedy")
FREED = ("reverse", "sublora", "adalora")  # of which a compensated choice is measured too
RETUNED = ("reverse", "adalora", "magnitude")
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
LAYERS = 2
RATE = 1e-2


@dataclass(frozen=True)
class Sizes:
    """How large a look is.

    Attributes:
        hidden: of the Llama, with two layers of four heads.
        length: bytes of a row.
        rows: of a batch.
        rank: of the LoRA on each of its eight matrices; half of all terms are cut.
        base: steps on the first text.
        adapt: steps on the second text, also of every other way to get there.
        retune: steps after a cut.
        weighed: batches, of half as many rows, on which terms are weighed.
        held: batches of twice as many rows of text that nothing was trained on.
    """

    hidden: int = 64
    length: int = 64
    rows: int = 16
    rank: int = 8
    base: int = 800
    adapt: int = 400
    retune: int = 60
    weighed: int = 4
    held: int = 8


FULL = Sizes()
QUICK = Sizes(hidden=16, length=16, rows=4, rank=2, base=20, adapt=20, retune=3, weighed=2, held=1)


@dataclass(frozen=True)
class Text:
    """Rows of a text as batches of a causal model; an objective."""

    tokens: Tensor
    sizes: Sizes
    tick: Tick

    def sample(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        """Return n rows that begin anywhere: `input_ids` and `labels`, (n, length)."""
        starts = torch.randint(0, len(self.tokens) - self.sizes.length, (n, 1), generator=generator)
        rows = self.tokens[starts + torch.arange(self.sizes.length)]
        return {"input_ids": rows, "labels": rows}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the model's loss, in nats for each byte."""
        self.tick()
        return own_loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return nothing: `perplexity` is measured elsewhere."""
        return {}

    def some(self, count: int, n: int, seed: int) -> list[dict[str, Tensor]]:
        """Return a fixed few batches."""
        generator = torch.Generator().manual_seed(seed)
        return [self.sample(generator, n) for _ in range(count)]


def run(
    tick: Tick, place: Path, *, data: Sequence[str], seed: int, quick: bool, label: str = "", basis: str = ""
) -> Row:
    """Run one cell: `start`, a cut in a basis, or another way to half of the terms.

    Raises:
        RunError: the cell that this one follows has left nothing.
    """
    begun, sizes = time.process_time(), QUICK if quick else FULL
    first, second = texts(data)
    # the last part of the second text is held out
    border = len(second) - len(second) // HELD
    pre, train, held = (Text(part, sizes, tick) for part in (first, second[:border], second[border:]))
    judge = functools.partial(perplexity, batches=held.some(sizes.held, 2 * sizes.rows, 3_000))
    home, own = place / f"language-{seed}", {"seed": seed, "quick": quick, "label": label}
    if label == START:
        found = {"part": "language start"} | _start(home, pre, train, judge, seed, sizes)
    elif basis:
        found = {"part": "language cut", "basis": basis} | _cut(home, train, judge, basis, seed, sizes)
    else:
        found = {"part": "language joint"} | _joint(home, train, judge, label, seed, sizes)
    return own | found | {"cpu": time.process_time() - begun}


def perplexity(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Return exp of the mean loss per byte, from the logits: AdaLoRA adds a penalty to what it calls its loss."""
    with torch.no_grad(), measuring(model):
        found = []
        for batch in batches:
            logits, wanted = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
            found.append(float(nn.functional.cross_entropy(logits.flatten(0, 1).double(), wanted.flatten())))
    return math.exp(math.fsum(found) / len(found))


def _llama(seed: int, sizes: Sizes) -> Any:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=sizes.hidden,
        intermediate_size=2 * sizes.hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=sizes.length,
        tie_word_embeddings=True,
    )
    return _drawn(lambda: LlamaForCausalLM(config), seed)


def _drawn(make: Any, seed: int) -> Any:
    """Make a model whose start is drawn by torch's own generator, which is then put back."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what peft and transformers say to each other
        torch.manual_seed(seed)
        return make()


def _lora(base: nn.Module, seed: int, rank: int) -> Any:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    return _drawn(lambda: get_peft_model(copy.deepcopy(base), config), 1_000 + seed)  # type: ignore[arg-type]


def _train(
    model: nn.Module, text: Text, steps: int, seed: int, *, rate: float = RATE, after: Any = None, watch: Any = None
) -> None:
    """Train what wants it by Adam at a rate that falls along a cosine.

    Args:
        model: in place.
        text: rows are drawn from it.
        steps: of the optimizer.
        seed: of the rows.
        rate: at the start.
        after: called with the step after each one, before gradients are cleared.
        watch: a `JointRanks`, or an `Anew`.
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(2_000 + seed)
    if watch is not None:
        watch.begin(0, model, [optimizer])
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        text.loss(model, text.sample(generator, text.sizes.rows)).backward()
        optimizer.step()
        course.step()
        if after is not None:
            after(step)
        if watch is not None:
            watch(step, model)
    optimizer.zero_grad()
    model.eval()


def _keep(model: nn.Module, path: Path) -> None:
    write(path, save({name: tensor.detach().clone() for name, tensor in model.named_parameters()}))


def _kept(model: Any, path: Path) -> Any:
    model.load_state_dict(load_file(kept(path)), strict=False)  # the head is the embedding, and stands there once
    return model.eval()


def _start(home: Path, pre: Text, train: Text, judge: Any, seed: int, sizes: Sizes) -> Row:
    base = _llama(seed, sizes)
    _train(base, pre, sizes.base, seed)
    _keep(base, home / "base.safetensors")
    model = _lora(base, seed, sizes.rank)
    before = judge(model)
    _train(model, train, sizes.adapt, seed)
    _keep(model, home / "adapted.safetensors")
    return {"untouched": before, "adapted": judge(model)}


def _cut(home: Path, train: Text, judge: Any, basis: str, seed: int, sizes: Sizes) -> Row:
    """Cut half of the terms in one basis by every rule, and train on what is left by some."""
    base = _kept(_llama(seed, sizes), home / "base.safetensors")
    model = _kept(_lora(base, seed, sizes.rank), home / "adapted.safetensors")
    terms, generator = PeftTerms(model), torch.Generator().manual_seed(seed)
    batches = train.some(sizes.weighed, sizes.rows // 2, 4_000 + seed)
    weighed = weigh(
        terms, train.loss, batches, basis=basis, probe=lambda net, batch: sampled_likelihood(net, batch, generator)
    )
    rules, moved, retuned = dict[str, float](), dict[str, float](), dict[str, float]()
    for rule in RULES:
        model = _cut_by(terms, _chosen(weighed, rule, terms.count // 2, seed, compensate=False))
        rules[rule] = judge(model)
        if rule in RETUNED:
            _train(model, train, sizes.retune, 1 + seed, rate=RATE / 3)
            retuned[rule] = judge(model)
        if rule in FREED:
            moved[rule] = judge(_cut_by(terms, _chosen(weighed, rule, terms.count // 2, seed, compensate=True)))
    return {"loss": weighed.expansion.value, "rules": rules, "compensated": moved, "retuned": retuned}


def _chosen(weighed: Weighed, rule: str, budget: int, seed: int, *, compensate: bool) -> Allocation:
    generator = torch.Generator().manual_seed(seed)
    return weighed.choose(budget, rule=rule, compensate=compensate, generator=generator)


def _cut_by(terms: PeftTerms, chosen: Allocation) -> Any:
    """Return a copy of the model with the kept terms alone."""
    ranks = PeftRanks(*terms.patterns(chosen.ranks), chosen, terms.adapter)
    return cut_adapter_(copy.deepcopy(terms.model), ranks)


def _joint(home: Path, train: Text, judge: Any, label: str, seed: int, sizes: Sizes) -> Row:
    """Train a LoRA that ends with half of the terms, in as many steps as the whole one had."""
    base = _kept(_llama(seed, sizes), home / "base.safetensors")
    history = list[Row]()
    schedule = Schedule(sizes.rank // 2 * len(TARGETS) * LAYERS, steps=sizes.adapt)
    if label in (HALF, ANEW, LONGER):
        model = _lora(base, seed, sizes.rank // 2)
        watch = Anew(schedule) if label == ANEW else None
        _train(model, train, sizes.adapt + (sizes.retune if label == LONGER else 0), seed, watch=watch)
    elif label in JOINT:
        rule, regrow, basis = JOINT[label]
        model = _lora(base, seed, sizes.rank)
        gated = GatedLora(model)
        generator = torch.Generator().manual_seed(5_000 + seed)
        watch = JointRanks(
            gated,
            train,
            schedule,
            rule=rule,
            regrow=regrow,
            basis=basis,
            probe=lambda net, batch: sampled_likelihood(net, batch, generator),
            batches=sizes.weighed,
            points=sizes.rows // 2,
            seed=seed,
        )
        _train(model, train, sizes.adapt, seed, watch=watch)
        model, history = gated.finish_(), watch.history
    else:
        model = _adalora(base, seed, sizes)
        rate = 3 * RATE if label == FASTER else RATE
        _train(model, train, sizes.adapt, seed, rate=rate, after=model.base_model.update_and_allocate)
    return {"perplexity": judge(model), "came back": sum(each["came"] for each in history)}


def _adalora(base: nn.Module, seed: int, sizes: Sizes) -> Any:
    """Return peft's AdaLoRA on the same schedule as `Schedule`."""
    schedule = Schedule(sizes.rank // 2, steps=sizes.adapt)
    config = AdaLoraConfig(
        init_r=sizes.rank,
        target_r=sizes.rank // 2,
        tinit=schedule.warmup or 0,
        tfinal=schedule.last or 0,
        deltaT=schedule.every or 1,
        total_step=sizes.adapt,
        lora_alpha=2 * sizes.rank,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    return _drawn(lambda: get_peft_model(copy.deepcopy(base), config), 1_000 + seed)  # type: ignore[arg-type]
