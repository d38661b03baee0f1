"""From settings to one call of the training loop, and from its result to the files of a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissome import report
from lissome._errors import UsageError
from lissome._types import Objective
from lissome.optim import Budget, Group, Method, Result, checkpoint, fit, keep_memory
from lissome.pde import Family, Problem
from lissome.recipes import directory
from lissome.recipes.course import FIRST, usual
from lissome.recipes.edges import pictured
from lissome.recipes.settings import Common, GroupSettings, PhaseSettings, TrainingSettings

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# with a cosine and new points each step, errors on 10-d Allen-Cahn were 3 times below those of 2e-3
ADAM_RATE = 5e-3


def problem_of(family: Family, settings: Common, constraint: str) -> Problem:
    """Return the objective that settings ask for."""
    points = settings.points
    return Problem(
        family,
        points={"interior": points.interior, "boundary": points.boundary, "initial": points.initial},
        sampling=points.draw,
        constraint=constraint,
        weight_boundary=usual_weights(settings, constraint) if settings.weights is None else settings.weights,
        dtype=DTYPES[settings.dtype],
    )


def usual_weights(settings: Common, constraint: str) -> float | str:
    """Return the weights where none are asked for; docs/choosing.md has the comparison.

    >>> usual_weights(Common(training=TrainingSettings(optimizer="adam")), "boundary")
    'balanced'
    >>> usual_weights(Common(), "boundary")  # Gauss-Newton
    100.0
    """
    first = all(usual(phase.optimizer) is FIRST for phase in phases(settings.training))
    return "balanced" if first and constraint != "soft" else 100.0


def device_of(name: str) -> torch.device:
    """Return a device by name; `auto` takes CUDA where there is one.

    Raises:
        UsageError: a name that is no device, or a device that is not there.
    """
    cuda = torch.cuda.is_available()
    legal = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0))]
    if torch.backends.mps.is_available():
        legal.append("mps")
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name not in legal and not (name == "cuda" and cuda):
        raise UsageError(f"device '{name}' is not to be had; legal here are: {', '.join(legal)}")
    return torch.device(name)


def phases(training: TrainingSettings) -> tuple[PhaseSettings, ...]:
    """Return the phases of a training in their order."""
    return training, *training.then


def methods(settings: Common, names: Iterable[str], points: int, *, adaptive: bool = False) -> tuple[Method, ...]:
    """Return what the settings say of training as methods of the loop, one per phase.

    The groups of a phase come in their order; what is left over, if anything, is moved by the phase itself.

    Args:
        settings: with `training` and `points.resample`.
        names: of the trained parameters.
        points: how many a batch holds.
        adaptive: whether they are drawn where the residual is large.

    >>> training = TrainingSettings(optimizer="adam", groups=[GroupSettings(pattern="*.bias", optimizer="sgd")])
    >>> method, = methods(Common(training=training), ["0.weight", "0.bias"], 8)
    >>> [(group.pattern, group.optimizer, group.lr) for group in method.groups]
    [('*.bias', 'sgd', None), ('*', 'adam', 0.005)]
    """
    names, resample, found = list(names), settings.points.resample, []
    for phase in phases(settings.training):
        groups = [_group(group.pattern, group) for group in phase.groups]
        if not all(any(fnmatchcase(name, group.pattern) for group in phase.groups) for name in names):
            groups.append(_group("*", phase))
        found.append(
            Method(
                groups=tuple(groups),
                schedule=phase.schedule,
                resample_every=usual(phase.optimizer).redraw if resample == "auto" else resample,
                adaptive=adaptive,
                points=points,
                share=phase.share,
            )
        )
    return tuple(found)


def adaptive(problem: Problem, settings: Common) -> bool:
    """Say whether points follow the residual: as settings say, else as the family does."""
    return problem.family.adaptive if settings.points.adaptive is None else settings.points.adaptive


def rate_of(said: GroupSettings | PhaseSettings) -> float | None:
    """Return the learning rate; None is the optimizer's own, or none."""
    return ADAM_RATE if said.rate is None and said.optimizer == "adam" else said.rate


def _group(pattern: str, said: GroupSettings | PhaseSettings) -> Group:
    return Group(pattern, said.optimizer, rate_of(said), said.options)


def trained_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained of a model, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def in_memory(
    model: nn.Module,
    problem: Problem,
    settings: Common,
    budget: Budget,
    *,
    every: int | None,
    objective: Objective | None = None,
    on_step: Callable[[int, nn.Module], bool | None] | None = None,
) -> Result:
    """Train by the one loop and write nothing; `objective` stands for the problem where it wraps it."""
    keep_memory()
    trained = trained_of(model)
    return fit(
        model,
        objective or problem,
        methods(settings, trained, sum(problem.counts.values()), adaptive=adaptive(problem, settings)),
        budget,
        parameters=trained,
        seed=settings.seed,
        evaluate_every=every,
        progress=False,
        on_step=on_step,
    )


def run(
    model: nn.Module,
    problem: Problem,
    trained: dict[str, nn.Parameter],
    settings: Common,
    out: Path,
    *,
    resume: bool,
    progress: bool,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> Result:
    """Train by the one loop as the settings say; with `resume`, from the checkpoint, if there is one yet."""
    training = settings.training
    keep_memory()
    return fit(
        model,
        problem,
        methods(settings, trained, sum(problem.counts.values()), adaptive=adaptive(problem, settings)),
        Budget(steps=training.steps, seconds=training.seconds),
        parameters=trained,
        seed=settings.seed,
        directory=out,
        evaluate_every=training.evaluate,
        checkpoint_every=training.checkpoint,
        resume=resume and checkpoint.exists(out / "checkpoint"),
        progress=progress,
        compile=training.compile,
        tensorboard=training.tensorboard,
        on_step=on_step,
    )


def told(family: Family, settings: Common) -> dict[str, Any]:
    """Return what every summary says of its equation."""
    return {
        "family": family.name,
        "dimension": family.dimension,
        "parameters": family.values,
        "seed": settings.seed,
    }


def finish(
    out: Path,
    problem: Problem,
    model: nn.Module,
    result: Result,
    settings: Common,
    facts: dict[str, Any],
    curves: dict[str, Tensor],
) -> dict[str, Any]:
    """Write what is left of a run directory, curves, summary and page; return the summary."""
    shown = {key: value for key, value in result.metrics.items() if key not in ("step", "phase", "lr")}
    functions, names = pictured(problem, model)
    summary = {
        **facts,
        **told(problem.family, settings),
        "trained": result.trained,
        "steps": result.steps,
        "seconds": result.seconds,
        "outcome": result.outcome.value,
        "derivatives": problem.explain(model),
        "compiled": result.capture,
        **{key: value for key, value in shown.items() if not key.startswith("lr/")},
        **names,
    }
    directory.write_tensors(out / "curves.safetensors", problem.slice(model) | curves | functions)
    directory.write_json(out / "summary.json", summary)
    report.page(out)
    return summary


def count(model: nn.Module) -> int:
    """Return how many numbers a module has."""
    return sum(p.numel() for p in model.parameters())
