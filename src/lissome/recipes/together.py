"""Cells that differ in their target alone, trained at once where a short trial says that it is faster.

Optimizers that work entry by entry do to stacked numbers what they do to each cell's own, so every cell ends as if it
had been trained alone, to rounding. What was decided, and the checkpoint of the stack, lie in `together/` below the
comparison; each cell gets a run directory of its own at the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissome._errors import RunError
from lissome._files import write, write_json
from lissome.adapt import Stack
from lissome.optim import Budget, Result, checkpoint, fit, keep_memory
from lissome.optim.machine import accelerator
from lissome.optim.method import FROZEN
from lissome.optim.optimizers import OPTIMIZERS
from lissome.optim.step import Stepper
from lissome.pde import Problem, Together, can_stack
from lissome.recipes import directory
from lissome.recipes.cell import Begun, Cell
from lissome.recipes.settings import Common
from lissome.recipes.training import adaptive, methods, phases, trained_of
from lissome.report.read import DECISION, FOLDER, read_json

FEW = 100  # steps below which nothing is tried
SHORT = 20.0  # seconds of all steps, done alone, below which nothing is tried
DEAR = 2  # a stack that is compiled for the trial may not be taken: its steps have to be worth so much more
TRIAL = 5  # steps timed each way
WORTH = 0.9  # together must take at most this part of the time
MOST_POINTS = 50_000  # of all members of a stack: some ten arrays of 12 numbers of each point's width are held at once
BROKEN = "broken"
Row = dict[str, Any]


def train_together(found: Sequence[Cell], out: Path, *, jobs: int = 1, progress: bool = False) -> None:
    """Train those groups of cells at once for which it pays, and leave all other cells as they are.

    Where a member's loss becomes NaN, all of its group are left to be trained alone.

    Args:
        found: all cells of the comparison, finished or not.
        out: its directory.
        jobs: how many cells would be trained side by side otherwise.
        progress: show a bar.

    Raises:
        Interrupted: Ctrl-C; a checkpoint of the stack is left, from which the next call goes on.
        RunError: a file could not be written.
    """
    for group in groups(found):
        place, most = out / FOLDER / group[0].name, max(1, min(jobs, len(group)))
        kept = read_json(place / DECISION)
        begun = any(directory.holds(out / cell.name) for cell in group)
        if all(cell.finished(out) for cell in group) or (begun and not kept) or kept.get("failed"):
            continue
        keep_memory()
        if not kept and not _long(group, most):
            continue
        started = [cell.begin() for cell in group]
        if not kept:
            kept = decide(group, started, most)
            if not kept:
                continue
            write_json(place / DECISION, kept)
        try:
            _train(group, started, kept, out, progress=progress)
        except RunError as error:
            if "is not finite" not in str(error):
                raise
            write_json(place / DECISION, kept | {"failed": str(error)})


def note(found: Sequence[Cell], out: Path) -> None:
    """Say in one word in the summaries of a group that it was left to be trained alone."""
    for group in groups(found):
        if read_json(out / FOLDER / group[0].name / DECISION).get("failed"):
            for path in (out / cell.name / "summary.json" for cell in group):
                if summary := read_json(path):
                    write_json(path, summary | {"together": BROKEN})


def groups(found: Sequence[Cell]) -> list[list[Cell]]:
    """Return the groups of two and more cells that may be trained at once, each in the order of its cells."""
    alike: dict[str, list[Cell]] = {}
    for cell in found:
        if _fits(cell):
            own = cell.settings.model_copy(update={"targets": [{}]})
            alike.setdefault(own.model_dump_json(), []).append(cell)
    out = []
    for cells in alike.values():
        points = cells[0].settings.points
        most = max(1, MOST_POINTS // (points.interior + points.boundary + points.initial))
        out += [cells[start : start + most] for start in range(0, len(cells), most)]
    return [group for group in out if len(group) > 1]


def decide(group: Sequence[Cell], begun: Sequence[Begun], jobs: int) -> Row:
    """Return what is kept of the decision to train a group at once; nothing where it does not pay or cannot be.

    A few steps are timed each way, compiled where `fit` would compile them. What is begun is not moved.
    """
    settings, problems = group[0].settings, [each.problem for each in begun]
    steps, mode = settings.training.steps or 0, settings.training.compile
    if adaptive(problems[0], settings) or can_stack(problems):
        return {}
    try:
        alone, stack = _alone(group[0]), Stack([each.model for each in begun])
        together = stepper_of(stack, Together(problems), stack.trainable(), settings)
        alone.choose(mode, lambda seconds: steps)
        together.choose(mode, lambda seconds: steps / DEAR)
        with _threads(jobs):
            usual = fastest([alone])
        seconds = fastest([together])
    except Exception:  # whatever goes wrong together goes right alone, or is told there
        return {}
    if seconds > WORTH * usual * len(group) / jobs:
        return {}
    names = [cell.name for cell in group]
    return {"members": names, "alone": usual, "together": seconds, "compiled": together.capture.compiled}


def own_row(row: Mapping[str, Any], k: int, count: int) -> Row:
    """Return member k's row of a stack's row, as if it had been alone; seconds are its share.

    >>> own_row({"step": 2, "seconds": 3.0, "loss": 5.0, "lr": 0.1, "error": 1.5, "error/0": 1, "loss/0": 4}, 0, 2)
    {'step': 2, 'seconds': 1.5, 'loss': 4, 'lr': 0.1, 'error': 1}
    """
    own = {key.removesuffix(f"/{k}"): value for key, value in row.items() if key.endswith(f"/{k}")}
    rates = {key: value for key, value in row.items() if key.partition("/")[0] in ("lr", "phase")}
    return {"step": row["step"], "seconds": row["seconds"] / count, "loss": own.pop("loss"), **rates, **own}


def _train(group: Sequence[Cell], begun: Sequence[Begun], kept: Row, out: Path, *, progress: bool) -> None:
    """Train a stack, from its checkpoint if there is one, and write each cell's run directory."""
    settings, problems = group[0].settings, [each.problem for each in begun]
    training, place = settings.training, out / FOLDER / group[0].name
    stack = Stack([each.model for each in begun])
    trained = stack.trainable()
    result = fit(
        stack,
        Together(problems),
        methods(settings, trained, sum(problems[0].counts.values())),
        Budget(steps=training.steps),
        parameters=trained,
        seed=settings.seed,
        directory=place,
        evaluate_every=training.evaluate,
        checkpoint_every=training.checkpoint,
        resume=checkpoint.exists(place / "checkpoint"),
        progress=progress,
        compile=kept["compiled"],
    )
    for k, (cell, each) in enumerate(zip(group, begun, strict=True)):
        if cell.finished(out):
            continue
        own = dict(each.model.named_parameters())
        with torch.no_grad():
            for name, stacked in trained.items():
                own[name].copy_(stacked[k])
        _write(cell, each, result, k, len(group), out)


