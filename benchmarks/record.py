"""Results on disk: one JSON file per benchmark, written after each cell, so that a stopped run goes on where it was."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
from typing import Any, Protocol

import torch

import lissome
from benchmarks.race import Times, ratio
from benchmarks.registry import Benchmark, Cell

RESULTS = pathlib.Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Describe what the times belong to."""
    model = platform.processor()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """Return the commit of the code, with a mark if files differ from it."""
    asked = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def source(benchmark: Benchmark) -> str:
    """Return a digest of the code that is timed: a cell of other code is run again."""
    home = pathlib.Path(lissome.__file__).parent
    module = pathlib.Path(__file__).parent / f"{benchmark.name.replace('-', '_')}.py"
    files = [path for room in benchmark.rooms for path in sorted((home / room).glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*files, module])).hexdigest()[:16]


def summary(cell: Cell, times: Times, load: tuple[float, float]) -> dict[str, Any]:
    """Return what is known of a cell: raw times in milliseconds, ratios to the unit, targets met or not."""
    times = times | cell.derive(times)
    targets = []
    for target in cell.targets:
        found = ratio(times, target.slow, target.fast)
        targets.append({**dataclasses.asdict(target), "found": found.median, "met": target.met(found.median)})
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load": load,  # processes that wanted to run, one-minute mean before and after; our own count too
        "unit": cell.unit,
        "median_ms": {name: round(1e3 * statistics.median(row), 3) for name, row in times.items()},
        "fastest_ms": {name: round(1e3 * min(row), 3) for name, row in times.items()},
        "ratio": {name: dataclasses.asdict(ratio(times, name, cell.unit)) for name in times},
        "targets": targets,
        "raw_ms": {name: [round(1e3 * t, 3) for t in row] for name, row in times.items()},
    }


class Titled(Protocol):
    """A benchmark of either kind."""

    @property
    def name(self) -> str:
        """The name of its file."""
        ...

    @property
    def title(self) -> str:
        """One line."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What goes into the results as it is."""
        ...


def read(benchmark: Titled) -> dict[str, Any]:
    """Return earlier results, or an empty record."""
    path = RESULTS / f"{benchmark.name}.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"name": benchmark.name, "cells": {}}


def write(benchmark: Titled, record: dict[str, Any]) -> None:
    """Replace the file whole."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark.name}.json"
    part = path.with_suffix(".part")
    record = {**record, "title": benchmark.title, "notes": benchmark.notes}
    lists = json.dumps(record, indent=1)
    part.write_text(lists + "\n")
    part.replace(path)
