"""`show` and `compare`: the pages of runs that are there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lissome import report
from lissome._errors import UsageError
from lissome._files import check_room
from lissome.report.comparison import again, expanded, is_comparison, listed
from lissome.report.incontext import incontext_page, incontext_row
from lissome.report.incontext_files import is_incontext
from lissome.report.language import language_page, language_row
from lissome.report.language_files import check_begun, is_language
from lissome.report.read import TABLE, Run, go_on, read_run, under_way
from lissome.report.stream import is_stream, stream_page, stream_row
from lissome.report.table_page import table_page, table_row


class _Kind(NamedTuple):
    """A kind of run with a page of its own.

    Attributes:
        holds: whether a directory is one.
        page: draws it.
        row: what is told of it.
        apart: what it is, where `compare` does not take it.
    """

    holds: Callable[[Path], bool]
    page: Callable[[Path], Path]
    row: Callable[[Run], dict[str, Any]]
    apart: str = ""


KINDS = (
    _Kind(
        lambda run: (run / TABLE).is_file(),
        table_page,
        table_row,
        "a fit of a table, which has errors of its own kind; `lissome show` draws it",
    ),
    _Kind(is_language, language_page, language_row),
    _Kind(
        is_incontext, incontext_page, incontext_row, "a run of `lissome icl train`, which has a page of its own kind"
    ),
    _Kind(is_stream, stream_page, stream_row, "a stream, which has a page of its own kind; `lissome show` draws it"),
)


def show(run: str | Path) -> list[dict[str, Any]]:
    """Draw the page of a run or comparison again; return its rows.

    Raises:
        UsageError: the directory holds no run, or an adaptation of which nothing is there to draw, or a benchmark,
            replication or choice of ranks, which draw their own pages; or a file in it is broken.
    """
    run = Path(run)
    if not run.is_dir():
        raise UsageError(f"there is no run directory '{run}'; name a run, or a directory that holds runs")
    _check_kind(run)
    if own := _kind(run):
        own.page(run)
        return [own.row(read_run(run))]
    begun = sorted(place.parent for place in run.glob("*/*/settings.yaml"))
    if is_comparison(run):
        _again(run)
        return _rows(run)
    if begun and not (run / "metrics.jsonl").exists():  # an adaptation that was killed before it drew its page
        report.compare(begun, run)
        return _rows(run)
    whole = read_run(run)
    if "run" in whole.settings and not whole.metrics and not _is_cell(run):
        left = under_way(run) or f"no cell has begun; {go_on(run)}"
        raise UsageError(f"there is nothing to draw in '{run}' yet: {left}")
    report.page(run)
    return [whole.row()]


def compare(runs: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[dict[str, Any]]:
    """Put runs on one page in `out`; return the rows.

    Raises:
        UsageError: a directory holds no run, or has a page of its own kind, or a file in it is broken; or `out` holds
            something, but for an earlier page of `compare`.
    """
    out = Path(out)
    _check_free(out)
    for run in runs:
        _check_kind(Path(run))
        if (own := _kind(Path(run))) and own.apart:
            raise UsageError(f"'{run}' is {own.apart}")
    if any(is_language(path) for path in expanded(runs)):
        report.language_comparison(expanded(runs), out, title)
    else:
        report.compare(runs, out, title)
    return _rows(out)


def _kind(run: Path) -> _Kind | None:
    return next((kind for kind in KINDS if kind.holds(run)), None)


def _again(out: Path) -> None:
    """Compare again the runs of a page of runs."""
    runs, title = listed(out)
    if any(map(is_language, runs)):
        report.language_comparison(runs, out, title)
    else:
        again(out)


def _check_kind(run: Path) -> None:
    """Refuse what has a page of its own kind."""
    if (run / "cells.jsonl").exists():
        page = run / "index.html"
        raise UsageError(f"'{run}' is a benchmark or a replication: its page is {page}, and --resume draws it again")
    if (run / "ranks.json").exists():
        raise UsageError(
            f"'{run}' is a choice of ranks: its page is {run / 'index.html'}, its figures are in ranks.json"
        )
    if (run / "diagnosis.json").exists():
        page = run / "index.html"
        raise UsageError(f"'{run}' is a diagnosis: its page is {page}, its figures are in diagnosis.json")
    if (run / "settings.yaml").is_file() and "solve" in read_run(run).settings:
        raise UsageError(f"'{run}' is a stopped diagnosis: `lissome pde diagnose --resume --out {run}` begins again")
    check_begun(run)
    if (run / "weighed").is_dir():
        raise UsageError(
            f"'{run}' is a choice of ranks that was stopped: `lissome lm ranks --resume --out {run}` goes on"
        )


def _is_cell(run: Path) -> bool:
    """Say whether a run of an adaptation is one of its cells, target/method below it."""
    return (run.resolve().parent.parent / "settings.yaml").is_file()


def _check_free(out: Path) -> None:
    """Refuse to write over a run, an adaptation or a person's files; a page of runs can always be made again."""
    check_room(out)
    page = is_comparison(out) and not (out / "settings.yaml").exists()
    if out.exists() and not page and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and is no page of compared runs; name another directory by --out")


def _rows(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "comparison.json").read_text(encoding="utf-8"))["rows"]