def _write(cell: Cell, begun: Begun, result: Result, k: int, count: int, out: Path) -> None:
    """Write the run directory of member k, whose numbers `begun` holds."""
    place, rows = out / cell.name, [own_row(row, k, count) for row in result.history]
    share = replace(
        result,
        seconds=result.seconds / count,
        loss=rows[-1]["loss"],
        metrics=rows[-1],
        history=tuple(rows),
        trained=begun.adapted.count(),
    )
    with directory.claimed(place, cell.settings, resume=directory.holds(place)):
        write(place / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    cell.end(out, begun, share, {"together": count})


def _fits(cell: Cell) -> bool:
    """Say whether a cell's optimizers work entry by entry and its files can be made of a stack's."""
    training = cell.settings.training
    named = [each.optimizer for phase in phases(training) for each in (phase, *phase.groups)]
    plain = all(name == FROZEN or OPTIMIZERS[name].reads == "gradient" for name in named)
    return plain and training.steps is not None and training.seconds is None and not training.tensorboard


def _long(group: Sequence[Cell], jobs: int) -> bool:
    """Say whether training a group one after another takes long enough for a trial."""
    steps = group[0].settings.training.steps or 0
    if steps < FEW:
        return False
    with _threads(jobs):
        return fastest([_alone(group[0])]) * steps * len(group) / jobs >= SHORT


def _alone(cell: Cell) -> Stepper:
    begun = cell.begin()
    trained = trained_of(begun.model)
    return stepper_of(begun.model, begun.problem, trained, cell.settings)


def stepper_of(
    model: nn.Module, objective: Problem | Together, trained: dict[str, nn.Parameter], settings: Common
) -> Stepper:
    """Return what `fit` would step with in the first phase."""
    problem = objective.problems[0] if isinstance(objective, Together) else objective
    out = Stepper(model, objective, trained, accelerator(next(iter(trained.values())).device), settings.seed)
    out.enter(methods(settings, trained, sum(problem.counts.values()))[0])
    out.draw()
    return out


def fastest(steppers: Sequence[Stepper], tick: Callable[[], None] = lambda: None) -> float:
    """Return the seconds of the fastest of a few rounds, a step of each, after one that is not counted."""
    found = []
    for step in range(TRIAL + 1):
        tick()
        start = time.perf_counter()
        for stepper in steppers:
            stepper.advance(step, 1.0)
        if steppers[0].device.type == "cuda":
            torch.cuda.synchronize(steppers[0].device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


@contextmanager
def _threads(jobs: int) -> Iterator[None]:
    """Use as many threads as one of so many processes side by side does."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)
