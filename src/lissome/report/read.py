"""Reading run directories: what a finished, broken or still running run left on disk."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lissome._errors import UsageError
from lissome._parsed import json_of, yaml_of

Row = dict[str, Any]
TABLE = "table.json"  # of a fit of a table: what its model knows beside its weights
FOLDER, DECISION = "together", "decision.json"  # below a comparison: its cells that are trained at once

# Settings that may differ between repetitions of one experiment.
INCIDENTAL = {"seed", "out", "directory", "name", "base", "from", "device", "threads", "progress", "resume"}


@dataclass(frozen=True)
class Run:
    """One run directory as values; `summary` is empty while the run is in progress."""

    path: Path
    settings: dict[str, Any]
    settings_text: str
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    curves: dict[str, np.ndarray]

    @property
    def finished(self) -> bool:
        """Whether the run wrote its summary."""
        return bool(self.summary)

    def row(self) -> Row:
        """Return the summary, or what settings and the latest evaluation tell of a run in progress."""
        if self.finished:
            row = dict(self.summary)
        else:
            row = {
                key: self.settings[key]
                for key in ("kind", "family", "dimension", "method", "rank")
                if key in self.settings
            }
            for key in ("family", "method"):
                if isinstance(row.get(key), dict):
                    row[key] = row[key].get("name")
            row["parameters"] = self.settings.get("parameters") or {}
            if "run" in self.settings:
                row |= self._adapting()
            latest = self.metrics[-1] if self.metrics else {}
            row |= {"steps" if key == "step" else key: value for key, value in latest.items()}
            row["finished"] = False
        if "seed" not in row and "seed" in self.settings:
            row["seed"] = self.settings["seed"]
        check(row, self.path)
        return row

    def _adapting(self) -> Row:
        """Return what the settings of an adapted run, and the run it began with, tell of its equation."""
        base = read_json(Path(str(self.settings["run"])) / "summary.json")
        row: Row = {key: base[key] for key in ("family", "dimension") if key in base}
        only = [self.settings.get(key) for key in ("methods", "targets")]
        method, target = (value[0] if isinstance(value, list) and len(value) == 1 else None for value in only)
        row |= {"kind": "adapt"} | ({} if method is None else {"method": str(method)})
        return row | ({"parameters": target} if isinstance(target, dict) else {})


def read_run(directory: str | Path, *, curves: bool = True) -> Run:
    """Read a run directory; every fault is one sentence that names the file.

    A run in progress is legal: it has no summary yet, perhaps no metrics, and its last line
    of metrics may be half written.

    Args:
        directory: the run.
        curves: whether the arrays behind its figures are wanted.

    Raises:
        UsageError: not a run directory, or a file in it is broken or truncated.
    """
    path = Path(directory)
    if not path.is_dir():
        raise UsageError(f"there is no run directory '{path}'")
    if not (path / "settings.yaml").is_file():
        raise UsageError(f"'{path}' is not a run directory: it has no settings.yaml")
    text = read_text(path / "settings.yaml")
    summary = read_json(path / "summary.json")
    return Run(
        path=path,
        settings=read_settings(path / "settings.yaml", text),
        settings_text=text,
        environment=read_json(path / "environment.json"),
        metrics=read_metrics(path / "metrics.jsonl", finished=bool(summary)),
        summary=summary,
        curves=read_curves(path / "curves.safetensors") if curves else {},
    )


def under_way(path: Path) -> str:
    """Say in one sentence which cells of a comparison are trained at once and have no directory of their own yet."""
    told = []
    for place in sorted((path / FOLDER).glob(f"*/*/{DECISION}")):
        kept = read_json(place)
        left = [str(name) for name in kept.get("members", []) if not (path / str(name) / "summary.json").is_file()]
        if left and not kept.get("failed"):
            rows = read_metrics(place.with_name("metrics.jsonl"), finished=False)
            more = f" and {len(left) - 1} more are" if len(left) > 1 else " is"
            told.append(f"{left[0]}{more} trained at once, {rows[-1]['step'] if rows else 0} steps so far")
    return "; ".join([*told, go_on(path)]) if told else ""


def go_on(path: Path) -> str:
    """Say how to go on with an adaptation."""
    return f"if it was stopped, `lissome pde adapt --resume --out {path}` goes on"


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is not UTF-8 text (byte {error.start}); it is broken, run again") from error
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from error


def read_settings(path: Path, text: str) -> dict[str, Any]:
    """Read YAML text that holds a mapping."""
    try:
        value = yaml_of(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"'{path}' is not legal YAML{where}; it is broken or truncated") from error
    if not isinstance(value, dict):
        raise UsageError(f"'{path}' holds a {type(value).__name__} where a mapping of settings is expected")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    if not path.exists():
        return {}
    text = read_text(path)
    try:
        value = json_of(text)
    except ValueError as error:
        raise UsageError(f"'{path}' is not legal JSON ({error}); it is broken or truncated") from error
    if not isinstance(value, dict):
        raise UsageError(f"'{path}' holds a {type(value).__name__} where a JSON object is expected")
    return value


def read_metrics(path: Path, *, finished: bool) -> list[dict[str, Any]]:
    """Read one JSON object per line; only a run in progress may have a last line cut short."""
    if not path.exists():
        if finished:
            raise UsageError(f"'{path}' is missing although the run has a summary")
        return []
    text = read_text(path)
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json_of(line)
        except ValueError as error:
            if number == len(lines) and not finished and not text.endswith("\n"):
                break
            raise UsageError(f"'{path}' line {number} is not legal JSON; the file is broken or truncated") from error
        if not isinstance(value, dict):
            raise UsageError(f"'{path}' line {number} holds a {type(value).__name__} where a JSON object is expected")
        found.append(value)
    return found


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file in float64; a missing file is nothing."""
    if not path.exists():
        return {}
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"'{path}' is no legal safetensors file; it is broken or truncated") from error
    return {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays behind the figures, flattened; a missing file is none of them."""
    curves = {name: array.reshape(-1) for name, array in read_arrays(path).items()}
    pairs = [("slice_x", "slice_exact"), ("slice_x", "slice_network")]
    pairs += [(name, name.removesuffix("before") + "after") for name in curves if name.endswith("/before")]
    for first, second in pairs:
        if first in curves and second in curves and len(curves[first]) != len(curves[second]):
            sizes = f"{len(curves[first])} and {len(curves[second])}"
            raise UsageError(f"'{path}' has {sizes} numbers in '{first}' and '{second}', which should be equal")
    return curves


def check(row: Row, path: Path) -> None:
    """Refuse a summary whose fields have the wrong kind."""
    if not isinstance(row.get("parameters", {}), dict):
        raise UsageError(f"the summary of '{path}' has parameters {row['parameters']!r} where a mapping is expected")
    for key in ("error", "loss", "fresh", "seconds", "steps", "trained", "total"):
        value = row.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"the summary of '{path}' has {key} {value!r} where a number is expected")


def finite(row: dict[str, Any], key: str) -> float | None:
    """Return a number of a row if it is there and finite.

    >>> finite({"error": 0.5}, "error"), finite({"error": float("nan")}, "error"), finite({}, "error")
    (0.5, None, None)
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def drawable(value: float) -> bool:
    """Whether a logarithmic axis can show a value without overflow."""
    return 1e-99 < value < 1e99


def layers(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the singular values of each layer: path -> (before, after)."""
    found = {}
    for name, before in run.curves.items():
        if name.startswith("singular/") and name.endswith("/before"):
            path = name.removeprefix("singular/").removesuffix("/before")
            after = run.curves.get(f"singular/{path}/after")
            if after is not None:
                found[path] = (before, after)
    return dict(sorted(found.items()))


def series(metrics: list[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the evaluations where both numbers are finite and y fits a logarithmic axis: x (N,), y (N,)."""
    pairs = [(finite(line, x), finite(line, y)) for line in metrics]
    kept = [(a, b) for a, b in pairs if a is not None and b is not None and drawable(b)]
    values = np.asarray(kept, dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def variant(settings: Any) -> str:
    """Write settings without what may differ between repetitions of one experiment."""

    def essential(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): essential(item) for key, item in value.items() if key not in INCIDENTAL}
        return [essential(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(essential(settings), sort_keys=True, default=str)
