"""What a model of in-context learning is trained on: prompts that grow in the course of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Batch
from lissome.language.incontext import Prompts
from lissome.models import Regressor
from lissome.recipes.incontext.settings import IncontextSettings, Rise

HELD = 256  # prompts of an evaluation in the course of training
APART = 2**40  # the seeds of fresh prompts begin here, so that training does not come upon them


@dataclass(frozen=True)
class Stage:
    """How large prompts and loops are at one step."""

    dimension: int
    pairs: int
    loops: int


class Curriculum:
    """A callback of `fit`: the stage as a function of the number of steps done, so that a resumed run meets it again.

    Args:
        settings: what grows, and how.
        step: steps done before the batch in use was drawn.

    >>> from lissome.recipes.incontext.settings import IncontextSettings
    >>> curriculum = Curriculum(IncontextSettings())
    >>> [curriculum.at(step).loops for step in (0, 32, 33, 200)]
    [2, 2, 3, 8]
    """

    def __init__(self, settings: IncontextSettings, step: int = 0):
        self.settings = settings
        self.stage = self.at(step)

    def at(self, step: int) -> Stage:
        """Return the stage after so many steps."""
        own, grows = self.settings, self.settings.curriculum
        return Stage(
            _grown(grows.dimension, own.dimension, step),
            _grown(grows.pairs, own.pairs, step),
            _grown(grows.loops, own.loops, step),
        )

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take the stage of the next step."""
        self.stage = self.at(step)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Take the stage of the next step."""
        self.stage = self.at(step)


class InContext:
    """Prompts of a task as an `Objective`: the mean squared error at the asked places, over the last iterations.

    Args:
        task: whose prompts.
        curriculum: how large they are, and how often the loop is run.
        settings: of the training; `evaluate` knows no curriculum.

    Raises:
        UsageError: a curriculum over the dimension of a task that fills all of them.
    """

    def __init__(self, task: Prompts, curriculum: Curriculum, settings: IncontextSettings):
        self.task, self.curriculum, self.settings = task, curriculum, settings
        if settings.curriculum.dimension is not None and not task.shrinks:
            raise UsageError(f"the task '{task.name}' fills all its dimensions; legal is curriculum.dimension null")

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw n prompts of the stage."""
        stage = self.curriculum.stage
        return self.task.draw(generator, n, pairs=stage.pairs, dimension=stage.dimension)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean squared error at the asked places, divided as errors are."""
        loops, training = self.curriculum.stage.loops, self.settings.training
        given = scaled(self.task, batch)
        told = model.outputs(*given, window=min(training.window, loops), iterations=loops, cut=training.cut)
        told = told_of(self.task, model, told)  # (window, n, P, m)
        seen = self.task.seen(batch)[:, -told.shape[2] :]
        return (told - seen).square().sum(3).mean() / self.task.power

    def divide(self, batch: Batch, count: int) -> list[tuple[Batch, float]]:
        """Cut a batch into parts of almost as many prompts each, and their shares: a `Divisible`."""
        n = len(batch["target"])
        parts = zip(*(value.tensor_split(count) for value in batch.values()), strict=True)
        return [(dict(zip(batch, part, strict=True)), len(part[0]) / n) for part in parts]

    def evaluate(self, model: Any) -> dict[str, float]:
        """Return `error`, of the last place of whole prompts, and `mean` over all places, where each is told."""
        with torch.no_grad():
            batch = fresh(self.task, HELD, next(model.parameters()).device)
            found = self.task.errors(predictions(self.task, model, batch), batch)
        return {"error": float(found[-1])} | ({"mean": float(found.mean())} if len(found) > 1 else {})


def fresh(task: Prompts, n: int, device: torch.device | str = "cpu", *, seed: int = 0, **more: Any) -> Batch:
    """Draw prompts that no training has met, the same each time with the same seed."""
    batch = task.draw(torch.Generator().manual_seed(APART + seed), n, **more)
    return {name: value.to(device) for name, value in batch.items()}


def scaled(task: Prompts, batch: Batch) -> tuple[Tensor, ...]:
    """Return what a model reads; y of pairs is brought to mean square 1."""
    x, *y = task.inputs(batch)
    return (x, *(each / task.power**0.5 for each in y))


def told_of(task: Prompts, model: nn.Module, found: Tensor) -> Tensor:
    """Return predictions as the task has them, (..., P, m), of what a model says."""
    return found[..., None] * task.power**0.5 if isinstance(model, Regressor) else task.places(found)


def predictions(task: Prompts, model: Any, batch: Batch, loops: int | None = None) -> Tensor:
    """Return what a model says of prompts, (n, P, m)."""
    return told_of(task, model, model(*scaled(task, batch), iterations=loops))


def _grown(rise: Rise | None, full: int, step: int) -> int:
    return full if rise is None or rise.every is None else min(full, rise.first + rise.by * (step // rise.every))
