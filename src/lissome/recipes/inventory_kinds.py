"""What a run of each kind tells of itself in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissome.report.comparison import is_comparison, listed
from lissome.report.incontext import heading as incontext_heading
from lissome.report.incontext import incontext_row
from lissome.report.incontext_files import is_incontext
from lissome.report.language import language_row
from lissome.report.language_files import OWN, is_language
from lissome.report.page import equation
from lissome.report.read import TABLE, Row, Run, finite, read_json, series
from lissome.report.stream import stream_row
from lissome.report.table_page import table_row

POINTS = 40  # of a course


class Told(NamedTuple):
    """What one line tells of a run; see `report.inventory.Entry`."""

    kind: str
    what: str = ""
    figure: str | None = None
    value: float | None = None
    trained: int | None = None
    seconds: float | None = None
    state: str = "unfinished"
    problem: str | None = None
    course: tuple[float, ...] = ()


class _Kind(NamedTuple):
    """A kind of run that is one training.

    Attributes:
        verb: that makes it.
        holds: whether a run is one.
        row: what is told of it.
        what: equation, task or model.
        figure: name, key in the row, key in the metrics.
    """

    verb: str
    holds: Callable[[Run], bool]
    row: Callable[[Run], Row]
    what: Callable[[Run, Row], str]
    figure: tuple[str, str, str]


KINDS = (
    _Kind(
        "fit",
        lambda run: (run.path / TABLE).is_file() or {"data", "leave", "test"} <= run.settings.keys(),
        table_row,
        lambda run, row: f"{Path(str(run.settings.get('data'))).name} by {_network(run)}",
        ("error", "error", "error"),
    ),
    _Kind(
        "lm train",
        lambda run: is_language(run.path) or run.settings.keys() >= OWN,
        language_row,
        lambda run, row: "; ".join(str(row[key]) for key in ("data", "stages") if row.get(key)),
        ("perplexity", "perplexity", "validation_loss"),
    ),
    _Kind(
        "icl train",
        lambda run: is_incontext(run.path) or {"prompts", "curriculum"} <= run.settings.keys(),
        incontext_row,
        lambda run, row: incontext_heading(row),
        ("error", "error", "error"),
    ),
    _Kind(
        "lm stream",
        lambda run: {"cache", "protocol", "chunk"} <= run.settings.keys(),
        stream_row,
        lambda run, row: f"{row.get('data')}; cache {row.get('cache')}; {Path(str(row.get('model'))).name}",
        ("perplexity", "perplexity", "perplexity"),
    ),
    _Kind(
        "pde adapt",
        lambda run: "run" in run.settings and "targets" in run.settings,
        lambda run: run.row(),
        lambda run, row: equation(row) + (f" by {row['method']}" if row.get("method") else ""),
        ("error", "error", "error"),
    ),
    _Kind(
        "pde solve",
        lambda run: "family" in run.settings or run.summary.get("kind") == "solve",
        lambda run: run.row(),
        lambda run, row: equation(row),
        ("error", "error", "error"),
    ),
)


def told_of(place: Path, run: Run | None) -> Told:
    """Tell of a run, or of a page of several, which has no settings.

    Raises:
        UsageError: a file is broken, or the settings are gone.
    """
    if is_comparison(place):
        return _comparison(place, run)
    if run is None:
        return Told("run", state="damaged", problem="it has no settings.yaml")
    for holds, tell in TOGETHER:
        if holds(run):
            return tell(run)
    kind = next((kind for kind in KINDS if kind.holds(run)), None)
    return Told("run", what=place.name, state=_state(run)) if kind is None else _training(run, kind)


def _training(run: Run, kind: _Kind) -> Told:
    row, (name, key, curve) = kind.row(run), kind.figure
    failed = run.summary.get("failed")
    return Told(
        kind.verb,
        what=kind.what(run, row),
        figure=name,
        value=finite(row, key),
        trained=_whole(finite(row, "trained")),
        seconds=finite(row, "seconds"),
        state=_state(run),
        problem=str(failed) if failed else None,
        course=_thin(series(run.metrics, "step", curve)[1]),
    )


def _comparison(place: Path, run: Run | None) -> Told:
    """Tell of a page of several runs: the best error of an adaptation's cells, or how many runs `compare` was given."""
    title = listed(place)[1] or "runs"
    rows = read_json(place / "comparison.json")["rows"]
    if run is None:
        return Told("compare", what=title, state="finished")
    asked = run.settings
    wanted = (
        len(asked.get("targets") or []) * len(asked.get("methods") or []) * max(1, len(asked.get("optimizers") or []))
    )
    over = len(rows) >= wanted and all(row.get("finished", True) for row in rows)
    errors = [error for row in rows if (error := finite(row, "error")) is not None]
    return Told(
        "pde adapt",
        what=title,
        figure="best error",
        value=min(errors, default=None),
        seconds=sum(finite(row, "seconds") or 0.0 for row in rows),
        state="finished" if over else "unfinished",
    )


def _replication(run: Run) -> Told:
    found = read_json(run.path / "results.json")
    claims = [claim.get("verdict") for claim in found.get("claims", [])]
    share = claims.count("shown") / len(claims) if claims else None
    return Told("replicate", str(run.settings["paper"]), "claims shown", share, state=_counted(found))


def _benchmark(run: Run) -> Told:
    found, asked = read_json(run.path / "results.json"), run.settings
    sizes = (f"{len(asked.get(key) or [])} {key}" for key in ("families", "adapters", "optimizers") if asked.get(key))
    done = found["done"] / found["cells"] if found.get("cells") else None
    return Told("pde bench", ", ".join(sizes), "cells done", done, state=_counted(found))


def _counted(found: Mapping[str, Any]) -> str:
    return "finished" if found and found.get("done") == found.get("cells") else "unfinished"


def _ranks(run: Run) -> Told:
    found, names = read_json(run.path / "ranks.json"), ("model", "adapter")
    what = ", ".join(Path(str(run.settings.get(name))).name for name in names)
    state = "finished" if found else "unfinished"
    loss, spent = finite(found, "held_after"), finite(found, "seconds")
    return Told("lm ranks", what, "held-out loss", loss, seconds=spent, state=state)


def _diagnosis(run: Run) -> Told:
    found, solve = read_json(run.path / "diagnosis.json"), run.settings.get("solve") or {}
    spent = found.get("seconds") or {}
    what = equation(found) if found else str(run.settings.get("run") or solve.get("family"))
    return Told("pde diagnose", what, seconds=finite(spent, "total"), state="finished" if found else "unfinished")


TOGETHER: tuple[tuple[Callable[[Run], bool], Callable[[Run], Told]], ...] = (  # runs that are more than one training
    (lambda run: {"paper", "seeds"} <= run.settings.keys(), _replication),
    (lambda run: {"adapters", "operations"} <= run.settings.keys(), _benchmark),
    (lambda run: {"adapter", "budget"} <= run.settings.keys(), _ranks),
    (lambda run: {"solve", "widths"} <= run.settings.keys(), _diagnosis),
)


def _state(run: Run) -> str:
    return "failed" if run.summary.get("failed") else "finished" if run.finished else "unfinished"


def _network(run: Run) -> str:
    return str((run.settings.get("network") or {}).get("kind") or "a network")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _thin(values: np.ndarray) -> tuple[float, ...]:
    """Return at most so many numbers, the first and the last among them.

    >>> len(_thin(np.arange(1.0, 1000.0))), _thin(np.array([2.0])), _thin(np.array([]))
    (40, (2.0,), ())
    """
    kept = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
    return tuple(values[kept].tolist())
