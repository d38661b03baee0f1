"""A benchmark of transfer between the members of PDE families: every adapter, every optimizer, near, middle and far.

For each family and seed one network solves the first member. Each contestant, an adapter with an optimizer, then
adapts it to each target twice: for the same seconds, and for the same operations, which no machine changes. What is
done is kept as a line of `cells.jsonl`; tables, figures and the page are made from it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lissome._errors import Interrupted, RunError, UsageError
from lissome._files import write
from lissome._version import __version__
from lissome.optim.journal import Journal
from lissome.optim.machine import stoppable
from lissome.pde.family import Family
from lissome.pde.registry import families as known_families
from lissome.pde.registry import load_family
from lissome.recipes import directory
from lissome.recipes.abreast import abreast, between
from lissome.recipes.bench_report import draw, slug
from lissome.recipes.bench_results import FORMAT, Results, made_by, merged, read
from lissome.recipes.bench_settings import BenchSettings, member_of
from lissome.recipes.contest import COUNTED, adapted_by, compete, prepare
from lissome.recipes.engine import Task
from lissome.recipes.grid import run_grid
from lissome.recipes.network import network_of
from lissome.recipes.settings import load
from lissome.recipes.solution import lasting
from lissome.recipes.worker import cores

Row = dict[str, Any]
GROWS = ("families", "targets", "adapters", "optimizers", "seeds")  # a resumed benchmark may have more of them
STARTS = "starts"
CALLS: dict[str, Callable[..., Row]] = {"start": prepare, "run": compete, "abreast": abreast}


@dataclass(frozen=True)
class Cell:
    """One start, or one contestant on one member under one budget.

    Attributes:
        name: unique.
        facts: what its row says of it beside the figures.
        arguments: of the function of its kind, `CALLS`.
        after: the name of the start that it follows.
    """

    name: str
    facts: Mapping[str, Any]
    arguments: Mapping[str, Any]
    after: str = ""


def bench(
    settings: BenchSettings,
    out: str | Path,
    *,
    merge: Sequence[str | Path] = (),
    resume: bool = False,
    progress: bool = True,
    jobs: int | None = 1,
    engine: str = "processes",
) -> list[Row]:
    """Run what is left of a benchmark and draw its leaderboard.

    Args:
        settings: families, targets, adapters, optimizers, seeds, budgets.
        out: directory, not there yet; with `resume`, cells that are done are kept, and the grid may have grown.
        merge: `results.json` of other runs under the same budgets: of this version and processor they fill in what is
            missing here, others stand beside.
        resume: go on where an earlier call stopped; what was asked for before is asked for still.
        progress: show a bar.
        jobs: runs at once, each on one thread; None is one per core.
        engine: `processes` of this machine, or `ray`, a cluster.

    Returns:
        One row per budget and contestant, the best first: budget, contestant, mean rank, wins and so on.

    Raises:
        UsageError: an unknown family, adapter, optimizer or engine, a family without the target that is asked for,
            results that cannot be merged, a directory that exists or was begun otherwise.
        Interrupted: Ctrl-C; what was done is kept.
    """
    out = Path(out)
    settings = settings.model_copy(update={"families": [lasting(name) for name in settings.families]})
    settings = _grown(settings, out) if resume and directory.holds(out) else settings
    found, environment = cells(settings), directory.environment()
    others = [read(Path(path), settings) for path in merge]
    with directory.claimed(out, settings, resume=resume, free=GROWS):
        journal = Journal(out / "cells.jsonl")
        journal.start(upto=sys.maxsize)
        have = {row["cell"] for row in journal.rows if row["kind"] != "start" or _kept(out, row)}
        todo = [cell for cell in found if cell.name not in have]

        of, maker = {cell.name: cell for cell in todo}, made_by(__version__, environment)

        def keep(task: Task, row: Row) -> str:
            kind, weights = of[task.name].facts["kind"], row.pop("weights", None)
            if weights is not None:
                write(_start(out, task.name), weights)
            facts = {**of[task.name].facts, "by": maker}
            journal.append({"step": len(journal.rows), "cell": task.name, **facts, **row})
            said = "failed" if row["failed"] else f"error {row['error']:.1e}" if kind != "abreast" else "timed"
            return f"{task.name}: {said}"

        def drawn() -> list[Row]:
            rows = {row["cell"]: row for row in journal.rows}
            mine = [rows[cell.name] for cell in found if cell.name in rows]
            own = Results(FORMAT, __version__, environment, settings.model_dump(mode="json"), mine)
            return draw(merged(own, others), out, len(found), len(mine))

        try:
            with stoppable() as stop:
                how: dict[str, Any] = {"progress": progress, "jobs": jobs or cores(), "engine": engine}
                run_grid(_tasks(todo, out), keep, stop=stop, **how)
        except (Interrupted, RunError) as error:
            drawn()
            said = "stopped" if isinstance(error, Interrupted) else str(error)
            again = f"the cells that were done are kept: `lissome pde bench --resume --out {out}`"
            raise type(error)(f"{said}; {again}") from error
        return drawn()


def cells(settings: BenchSettings) -> list[Cell]:
    """Return starts and contestants, seed by seed, after a look at each.

    Raises:
        UsageError: an unknown family, a target that it does not have, a rank that fits no matrix.
    """
    shared: Row = {"network": settings.network.model_dump(), "points": settings.points.model_dump()}
    shared["weighing"] = settings.weights
    _check_adapters(settings)
    given = {name: load_family(name) for name in settings.families or _all(settings.targets)}
    names = {kind.name: name for name, kind in given.items()}  # a person's own family is loaded by its file
    if len(names) < len(given):
        raise UsageError(f"two of the families {', '.join(given)} have one name; legal is one of each")
    members = {kind.name: _members(kind, settings.targets) for kind in given.values()}
    first = {kind.name: kind().values for kind in given.values()}
    found = []
    for seed in range(settings.seeds):
        for family, targets in members.items():
            own = shared | {"family": names[family], "dimension": None, "seed": seed}
            start = f"{family}, seed {seed}, start"
            facts = {"kind": "start", "family": family, "seed": seed}
            found.append(Cell(start, facts, own | {"steps": settings.start}))
            if seed == 0:
                beside = between(first[family], next(iter(targets.values())))
                facts = {"kind": "abreast", "family": family, "seed": seed}
                found.append(Cell(f"{family}, members at once", facts, own | {"members": beside}))
            for target, member in targets.items():
                for contestant in _contestants(settings):
                    facts = {"kind": "run", "family": family, "target": target, "seed": seed, "parameters": member}
                    label = ", ".join([family, target, f"seed {seed}", *map(str, list(contestant.values())[:3])])
                    asked = own | {"parameters": member, "rank": settings.rank, **contestant}
                    found.append(Cell(label, facts | contestant, asked, start))
    return found


def _grown(settings: BenchSettings, out: Path) -> BenchSettings:
    """Return settings with all that an earlier call has asked for."""
    old = load(BenchSettings, file=out / "settings.yaml", given={})
    lists = {key: [*getattr(old, key), *getattr(settings, key)] for key in GROWS if key != "seeds"}
    whole = {key: list(dict.fromkeys(each)) for key, each in lists.items()}
    if not old.families:
        whole["families"] = []  # all of them
    return settings.model_copy(update=whole | {"seeds": max(old.seeds, settings.seeds)})


def _contestants(settings: BenchSettings) -> list[Row]:
    budgets = {"seconds": settings.seconds, "operations": settings.operations}
    found = [
        {"adapter": adapter, "optimizer": optimizer, "budget": budget, "amount": amount}
        for adapter in settings.adapters
        for optimizer in settings.optimizers
        for budget, amount in budgets.items()
        if amount is not None and (budget == "seconds" or optimizer in COUNTED)
    ]
    if not found:
        raise UsageError(
            f"nothing is left to run: seconds is null, and operations are counted for {', '.join(COUNTED)} alone"
        )
    return found


def _members(kind: type[Family], targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return target -> all parameters of the member."""
    first = kind()
    if not first.known:
        raise UsageError(f"family '{kind.name}' has no known solution, so its errors cannot be told; leave it out")
    return {target: first.at(**member_of(kind.name, kind.targets(), target)).values for target in targets}


