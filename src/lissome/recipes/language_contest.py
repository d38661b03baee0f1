"""Decoders that compete: all trained alike, each at the best of a few rates, which the first seed chooses for all."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissome._files import write_json
from lissome._types import Batch, Objective
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape
from lissome.optim import Budget, Group, Method, Result, fit, keep_memory
from lissome.recipes.known import ALL_DIVERGED, ERROR, Best, best_of
from lissome.recipes.language.network import new_model
from lissome.recipes.paper import Row, Tick, kept

ADAM, SGD = "adam", "sgd"
BETAS = (0.9, 0.95)  # of Adam, as arXiv 2405.14722 trains
CLIP, WARMUP, FINAL = 1.0, 0.05, 0.1
BEYOND = 3.0  # factor by which a best rate at an end is gone beyond
QUICK = 6  # steps of a quick look
STEPS, TURNS = 10, 5  # by which the seconds of two contestants are compared


@dataclass(frozen=True)
class Sizes:
    """How large a model is and how it is trained.

    Attributes:
        layers: of the decoder.
        width: of the decoder.
        steps: of training.
        rates: each contestant has the best of them by the first seed.
        heads: of the decoder.
        rows: of a batch.
    """

    layers: int
    width: int
    steps: int
    rates: tuple[float, ...]
    heads: int = 4
    rows: int = 32

    def quick(self) -> Sizes:
        """Return sizes of a few steps and one rate, for a look in no time."""
        return dataclasses.replace(self, steps=QUICK, rates=self.rates[-1:], rows=8)


def rate_file(place: Path, *names: str | int) -> Path:
    """Return the file of a rate, named by whom and what it is for.

    >>> rate_file(Path("kept"), "bytes", "Kerple + V2, k=5").name
    'bytes-Kerple-+-V2-k=5.json'
    """
    return place / f"{'-'.join(map(str, names))}.json".replace(" ", "-").replace(",", "")


class Asked(NamedTuple):
    """How a contestant is trained.

    Attributes:
        sizes: of the model and its training.
        seed: of the rows that are drawn.
        kept: the file of the rate.
        follows: whether an earlier cell has left that file; else the rate is chosen here, and left there.
        optimizer: sgd, or adam with `BETAS`.
        looks: times that the objective is evaluated on the way; the seconds of a step are told of one look alone.
        more: times that a best rate at an end is gone beyond.
    """

    sizes: Sizes
    seed: int
    kept: Path
    follows: bool
    optimizer: str = ADAM
    looks: int = 1
    more: int = 0


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
    """The processor's seconds between a run's first step and its last."""

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


def decoder(sizes: Sizes, vocabulary: int, seed: int, **named: Any) -> Decoder:
    """Return a contestant as it is drawn, its stages and length as `DecoderShape` names them."""
    shape = DecoderShape(vocabulary=vocabulary, layers=sizes.layers, width=sizes.width, heads=sizes.heads, **named)
    return new_model(shape, seed)


def train(model: nn.Module, objective: Objective, rate: float, asked: Asked, tick: Tick) -> tuple[Result, float]:
    """Train in place; return what came of it and the seconds of one step.

    Raises:
        RunError: it diverged.
    """
    keep_memory()
    clock, sizes = Clock(tick), asked.sizes
    group = Group(optimizer=asked.optimizer, lr=rate, options={"betas": BETAS} if asked.optimizer == ADAM else {})
    method = Method((group,), schedule="cosine", final=FINAL, warmup=WARMUP, clip=CLIP, resample_every=1,
                    points=sizes.rows)  # fmt: skip
    result = fit(model, objective, method, Budget(steps=sizes.steps), seed=asked.seed, progress=False,
                 evaluate_every=max(1, sizes.steps // asked.looks), on_step=clock)  # fmt: skip
    return result, clock.each


def swept(
    rates: Sequence[float], attempt: Callable[[float], tuple[Result, Any]], more: int
) -> tuple[Best | None, dict[str, float]]:
    """Train at each rate; where the best is the least or the greatest that was tried, go on beyond it.

    Args:
        rates: to try; where it is one alone, nothing is gone beyond.
        attempt: rate -> what came of a run, and what was trained.
        more: times that the best rate is gone beyond, at most.

    Returns:
        The best run by the loss on rows held out, None where all diverged, and that loss by rate.
    """
    best, losses = best_of(rates, attempt, by=ERROR)
    tried = list(rates)
    for _ in range(more if len(rates) > 1 else 0):
        if best is None or min(tried) < best.rate < max(tried):
            break
        tried.append(best.rate * BEYOND if best.rate == max(tried) else best.rate / BEYOND)
        further, told = best_of(tried[-1:], attempt, by=ERROR)
        losses |= told
        best = min(best, further or best, key=lambda each: each.result.metrics[ERROR])
    return best, losses


def at_its_best(
    asked: Asked, make: Callable[[], nn.Module], objective: Objective, tick: Tick
) -> tuple[Best | None, Row]:
    """Train at each rate and keep the best one's; at the rate of an earlier cell where it follows one.

    Args:
        asked: how, and where the rate is kept.
        make: draws the model.
        objective: by whose loss on the rows held out a rate is chosen.
        tick: called at each step.

    Returns:
        The best run, None where all diverged, and what a row is to tell of it.

    Raises:
        RunError: the cell that it follows has left nothing.
    """
    rates, took = chosen_rates(asked) if asked.follows else asked.sizes.rates, dict[float, float]()

    def attempt(rate: float) -> tuple[Result, nn.Module]:
        model = make()
        result, took[rate] = train(model, objective, rate, asked, tick)
        return result, model

    best, losses = swept(rates, attempt, asked.more)
    if not asked.follows:
        write_json(asked.kept, {"rate": best.rate if best else None})
    if best is None:
        return None, {"failed": ALL_DIVERGED}
    told = {"rate": best.rate, "rates": losses, "loss": best.result.metrics[ERROR], "steps": best.result.steps,
            "numbers": best.result.trained}  # fmt: skip
    return best, told | ({"each": took[best.rate]} if asked.looks == 1 else {})


def chosen_rates(asked: Asked) -> tuple[float, ...]:
    """Return the rate that an earlier cell has chosen; all of them where it ended at none.

    Raises:
        RunError: it has left nothing.
    """
    chosen = json.loads(kept(asked.kept).read_text())["rate"]
    return asked.sizes.rates if chosen is None else (chosen,)


def ratio_of_seconds(
    one: Callable[[], Decoder], other: Callable[[], Decoder], objective: Objective, asked: Asked, tick: Tick
) -> float:
    """Return how much longer a step of one takes than one of the other, measured in turns; the median of them."""
    short, found = asked._replace(sizes=dataclasses.replace(asked.sizes, steps=STEPS), seed=0, looks=1), list[float]()
    for _ in range(TURNS):
        mine, theirs = (train(make(), objective, asked.sizes.rates[0], short, tick)[1] for make in (one, other))
        found.append(mine / theirs)
    return statistics.median(found)


def as_long(asked: Asked, ratio: float) -> Asked:
    """Return the same with as many times the steps, rounded."""
    sizes = dataclasses.replace(asked.sizes, steps=max(1, round(asked.sizes.steps * ratio)))
    return asked._replace(sizes=sizes)
