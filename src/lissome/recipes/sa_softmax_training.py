"""How decoders are trained here: the course of the replication of DAPE, gradients watched, rates extended at need."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lissome._errors import RunError
from lissome._files import write_json
from lissome._types import Batch
from lissome.models.decoder import Block, Decoder
from lissome.optim import Budget, Group, Method, Result, fit, keep_memory
from lissome.recipes.dape_names import Sizes
from lissome.recipes.dape_training import BETAS, CLIP, FINAL, WARMUP, Judged
from lissome.recipes.known import ALL_DIVERGED, ERROR, Best
from lissome.recipes.paper import Row, Tick, kept
from lissome.recipes.sa_softmax_names import ADAM

LOOKS = 20  # times that gradients are looked at
LOOKED = 32  # rows held out that they are taken on
APART, MORE = 3.0, 2  # a best rate at an end is extended by this factor, so many times at most


@dataclass(frozen=True)
class Watched:
    """An objective judged by rows held out, on which the gradient of each layer is looked at too, before any clip."""

    judged: Judged

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw rows to train on."""
        return self.judged.sample(generator, n)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the objective's loss."""
        return self.judged.loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the loss on the rows held out, and `norms`."""
        rows = {key: value[:LOOKED] for key, value in self.judged.held.items()}
        found = self.judged.evaluate(model)
        return found | (norms(model, self.loss(model, rows)) if isinstance(model, Decoder) else {})


def norms(model: Decoder, loss: Tensor) -> dict[str, float]:
    """Return the norm of a loss's gradient in each layer: in what makes queries and keys, and in all weights.

    The keys are `scores/L` and `layer/L`, L the layer's number.
    """
    names, weights = zip(*model.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    told = dict[str, float]()
    for layer, block in enumerate(model.blocks):
        own, turned = f"blocks.{layer}.", turned_rows(block)
        told[f"scores/{layer}"] = float(found[f"{own}heads.qkv.weight"][:turned].norm())
        told[f"layer/{layer}"] = float(torch.stack([g.norm() for n, g in found.items() if n.startswith(own)]).norm())
    return told


def turned_rows(block: nn.Module) -> int:
    """Return how many rows of a block's projection `heads.qkv` make queries and keys; they come first.

    >>> from lissome.models import DecoderShape
    >>> turned_rows(Decoder(DecoderShape(vocabulary=8, layers=1, width=16, heads=4, key_heads=2)).blocks[0])
    24
    """
    heads = cast(Block, block).heads
    return (heads.heads + heads.groups) * heads.dimension


class Asked(NamedTuple):
    """A contestant's sizes, optimizer and seed, and the file in which its rate is kept."""

    sizes: Sizes
    optimizer: str
    seed: int
    kept: Path


def train(model: Decoder, objective: Watched, rate: float, asked: Asked, tick: Tick) -> Result:
    """Train in place and look at gradients on the way.

    Raises:
        RunError: it diverged.
    """
    keep_memory()
    sizes = asked.sizes
    group = Group(optimizer=asked.optimizer, lr=rate, options={"betas": BETAS} if asked.optimizer == ADAM else {})
    method = Method((group,), schedule="cosine", final=FINAL, warmup=WARMUP, clip=CLIP, resample_every=1,
                    points=sizes.rows)  # fmt: skip
    return fit(model, objective, method, Budget(steps=sizes.steps), seed=asked.seed, progress=False,
               evaluate_every=max(1, sizes.steps // LOOKS), on_step=lambda step, model: tick())  # fmt: skip


def swept(
    rates: Sequence[float], attempt: Callable[[float], tuple[Result, Decoder]]
) -> tuple[Best | None, dict[str, float]]:
    """Train at each rate; where the best is the least or the greatest that was tried, go on beyond it.

    Returns:
        The best run by the loss on rows held out, None where all diverged, and that loss by rate.
    """
    best, losses, todo, more = None, dict[str, float](), list(rates), MORE if len(rates) > 1 else 0
    tried = list[float]()
    while todo:
        rate = todo.pop(0)
        tried.append(rate)
        try:
            result, model = attempt(rate)
        except RunError:
            result = None
        else:
            losses[f"{rate:g}"] = result.metrics[ERROR]
            if best is None or result.metrics[ERROR] < best.result.metrics[ERROR]:
                best = Best(rate, result, model)
        if not todo and best is not None and more:
            todo = [best.rate * APART] if best.rate == max(tried) else []
            todo += [best.rate / APART] if best.rate == min(tried) else []
            more -= 1
    return best, losses


def at_its_best(
    asked: Asked, make: Callable[[], Decoder], objective: Watched, tick: Tick, rates: Sequence[float] | None = None
) -> tuple[Best | None, Row]:
    """Sweep the rates in the first seed, and train at the best one in all others.

    Args:
        asked: sizes, optimizer, seed, and where the rate is kept.
        make: draws the model.
        objective: by whose loss on the rows held out a rate is chosen.
        tick: called at each step.
        rates: to try in place of the sizes' own; what is chosen of them is kept for nobody.

    Returns:
        The best run, None where all diverged, and what a row is to tell of it.

    Raises:
        RunError: the cell of the first seed has left nothing.
    """
    own = rates is None
    if rates is None:
        chosen = json.loads(kept(asked.kept).read_text())["rate"] if asked.seed else None
        rates = asked.sizes.rates if chosen is None else (chosen,)

    def attempt(rate: float) -> tuple[Result, Decoder]:
        model = make()
        return train(model, objective, rate, asked, tick), model

    best, losses = swept(rates, attempt)
    if own and asked.seed == 0:
        write_json(asked.kept, {"rate": best.rate if best else None})
    if best is None:
        return None, {"failed": ALL_DIVERGED}
    return best, {
        "rate": best.rate, "rates": losses, "loss": best.result.metrics[ERROR], "steps": best.result.steps,
        "numbers": best.result.trained, "gradients": curves(best.result),
    }  # fmt: skip


def curves(result: Result) -> dict[str, list[float]]:
    """Return steps, the loss on rows held out, and the gradients' norms on the way."""
    keys = [key for key in result.history[0] if key in ("step", ERROR) or key.startswith(("scores/", "layer/"))]
    return {key: [float(f"{row[key]:.4g}") for row in result.history] for key in keys}