def _all(targets: Sequence[str]) -> list[str]:
    """Return the families of which a solution is known and that have all the targets that are asked for by name."""
    kinds = [load_family(name) for name in known_families()]
    wanted = {target for target in targets if "=" not in target}
    return [kind.name for kind in kinds if kind().known and wanted <= set(kind.targets())]


def _check_adapters(settings: BenchSettings) -> None:
    tried = network_of(2, settings.network, torch.Generator().manual_seed(0))
    for adapter in settings.adapters:
        adapted_by(tried, adapter, settings.rank, 0)


def _tasks(todo: Sequence[Cell], out: Path) -> list[Task]:
    def asked(cell: Cell) -> Row:
        if cell.facts["kind"] != "run":
            return dict(cell.arguments)
        place = _start(out, cell.after)
        return {**cell.arguments, "weights": place.read_bytes() if place.is_file() else None}

    return [Task(cell.name, CALLS[cell.facts["kind"]], functools.partial(asked, cell), cell.after) for cell in todo]


def _start(out: Path, name: str) -> Path:
    return out / STARTS / f"{slug(name)}.safetensors"


def _kept(out: Path, row: Row) -> bool:
    """Say whether a start need not be made again: its weights are there, or it failed, as it would again."""
    return bool(row["failed"]) or _start(out, row["cell"]).is_file()
