"""How much faster several members of a family are adapted at once than one after another: a few steps of Adam each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lissome.adapt import Stack, adapt
from lissome.optim import keep_memory
from lissome.optim.machine import accelerator
from lissome.optim.step import Stepper
from lissome.pde import Problem, Together, can_stack
from lissome.pde.registry import member
from lissome.recipes.archive import build
from lissome.recipes.settings import Common, NetworkSettings, load
from lissome.recipes.training import DTYPES, methods, problem_of

MEMBERS = 16
STEPS = 5  # timed each way, after one that is not
ADAPTER, OPTIMIZER, CONSTRAINT = "svd", "adam", "boundary"
Row = dict[str, Any]


def abreast(
    tick: Callable[[], None],
    *,
    family: str,
    dimension: int | None,
    members: Sequence[Mapping[str, float]],
    network: dict[str, Any],
    points: dict[str, Any],
    seed: int,
) -> Row:
    """Time a step of Adam for several members at once, and one after another, on one thread without compiling.

    Args:
        tick: called between the steps.
        family: name or file.
        dimension: of the members; None is the family's own.
        members: their parameters.
        network: as in the settings.
        points: as in the settings.
        seed: of network and points.

    Returns:
        milliseconds of all members alone and together, the ratio, and points of each; or why they cannot be stacked.
    """
    training = {"optimizer": OPTIMIZER, "compile": False, "steps": 1}
    settings = load(Common, given={"training": training, "points": points, "seed": seed})
    problems = [problem_of(member(family, dimension, dict(each)), settings, CONSTRAINT) for each in members]
    net = build(problems[0], NetworkSettings(**network), seed).to(DTYPES[settings.dtype])
    models = [problem.wrap(adapt(net, ADAPTER)) for problem in problems]
    own: Row = {"members": len(members), "points": sum(problems[0].counts.values()), "error": None}
    if reason := can_stack(problems):
        return own | {"alone": None, "together": None, "ratio": None, "failed": reason}
    keep_memory()
    stack = Stack(models)
    alone = [_stepper(*pair, _trained(pair[0]), settings) for pair in zip(models, problems, strict=True)]
    together = _stepper(stack, Together(problems), stack.trainable(), settings)
    one = min(_seconds(tick, alone))
    all_ = min(_seconds(tick, [together]))
    return own | {"alone": 1e3 * one, "together": 1e3 * all_, "ratio": one / all_, "failed": None}


def between(start: Mapping[str, float], end: Mapping[str, float]) -> list[dict[str, float]]:
    """Return members from the first after the start to the end.

    >>> found = between({"c": 0.0, "k": 2.0}, {"c": 1.6, "k": 2.0})
    >>> len(found), found[0], found[-1]
    (16, {'c': 0.1, 'k': 2.0}, {'c': 1.6, 'k': 2.0})
    """
    parts = [(k + 1) / MEMBERS for k in range(MEMBERS)]
    return [{name: value + part * (end[name] - value) for name, value in start.items()} for part in parts]


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _stepper(
    model: nn.Module, objective: Problem | Together, trained: dict[str, nn.Parameter], settings: Common
) -> Stepper:
    problem = objective.problems[0] if isinstance(objective, Together) else objective
    out = Stepper(model, objective, trained, accelerator(torch.device("cpu")), settings.seed)
    out.enter(methods(settings, trained, sum(problem.counts.values()))[0])
    out.draw()
    return out


def _seconds(tick: Callable[[], None], steppers: Sequence[Stepper]) -> list[float]:
    """Return the seconds of each round of steps, without the first."""
    found = []
    for step in range(STEPS + 1):
        tick()
        start = time.perf_counter()
        for stepper in steppers:
            stepper.advance(step, 1.0)
        found.append(time.perf_counter() - start)
    return found[1:]
