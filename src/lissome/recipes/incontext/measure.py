"""What a model makes of fresh prompts: by examples in context, by iterations, under shifts, beside the oracles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lissome._errors import unknown
from lissome._types import Batch
from lissome.language.incontext import SHIFTS, Prompts, Shift
from lissome.language.score import scoring
from lissome.models import Regressor
from lissome.recipes.incontext.objective import fresh, predictions, scaled, told_of

TIMES = 4  # the trained iterations, to which errors are always drawn
FEW = 128  # prompts that slow oracles are asked on
AT_ONCE = 256  # prompts
LOST = 100.0  # times the mean square of what is to be told: an error of a prompt that counts as lost
TOLERANCE = 0.1  # of early exit: change of a prediction, as part of the root mean square of what is to be told


def measure(
    task: Prompts,
    model: Any,
    *,
    loops: Sequence[int] = (),
    shifts: Iterable[str] | None = None,
    most: int | None = None,
    rows: int = 1280,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what `evaluation.json` says of a model.

    Args:
        task: whose prompts.
        model: that reads them.
        loops: counts of iterations to be told by themselves; errors are measured up to the largest, and to four times
            the trained number.
        shifts: kinds of shift; None is all that the task has.
        most: iterations of early exit; None is the trained number.
        rows: fresh prompts.
        seed: by which they are drawn.

    Raises:
        UsageError: a shift that the task does not have, or early exit beyond the trained iterations.
    """
    kinds = tuple(task.shifts if shifts is None else shifts)
    for kind in kinds:
        if kind not in task.shifts:
            raise unknown(f"shift of the task '{task.name}':", kind, task.shifts)
    kinds = tuple(dict.fromkeys(kinds))
    with scoring(model) as device:
        batch = fresh(task, rows, device, seed=seed)
        settled = _settled(task, model, batch, most)
        trained = int(model.body.shape.iterations)
        return {
            "kind": "incontext",
            "prompts": rows,
            "seed": seed,
            "last": _last(task, model, batch),
            "examples": _by_examples(task, model, batch),
            "iterations": _by_iterations(task, model, batch, trained, max(TIMES * trained, *loops, 1), loops),
            "settled": settled,
            "shifts": {kind: _shifted(task, model, kind, rows, device, seed) for kind in kinds},
        }


def errors(task: Prompts, model: Any, batch: Batch, power: float | None = None) -> Tensor:
    """Return errors by number of examples in context, (k,); a model that tells the last y alone is asked k times."""
    if not isinstance(model, Regressor) or model.tokens != "pairs":
        return task.errors(_told(task, model, batch), batch, power)
    cuts = ({name: value[:, : i + 1] for name, value in batch.items()} for i in range(batch["x"].shape[1]))
    return torch.cat([task.errors(_told(task, model, cut), cut, power) for cut in cuts])


def _told(task: Prompts, model: Any, batch: Batch) -> Tensor:
    return torch.cat([predictions(task, model, part) for part in _parts(batch)])


def _parts(batch: Batch) -> list[Batch]:
    split = zip(*(value.split(AT_ONCE) for value in batch.values()), strict=True)
    return [dict(zip(batch, values, strict=True)) for values in split]


def _last(task: Prompts, model: Any, batch: Batch) -> dict[str, Any]:
    """Return the error of the last place: the mean over all prompts, and over those that were not blown up."""
    miss = _told(task, model, batch)[:, -1].double() - batch["target"][:, -1]
    each = miss.square().sum(1) / task.power  # (n,)
    kept = each[each < LOST]  # NaN is none
    return {
        "error": _numbers(each.mean()[None])[0],
        "median": _numbers(each.nan_to_num(math.inf).median()[None])[0],
        "kept": float(kept.mean()) if len(kept) else None,
        "lost": len(each) - len(kept),
    }


def _by_examples(task: Prompts, model: Any, batch: Batch) -> dict[str, Any]:
    found = errors(task, model, batch)
    return {
        "context": list(range(len(found))),
        "model": _numbers(found),
        "oracles": {name: _numbers(each) for name, each in _oracles(task, batch, task.noise).items()},
    }


def _oracles(task: Prompts, batch: Batch, noise: float, power: float | None = None) -> dict[str, Tensor]:
    """Return the errors of each oracle by number of examples in context."""
    whole = {name: value.cpu() for name, value in batch.items()}
    few = {name: value[:FEW] for name, value in whole.items()}
    given = {name: few if name in task.slow else whole for name in task.oracles}
    return {name: task.errors(task.oracles[name](own, noise), own, power) for name, own in given.items()}


def _by_iterations(
    task: Prompts, model: Any, batch: Batch, trained: int, upto: int, asked: Sequence[int]
) -> dict[str, Any]:
    """Return the errors of the last place after each number of iterations; what is not finite is None."""
    if not model.body.shape.loop:
        found = [float(task.errors(_told(task, model, batch), batch)[-1])]
    else:
        sums = [0.0] * upto
        for part in _parts(batch):
            for i, told in enumerate(model.iterates(*scaled(task, part), iterations=upto)):
                error = task.errors(told_of(task, model, told), part)[-1]
                sums[i] += float(error) * len(part["target"]) / len(batch["target"])
        found = sums
    broken = next((i for i, error in enumerate(found, 1) if not math.isfinite(error)), None)
    return {
        "trained": trained,
        "error": [error if math.isfinite(error) else None for error in found],
        "broken": broken,
        "asked": [loops for loops in asked if loops <= len(found)],
    }


def _settled(task: Prompts, model: Any, batch: Batch, most: int | None) -> dict[str, Any] | None:
    """Return error and mean iterations of early exit; None for a model without a loop."""
    if not model.body.shape.loop and most is None:
        return None
    tolerance = TOLERANCE / math.sqrt(task.dimension)  # what is read and told has mean square 1
    found = [model.settle(*scaled(task, part), tolerance=tolerance, most=most) for part in _parts(batch)]
    told = told_of(task, model, torch.cat([each.predictions for each in found]))
    return {
        "tolerance": TOLERANCE,
        "iterations": float(torch.cat([each.iterations for each in found]).double().mean()),
        "error": float(task.errors(told, batch)[-1]),
    }


def _shifted(task: Prompts, model: Any, kind: str, rows: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Return errors of the last place by strength, each divided by the mean square of what is to be told."""
    found: dict[str, Any] = {
        "strength": list(SHIFTS[kind]),
        "model": [],
        "oracles": {name: [] for name in task.oracles},
    }
    for strength in SHIFTS[kind]:
        shift = Shift(kind, strength)
        batch = fresh(task, rows, device, seed=seed, shift=shift)
        power = float(batch["target"].double().square().sum(2).mean())
        found["model"] += _numbers(task.errors(_told(task, model, batch), batch, power)[-1:])
        for name, each in _oracles(task, batch, task.level(shift), power).items():
            found["oracles"][name] += _numbers(each[-1:])
    return found


def _numbers(found: Tensor) -> list[float | None]:
    return [error if math.isfinite(error) else None for error in found.tolist()]
