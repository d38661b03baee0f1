"""One contestant of AlgoFormer's replication that learns functions from examples in its prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lissome._errors import RunError
from lissome.optim import Budget, Result, fit, keep_memory
from lissome.recipes.algoformer_names import ADDED, AS_LONG, settings_of
from lissome.recipes.incontext.measure import measure
from lissome.recipes.incontext.network import method_of, new_model, task_of
from lissome.recipes.incontext.objective import Curriculum, InContext
from lissome.recipes.incontext.settings import IncontextSettings
from lissome.recipes.incontext.train import mean
from lissome.recipes.language_contest import Clock
from lissome.recipes.paper import Row, Tick
from lissome.recipes.settings import load

STEPS, TURNS = 20, 5  # by which the seconds of two contestants are compared; loops grow in them as in the whole


class Paced(NamedTuple):
    """What is called after each step: the clock, then what grows."""

    clock: Clock
    curriculum: Curriculum

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take the stage of the first step."""
        self.curriculum.begin(step, model, optimizers)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Note the time, and take the stage of the next step."""
        self.clock(step, model)
        self.curriculum(step, model)


def run(tick: Tick, *, part: str, label: str, seed: int, quick: bool, scale: bool) -> Row:
    """Train one contestant at one task and measure it on fresh prompts; what diverges is told as failed."""
    look: dict[str, Any] = {"quick": quick, "scale": scale}
    settings, more = settings_of(part, label, seed, **look), dict[str, Any]()
    if label == AS_LONG:
        other = settings_of(part, ADDED, seed, **look)
        more["ratio"] = ratio = ratio_of_seconds(other, settings, tick)
        settings = lasting(settings, max(1, round(settings.training.steps * ratio)))
    try:
        result, model, each = trained(settings, tick)
    except RunError as error:
        return more | {"failed": str(error)}
    tick()
    found = measure(task_of(settings), model, shifts=(), rows=settings.prompts)
    examples = found["examples"]
    return more | {
        "iterations": settings.loops,
        "steps": result.steps,
        "skipped": result.metrics.get("skipped", 0),
        "numbers": result.trained,
        "each": each,
        "loss": result.loss,
        "last": found["last"],
        "prompts": settings.prompts,
        "by examples": examples["model"],
        "oracles": examples["oracles"],
        "mean": mean(examples["model"]),
        "by iterations": found["iterations"]["error"],
        "broken": found["iterations"]["broken"],
        "settled": found["settled"],
    }


def trained(settings: IncontextSettings, tick: Tick) -> tuple[Result, nn.Module, float]:
    """Train a model; return what came of it, the model, and the processor's seconds of a step.

    Raises:
        RunError: a hundred steps in a row were not finite.
    """
    keep_memory()
    model, curriculum, clock = new_model(settings), Curriculum(settings), Clock(tick)
    objective, steps = InContext(task_of(settings), curriculum, settings), settings.training.steps
    result = fit(model, objective, method_of(settings), Budget(steps=steps), seed=settings.seed, progress=False,
                 evaluate_every=steps, on_step=Paced(clock, curriculum))  # fmt: skip
    return result, model, clock.each


def ratio_of_seconds(one: IncontextSettings, other: IncontextSettings, tick: Tick) -> float:
    """Return how much longer a step of one takes than one of the other, measured in turns; the median of them."""
    found = list[float]()
    for _ in range(TURNS):
        mine, theirs = (trained(lasting(settings, STEPS), tick)[2] for settings in (one, other))
        found.append(mine / theirs)
    return statistics.median(found)


def lasting(settings: IncontextSettings, steps: int) -> IncontextSettings:
    """Return the same with so many steps, in which what grows has its pace anew."""
    given = settings.model_dump()
    given["training"]["steps"] = steps
    for rise in given["curriculum"].values():
        if rise is not None:
            rise["every"] = None
    return load(IncontextSettings, given=given)
