"""Which method for which target: a short trial of each, before one is trained.

Successive halving (arXiv 1502.07943, algorithm 1): every method but `scratch` trains from the same start, with the same
seed and points, for a few steps, and the better half for four times as many. The loss on points that no training saw
decides. Losses within a factor of `LEVEL` are level at the end: then the fewest trained numbers win where the loss has
come to rest, and the most where it still falls, for they have the most room.

Differs from the paper: each round begins anew, with the whole course in miniature. Phases keep their shares and rates
come down to their end, so that methods are compared as they would end, and not in the noise of a high rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lissome._errors import Interrupted, LissomeError, RunError, UsageError
from lissome._files import write_json
from lissome.adapt import METHODS, fitting
from lissome.optim import Budget, Result, keep_memory
from lissome.pde import Problem
from lissome.recipes.archive import Solution
from lissome.recipes.cell import Cell
from lissome.recipes.course import usual
from lissome.recipes.settings import AUTO, AdaptSettings, TrainingSettings
from lissome.recipes.tally import tally
from lissome.recipes.training import DTYPES, device_of, in_memory, phases, problem_of
from lissome.report.numerals import count, quantity, setting
from lissome.report.read import read_json

CHOICES = "choices.json"
SHARE = 1 / 8  # of the steps of one training, for all trials of a target together
ROUNDS = (1, 4)  # steps of each round, relative to the first
LAST = 8  # steps of the last round at least: Gauss-Newton far from a target is damped before, and `last` looks best
LEVEL = 1.3  # on Allen-Cahn the fresh loss of one method moves by as much from step to step
FELL = 10.0  # at rest is a loss that fell by this factor since the start, and by less in the last round
Scores = dict[str, dict[int, float]]
Row = dict[str, Any]


def opened(settings: AdaptSettings, base: Solution) -> AdaptSettings:
    """Return the settings with all methods that are tried in the place of `auto`.

    These are the adaptations proper: `scratch` is none, and a network without hidden matrices has no small forms.
    """
    if AUTO not in settings.methods:
        return settings
    tried = [name for name in fitting(base.network) if not METHODS[name].fresh]
    names = [name for given in settings.methods for name in (tried if given == AUTO else [given])]
    return settings.model_copy(update={"methods": list(dict.fromkeys(names))})


def choose(
    found: Sequence[Cell], settings: AdaptSettings, out: Path, *, progress: bool = False
) -> tuple[list[Cell], dict[str, str]]:
    """Try, for each target and optimizer, the methods that stand for `auto`; keep what was found in `choices.json`.

    Args:
        found: all cells of the opened settings.
        settings: as they were given.
        out: directory of the comparison; a choice that is kept there is not made again.
        progress: show a bar.

    Returns:
        The cells that are to be trained, those named and those chosen, and for each chosen one by name why.

    Raises:
        RunError, UsageError: no method can be tried for a target; the first one's error.
        Interrupted: Ctrl-C; the choices made before are kept.
    """
    if AUTO not in settings.methods:
        return list(found), {}
    kept, groups = read_json(out / CHOICES), dict[str, list[Cell]]()
    for cell in found:
        if not METHODS[cell.method].fresh:
            groups.setdefault(_place(cell), []).append(cell)
    for place, cells in groups.items():
        if kept.get(place, {}).get("chosen") not in [cell.method for cell in cells]:
            kept[place] = _tried(cells, progress=progress)
            write_json(out / CHOICES, kept)
    told = {cell.name: kept[_place(cell)]["why"] for cell in found if kept[_place(cell)]["chosen"] == cell.method}
    return [cell for cell in found if cell.name in told or cell.method in settings.methods], told


def rounds(whole: int, contestants: int) -> list[int]:
    """Return the steps of each round: an eighth of the whole for all of them together, but `LAST` in the last.

    >>> rounds(4000, 6), rounds(200, 6), rounds(200, 2), rounds(2, 6)
    ([28, 112], [2, 8], [3, 12], [2, 2])
    """
    work = sum(part * many for part, many in zip(ROUNDS, takes(contestants), strict=True))
    first = max(math.ceil(SHARE * whole / work), math.ceil(LAST / ROUNDS[-1]))
    return [min(part * first, whole) for part in ROUNDS]


def takes(contestants: int) -> list[int]:
    """Return how many take part in each round: the better half in the last, but two at least.

    >>> takes(6), takes(2)
    ([6, 3], [2, 2])
    """
    return [contestants, max(math.ceil(contestants / 2), min(contestants, 2))]


def halve(names: Iterable[str], steps: Sequence[int], score: Callable[[str, int], float]) -> Scores:
    """Score names round by round, the better half of each round in the next; what is not finite is out.

    >>> halve("abc", [1, 2], lambda name, steps: ord(name) / steps)
    {'a': {1: 97.0, 2: 48.5}, 'b': {1: 98.0, 2: 49.0}, 'c': {1: 99.0}}
    """
    left = list(names)
    found: Scores = {name: {} for name in left}
    for number, many in zip(steps, takes(len(left)), strict=True):
        left = left[:many]
        for name in left:
            found[name][number] = score(name, number)
        left = _ascending({name: found[name][number] for name in left})
    return found


def best(scores: Scores, sizes: Mapping[str, int], start: float) -> list[str]:
    """Return those that came furthest and were finite all along, the best first; none if there are none.

    Args:
        scores: of `halve`.
        sizes: how many numbers each name trains.
        start: the loss before any step.

    >>> scores = {"a": {1: 8.0}, "b": {1: 5.0, 2: 3.0}, "c": {1: 4.0, 2: 3.5}, "d": {1: 6.0, 2: math.inf}}
    >>> sizes = {"a": 1, "b": 9, "c": 5, "d": 3}
    >>> best(scores, sizes, start=99.0), best(scores, sizes, start=9.0)
    (['c', 'b'], ['b', 'c'])
    """
    fine = {name: found for name, found in scores.items() if all(map(math.isfinite, found.values()))}
    most = max(map(len, fine.values()), default=0)
    last = {name: [*found.values()][-1] for name, found in fine.items() if len(found) == most}
    order = _ascending(last)
    level = [name for name in order if last[name] <= LEVEL * last[order[0]]]
    moves = bool(order) and not _rests([start, *fine[order[0]].values()])
    return sorted(level, key=lambda name: sizes[name], reverse=moves) + order[len(level) :]


def _rests(losses: Sequence[float]) -> bool:
    """Say whether losses, from the start on, have fallen far and come to rest."""
    return losses[0] >= FELL * losses[-1] and losses[-2] <= FELL * losses[-1]


def _ascending(losses: Mapping[str, float]) -> list[str]:
    return sorted((name for name in losses if math.isfinite(losses[name])), key=lambda name: losses[name])


def _place(cell: Cell) -> str:
    """Name the target, and the course where there are several."""
    return "/".join([cell.name.partition("/")[0], *cell.settings.optimizers])


def _whole(training: TrainingSettings) -> int:
    """Return the steps of a training; of one in seconds, what is usual, so that the same seed chooses the same."""
    return training.steps or min(usual(phase.optimizer).steps for phase in phases(training))


def _tried(cells: Sequence[Cell], *, progress: bool) -> Row:
    """Return the row of `choices.json` of one target and course."""
    keep_memory()
    first, by_name = cells[0], {cell.method: cell for cell in cells}
    problem = problem_of(first.target, first.settings, first.base.constraint)
    training, sizes = first.settings.training, {cell.method: cell.adapted().count() for cell in cells}
    steps, taking = rounds(_whole(training), len(cells)), takes(len(cells))
    work = sum(number * many for number, many in zip(steps, taking, strict=True))
    done: dict[str, list[int]] = {method: [] for method in by_name}  # fewer where the seconds are over
    errors: dict[str, LissomeError] = {}
    start = math.inf
    bar = tally(progress)
    task = bar.add_task("", total=sum(taking), last="")

    def score(method: str, number: int) -> float:
        nonlocal start
        limit = training.seconds and SHARE * training.seconds * number / work
        try:
            result = _train(by_name[method], problem, Budget(steps=number, seconds=limit))
        except Interrupted as error:
            raise Interrupted(f"stopped while auto tried {by_name[method].name}; earlier choices are kept") from error
        except (RunError, UsageError) as error:
            errors[method], fresh = error, math.inf
        else:
            start, fresh = result.history[0]["fresh"], result.metrics["fresh"]  # all start from the same function
            done[method].append(result.steps)
        bar.update(task, advance=1, last=f"auto tried {by_name[method].name}: {fresh:.2e}", refresh=True)
        return fresh

    with bar:
        scores = halve(by_name, steps, score)
    order = best(scores, sizes, start)
    if not order:
        why = errors.get(first.method) or RunError("the loss on fresh points is not finite")
        raise type(why)(f"auto has no method for {_place(first)} that can be trained; {first.method}: {why}")
    rows: dict[str, Row] = {}
    for method, found in scores.items():
        rows[method] = {"trained": sizes[method], "steps": done[method], "fresh": [*found.values()]}
        if not all(map(math.isfinite, found.values())):
            rows[method]["failed"] = str(errors.get(method, "the loss on fresh points is not finite"))
    return {"chosen": order[0], "why": _why(first, order, rows, start), "start": start, "methods": rows}


def _train(cell: Cell, problem: Problem, budget: Budget) -> Result:
    """Train from the start, in memory."""
    own = cell.settings
    model = problem.wrap(cell.adapted()).to(device=device_of(own.device), dtype=DTYPES[own.dtype])
    return in_memory(model, problem, own, budget, every=budget.steps)  # the start and the end alone are evaluated


def _why(cell: Cell, order: Sequence[str], rows: Mapping[str, Row], start: float) -> str:
    """Say in one sentence what was chosen over what, and why.

    Args:
        cell: one of the target and course.
        order: those of the last round, the chosen one first.
        rows: what came of each.
        start: the loss before any step.
    """
    chosen, *rest = order
    values = [f"{key} = {setting(value)}" for key, value in cell.target.values.items()]
    where = ", ".join([*values, *cell.settings.optimizers]) or cell.target.name
    failed = [name for name, row in rows.items() if "failed" in row]
    others = [name for name in rows if name != chosen and name not in failed]
    loss = {name: rows[name]["fresh"][-1] for name in order}
    steps = rows[chosen]["steps"][-1]
    after = f"after {count(steps)} {'steps' if steps > 1 else 'step'}"
    told = f"{after} the fresh loss of {quantity(start)} is {quantity(loss[chosen])}"
    if rest:
        rival = min(rest, key=lambda name: loss[name])
        beside = "level with" if loss[rival] <= LEVEL * loss[chosen] else "against"
        told += f", {beside} {quantity(loss[rival])} of {rival}"
        if loss[rival] < loss[chosen]:
            fewer = rows[rival]["trained"] < rows[chosen]["trained"]
            told += f", which trains {count(rows[rival]['trained'])} numbers and not {count(rows[chosen]['trained'])}"
            told += ", before the loss has come to rest" if fewer else ""
    over = f" over {', '.join(others)}" if others else ""
    tail = "; so short a trial decides little here" if loss[chosen] * FELL > start else ""
    tail += f"; {', '.join(failed)} failed" if failed else ""
    return f"for {where}, auto chose {chosen}{over}: {told}{tail}."
