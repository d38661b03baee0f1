"""All runs below a directory: found, read, and told on one page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from lissome._errors import UsageError
from lissome.recipes.inventory_kinds import Told, told_of
from lissome.recipes.lock import is_locked
from lissome.report.inventory import Entry, inventory_page
from lissome.report.read import FOLDER, read_json, read_run

MARKS = ("settings.yaml", "summary.json", "metrics.jsonl", "comparison.json", "cells.jsonl", "ranks.json")
PASSED = {"checkpoint", "figures", "adapter", "weighed", FOLDER}  # folders of a run that hold no runs


def is_run(place: Path) -> bool:
    """Say whether a directory is a run, or the page of several, or what is left of one."""
    return any((place / name).exists() for name in MARKS)


def holds_runs(place: Path) -> bool:
    """Say whether a directory that is no run itself has runs below it."""
    return place.is_dir() and not is_run(place) and next(_found(place), None) is not None


def list_runs(directory: str | Path = "runs") -> list[Entry]:
    """Write the page of all runs below a directory, `index.html` in it; return them.

    The newest come first, and what is a part of a run, as the cells of an adaptation are, comes below it. A run whose
    files are damaged is told as such.

    Raises:
        UsageError: there is no such directory, or no run in it; or it has an index.html of another kind.

    Example:
        >>> import tempfile
        >>> from lissome.recipes.settings import SolveSettings, load
        >>> from lissome.recipes.solution import solve
        >>> few = {"points.interior": 16, "training.steps": 2, "training.compile": False, "network.width": 4}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = solve(load(SolveSettings, given={"family": "poisson"} | few), f"{place}/first", progress=False)
        ...     found = list_runs(place)
        >>> [(run.path, run.kind, run.what, run.state, run.page) for run in found]
        [('first', 'pde solve', 'poisson (d = 2, c = 0, k = 1)', 'finished', 'first/index.html')]
    """
    root = Path(directory)
    if not root.is_dir():
        raise UsageError(f"there is no directory '{root}'; name a run, or a directory that holds runs")
    entries = [_entry(place, parent, root) for place, parent in _found(root)]
    if not entries:
        raise UsageError(f"there is no run below '{root}'; name a run, or a directory that holds runs")
    entries = _ordered(entries)
    inventory_page(root, entries)
    return entries


def _found(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Go through the runs below a directory, each with the run that it is a part of."""
    above: dict[Path, Path] = {}
    for text, folders, _ in os.walk(root):
        place = Path(text)
        folders[:] = sorted(name for name in folders if name not in PASSED and not name.startswith("."))
        parent = above.get(place.parent)
        if place != root and is_run(place):
            yield place, parent
            parent = parent or place  # cells of cells stand below the outermost
        if parent is not None:
            above[place] = parent


def _entry(place: Path, parent: Path | None, root: Path) -> Entry:
    """Tell of a run whatever its files allow."""
    try:
        run = read_run(place, curves=False) if (place / "settings.yaml").exists() else None
        begun = str(read_json(place / "environment.json").get("started") or "")
        found = told_of(place, run)
    except UsageError as error:
        found, begun = Told("run", state="damaged", problem=str(error)), ""
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = f"its files do not hold what they should: {' '.join(str(error).split())}"
        found, begun = Told("run", state="damaged", problem=said), ""
    running = found.state == "unfinished" and is_locked(place)
    return Entry(
        path=place.relative_to(root).as_posix(),
        parent=None if parent is None else parent.relative_to(root).as_posix(),
        kind=found.kind,
        what=found.what,
        figure=found.figure,
        value=found.value,
        trained=found.trained,
        seconds=found.seconds,
        begun=begun or _changed(place),
        state="running" if running else found.state,
        checkpoint=(place / "checkpoint").is_dir(),
        page=f"{place.relative_to(root).as_posix()}/index.html" if (place / "index.html").is_file() else None,
        problem=found.problem,
        course=found.course,
    )


def _changed(place: Path) -> str:
    """Return when a run's settings, or else its directory, were last written."""
    file = place / "settings.yaml"
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime((file if file.exists() else place).stat().st_mtime))


def _ordered(entries: list[Entry]) -> list[Entry]:
    """Return the newest first, each followed by its parts in the order of their paths."""
    parts: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.parent is not None:
            parts.setdefault(entry.parent, []).append(entry)
    whole = sorted((entry for entry in entries if entry.parent is None), key=lambda entry: entry.begun, reverse=True)
    return [each for entry in whole for each in (entry, *parts.get(entry.path, []))]
