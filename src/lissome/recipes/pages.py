"""`show` and `compare`: the pages of runs that are there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissome import report
from lissome.report.comparison import again, is_comparison
from lissome.report.read import read_run


def show(run: str | Path) -> list[dict[str, Any]]:
    """Draw the page of a run or comparison again; return its rows.

    Raises:
        UsageError: the directory holds no run, or a file in it is broken.
    """
    run = Path(run)
    begun = sorted(place.parent for place in run.glob("*/*/settings.yaml"))
    if is_comparison(run):
        again(run)
        return _rows(run)
    if begun and not (run / "metrics.jsonl").exists():  # an adaptation that was killed before it drew its page
        return compare(begun, run)
    report.page(run)
    return [read_run(run).row()]


def compare(runs: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[dict[str, Any]]:
    """Put runs on one page in `out`; return the rows.

    Raises:
        UsageError: a directory holds no run, or a file in it is broken.
    """
    out = Path(out)
    report.compare(runs, out, title)
    return _rows(out)


def _rows(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "comparison.json").read_text(encoding="utf-8"))["rows"]
