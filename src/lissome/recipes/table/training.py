"""From settings and rows to one call of the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from lissome.optim import Budget, Method, Result, fit
from lissome.recipes.course import FIRST, usual
from lissome.recipes.settings import Common, PhaseSettings, TrainingSettings
from lissome.recipes.table.model import TableModel
from lissome.recipes.table.objective import Classification, Regression, Rows
from lissome.recipes.table.settings import TableSettings
from lissome.recipes.training import ADAM_RATE, methods, phases, trained_of

BATCH = 256  # rows of a step of a first-order optimizer
FAN = 64  # inputs up to which adam's usual rate suits a KAN: a step of all splines moves its sums in proportion to them


def courses(training: TrainingSettings, names: Iterable[str], batch: int | str, rows: int) -> tuple[Method, ...]:
    """Return what the settings say of training as methods of the loop, one per phase.

    A step of a first-order optimizer has 256 rows if nothing is said, one of others all; where it has not all of them,
    they are drawn anew as is usual for the optimizer.

    >>> training = TrainingSettings(optimizer="adam:100+gauss-newton:20")
    >>> [(each.points, each.resample_every) for each in courses(training, ["w"], "auto", 1000)]
    [(256, 1), (1000, None)]
    """
    found = []
    for phase, method in zip(phases(training), methods(Common(training=training), names, 1), strict=True):
        auto = BATCH if usual(phase.optimizer) is FIRST else rows
        points = min(rows, auto if isinstance(batch, str) else batch)
        redraw = method.resample_every if points < rows else None
        found.append(dataclasses.replace(method, points=points, resample_every=redraw))
    return tuple(found)


def paced(training: TrainingSettings, kind: str, inputs: int) -> TrainingSettings:
    """Return a training with adam's usual rate made smaller, as 1 / sqrt(inputs), for a KAN of more than 64 inputs.

    >>> [paced(TrainingSettings(optimizer="adam"), "kan", inputs).rate for inputs in (64, 256)]
    [None, 0.0025]
    """

    def own(phase: PhaseSettings) -> dict[str, float]:
        usual_rate = phase.optimizer == "adam" and phase.rate is None
        return {"rate": ADAM_RATE * (FAN / inputs) ** 0.5} if usual_rate else {}

    if kind == "mlp" or inputs <= FAN:
        return training
    then = [phase.model_copy(update=own(phase)) for phase in training.then]
    return training.model_copy(update={**own(training), "then": then})


def objective_of(
    model: TableModel, X: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None = None
) -> Regression | Classification:
    """Return what a model is trained for; rows lie where its network is.

    Args:
        model: its scale is that of the rows of training.
        X: (N, d), rows of training.
        y: (N, k), or places of classes (N,).
        test: the same of the rows that the figures are of; None takes those of training.
    """
    train = rows_of(model, X, y)
    held = train if test is None else rows_of(model, *test)
    if model.roles.task == "classification":
        return Classification(train, held)
    return Regression(train, held, model.scale.deviation)


def rows_of(model: TableModel, X: np.ndarray, y: np.ndarray) -> Rows:
    """Return rows as a model's network reads them, where it is."""
    first, scale = next(model.network.parameters()), model.scale
    places = model.roles.task == "classification"
    target = torch.from_numpy(y) if places else scale.down(y, first.dtype)
    return Rows(scale.inside(X, first.dtype).to(first.device), target.to(first.device))


def train(
    model: TableModel,
    objective: Regression | Classification,
    settings: TableSettings,
    out: Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
) -> Result:
    """Train by the one loop as the settings say, in memory or in a run directory."""
    training = paced(settings.training, settings.network.kind, len(model.roles.inputs))
    trained = trained_of(model.network)
    return fit(
        model.network,
        objective,
        courses(training, trained, settings.batch, len(objective.train)),
        Budget(steps=training.steps, seconds=training.seconds),
        parameters=trained,
        seed=settings.seed,
        directory=out,
        evaluate_every=training.evaluate,
        checkpoint_every=training.checkpoint,
        resume=resume,
        progress=progress,
        compile=training.compile,
        tensorboard=training.tensorboard,
    )
