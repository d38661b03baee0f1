"""How much faster several members of a family are adapted at once than one after another: a few steps of Adam each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lissome.adapt import Stack, adapt, fitting
from lissome.optim import keep_memory
from lissome.pde import Together, can_stack
from lissome.pde.registry import member
from lissome.recipes.archive import build
from lissome.recipes.contest import CONSTRAINT
from lissome.recipes.settings import Common, NetworkSettings, load
from lissome.recipes.together import fastest, stepper_of
from lissome.recipes.training import DTYPES, problem_of, trained_of

MEMBERS = 16
OPTIMIZER = "adam"
Row = dict[str, Any]


def abreast(
    tick: Callable[[], None],
    *,
    family: str,
    dimension: int | None,
    members: Sequence[Mapping[str, float]],
    network: dict[str, Any],
    points: dict[str, Any],
    weighing: float | str | None,
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
        weighing: the settings' `weights`.
        seed: of network and points.

    Returns:
        milliseconds of all members alone and together, the ratio, and points of each; or why they cannot be stacked.
    """
    training = {"optimizer": OPTIMIZER, "compile": False, "steps": 1}
    settings = load(Common, given={"training": training, "points": points, "weights": weighing, "seed": seed})
    problems = [problem_of(member(family, dimension, dict(each)), settings, CONSTRAINT) for each in members]
    net = build(problems[0], NetworkSettings(**network), seed).to(DTYPES[settings.dtype])
    adapter = fitting(net)[0]  # svd, or lotra of a KAN
    drawn = [torch.Generator().manual_seed(seed) for _ in problems]
    pairs = zip(problems, drawn, strict=True)
    models = [problem.wrap(adapt(net, adapter, generator=generator)) for problem, generator in pairs]
    own: Row = {"members": len(members), "points": sum(problems[0].counts.values()), "error": None}
    if reason := can_stack(problems):
        return own | {"alone": None, "together": None, "ratio": None, "failed": reason}
    keep_memory()
    stack = Stack(models)
    pairs = zip(models, problems, strict=True)
    singles = [stepper_of(model, problem, trained_of(model), settings) for model, problem in pairs]
    alone = fastest(singles, tick)
    together = fastest([stepper_of(stack, Together(problems), stack.trainable(), settings)], tick)
    return own | {"alone": 1e3 * alone, "together": 1e3 * together, "ratio": alone / together, "failed": None}


def between(start: Mapping[str, float], end: Mapping[str, float]) -> list[dict[str, float]]:
    """Return members from the first after the start to the end.

    >>> found = between({"c": 0.0, "k": 2.0}, {"c": 1.6, "k": 2.0})
    >>> len(found), found[0], found[-1]
    (16, {'c': 0.1, 'k': 2.0}, {'c': 1.6, 'k': 2.0})
    """
    parts = [(k + 1) / MEMBERS for k in range(MEMBERS)]
    return [{name: value + part * (end[name] - value) for name, value in start.items()} for part in parts]
