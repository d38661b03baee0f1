"""How contestants are trained: all alike, each at the best of a few rates, which the first seed chooses for all."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lissome._files import write_json
from lissome._types import Batch, Objective
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape
from lissome.optim import Budget, Group, Method, Result, fit, keep_memory
from lissome.recipes.dape_names import CONTESTANTS, Sizes
from lissome.recipes.known import ALL_DIVERGED, ERROR, Best, best_of
from lissome.recipes.language.network import new_model
from lissome.recipes.paper import Row, Tick, kept

BETAS = (0.9, 0.95)  # as arXiv 2405.14722 trains
CLIP, WARMUP, FINAL = 1.0, 0.05, 0.1


@dataclass(frozen=True)
class Judged:
    """An objective that is judged by rows which neither training nor the tests have seen, and by nothing else."""

    objective: Objective
    held: Batch

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw rows to train on."""
        return self.objective.sample(generator, n)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the objective's loss."""
        return self.objective.loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the loss on the rows held out."""
        with torch.no_grad():
            return {ERROR: float(self.loss(model, self.held))}


@dataclass
class Clock:
    """The processor's seconds between a run's first step and its last, evaluations left out."""

    tick: Tick
    first: float = 0.0
    last: float = 0.0
    steps: int = 0

    def __call__(self, step: int, model: nn.Module) -> None:
        """Note the time, and stop if somebody wishes so."""
        self.tick()
        self.last, self.steps = time.process_time(), step
        self.first = self.first or self.last

    @property
    def each(self) -> float:
        """Seconds of one step; 0 where there was one alone."""
        return (self.last - self.first) / max(1, self.steps - 1)


class Asked(NamedTuple):
    """A contestant, its size, its seed, and where what is kept lies."""

    label: str
    sizes: Sizes
    seed: int
    place: Path
    key: str


def decoder(label: str, sizes: Sizes, vocabulary: int, seed: int, length: int) -> Decoder:
    """Return a contestant as it is drawn."""
    position, refine = CONTESTANTS[label]
    shape = DecoderShape(vocabulary=vocabulary, layers=sizes.layers, width=sizes.width, heads=sizes.heads,
                         position=position, refine=refine, length=length)  # fmt: skip
    return new_model(shape, seed)


def train(
    model: nn.Module, objective: Judged, rate: float, sizes: Sizes, seed: int, tick: Tick
) -> tuple[Result, float]:
    """Train in place; return what came of it and the seconds of one step.

    Raises:
        RunError: it diverged.
    """
    keep_memory()
    clock = Clock(tick)
    group = Group(lr=rate, options={"betas": BETAS})
    method = Method((group,), schedule="cosine", final=FINAL, warmup=WARMUP, clip=CLIP, resample_every=1,
                    points=sizes.rows)  # fmt: skip
    result = fit(model, objective, method, Budget(steps=sizes.steps), seed=seed, progress=False,
                 evaluate_every=sizes.steps, on_step=clock)  # fmt: skip
    return result, clock.each


def at_its_best(
    asked: Asked, make: Callable[[], nn.Module], objective: Judged, tick: Tick, rates: Sequence[float] | None = None
) -> tuple[Best | None, Row]:
    """Train at each rate in the first seed and keep the best one's; at that rate in all others.

    Args:
        asked: who, and where the rate is kept.
        make: draws the model.
        objective: by whose loss on the rows held out a rate is chosen.
        tick: called at each step.
        rates: to try; None is the sizes' own.

    Returns:
        The best run, None where all diverged, and what a row is to tell of it.

    Raises:
        RunError: the cell of the first seed has left nothing.
    """
    place = asked.place / f"{asked.key}.json"
    if rates is None:
        rates = chosen_rates(place, asked.sizes) if asked.seed else asked.sizes.rates
    took = dict[float, float]()

    def attempt(rate: float) -> tuple[Result, nn.Module]:
        model = make()
        result, took[rate] = train(model, objective, rate, asked.sizes, asked.seed, tick)
        return result, model

    best, losses = best_of(rates, attempt, by=ERROR)
    if asked.seed == 0:
        write_json(place, {"rate": best.rate if best else None})
    if best is None:
        return None, {"failed": ALL_DIVERGED}
    return best, {"rate": best.rate, "rates": losses, "loss": best.result.metrics[ERROR], "steps": best.result.steps,
                  "each": took[best.rate], "numbers": best.result.trained}  # fmt: skip


def chosen_rates(place: Path, sizes: Sizes) -> tuple[float, ...]:
    """Return the rate that the first seed has chosen; all of them where it ended at none.

    Raises:
        RunError: the cell of the first seed has left nothing.
    """
    chosen = json.loads(kept(place).read_text())["rate"]
    return sizes.rates if chosen is None else (chosen,)


def shorter(sizes: Sizes, steps: int) -> Sizes:
    """Return sizes of so many steps and one rate, for a look in no time."""
    return dataclasses.replace(sizes, steps=steps, rates=sizes.rates[-1:], rows=8)
