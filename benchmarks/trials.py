"""Benchmarks that are trainings: what error after how many seconds, on one thread, over several seeds.

A trial is done whole or not at all, in a process of its own with one thread, and kept as soon as it is done. Two run at
once where there are two cores; a trial that shares its core with other work says so by its load.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import inspect
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import record
from lissome.optim import keep_memory

Figures = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        name: unique within its benchmark.
        run: a function of the benchmark's module, so that another process finds it.
        arguments: what it is called with; a digest of them and of the module tells whether the trial is known.
    """

    name: str
    run: Callable[..., Figures]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """A figure over the seeds that is wanted to be at most so much."""

    what: str
    found: float | None
    most: float

    def told(self) -> dict[str, Any]:
        """Return the aim as JSON."""
        met = self.found is not None and self.found <= self.most
        return {"what": self.what, "found": self.found, "most": self.most, "met": met}


@dataclass(frozen=True)
class Trials:
    """Trainings under one name.

    Args:
        name: of the module and of the file of results.
        title: one line.
        trials: all of them, the quick ones first.
        table: from the figures of those that are known to a table.
        aims: from the same to what was wanted.
        quick: from a trial's arguments to those of a look in seconds.
        notes: go into the results as they are.
    """

    name: str
    title: str
    trials: tuple[Trial, ...]
    table: Callable[[Mapping[str, Figures]], Table]
    aims: Callable[[Mapping[str, Figures]], list[Aim]]
    quick: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    notes: tuple[str, ...] = ()


def run(benchmark: Trials, console: Console, *, quick: bool, again: bool, only: str = "", jobs: int = 0) -> int:
    """Run what is not known yet, keep each trial when it is done, print the table; return 0."""
    console.rule(benchmark.title)
    kept = record.read(benchmark)
    chosen = [trial for trial in benchmark.trials if only in trial.name]
    todo = [trial for trial in chosen if quick or again or not _known(kept, trial)]
    found: dict[str, Figures] = {name: cell["figures"] for name, cell in kept["cells"].items()} if not quick else {}
    jobs = jobs or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {}
        for trial in todo:
            arguments = dict(benchmark.quick(trial.arguments) if quick else trial.arguments)
            waiting[pool.submit(_alone, trial.run.__module__, trial.run.__name__, arguments)] = trial
        for future in as_completed(waiting):
            trial, cell = waiting[future], future.result()
            found[trial.name] = cell["figures"]
            console.print(f"{trial.name}: {cell['took']:.0f} s")
            if not quick:
                kept = record.read(benchmark)  # another process may have added to it
                found |= {name: other["figures"] for name, other in kept["cells"].items() if name != trial.name}
                kept["cells"][trial.name] = cell | {"source": _stamp(trial)}
                kept["aims"] = [aim.told() for aim in benchmark.aims(found)]
                record.write(benchmark, kept)
    console.print(benchmark.table(found))
    for aim in benchmark.aims(found):
        told = aim.told()
        verdict = "[green]met[/green]" if told["met"] else "[red]missed[/red]"
        value = "no figure" if aim.found is None else f"{aim.found:.2e}"
        console.print(f"{aim.what}: {value}, wanted at most {aim.most:g}: {verdict}")
    for note in benchmark.notes:
        console.print(f"- {note}")
    return 0


def middle(values: list[float | None]) -> tuple[float, float, float] | None:
    """Return median, least and greatest of those that are numbers, or None where one is missing."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return statistics.median(numbers), min(numbers), max(numbers)


def _known(kept: dict[str, Any], trial: Trial) -> bool:
    cell = kept["cells"].get(trial.name)
    return bool(cell) and cell["source"] == _stamp(trial) and cell["machine"]["cpu"] == record.machine()["cpu"]


def _stamp(trial: Trial) -> str:
    text = inspect.getsource(trial.run) + repr(sorted(trial.arguments.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _alone(module: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a trial in this process."""
    torch.set_num_threads(1)
    keep_memory()
    before, start = os.getloadavg()[0], time.perf_counter()
    figures = getattr(importlib.import_module(module), name)(**arguments)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": record.commit(),
        "machine": record.machine(),
        "load": (round(before, 2), round(os.getloadavg()[0], 2)),
        "took": time.perf_counter() - start,
        "figures": figures,
    }


def results(name: str) -> Path:
    """Return the file of a benchmark's results."""
    return record.RESULTS / f"{name}.json"
