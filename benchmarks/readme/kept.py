"""Results that are kept: what a file holds, and where its numbers are from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    """Return a file of results; an empty record where it is not there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"name": name, "cells": {}}


def cell(name: str, title: str) -> dict[str, Any]:
    """Return a cell of a file of results.

    Raises:
        LookupError: the file has no such cell.
    """
    cells = load(name)["cells"]
    if title not in cells:
        raise LookupError(f"{name}.json has no cell '{title}'; it has: {', '.join(cells) or 'none'}")
    return cells[title]


def link(file: str, prefix: str = "benchmarks/results/") -> str:
    """Return a link to a file of results, named as it is without its ending."""
    return f"[{file.rpartition('.')[0]}]({prefix}{file})"


def stamp(name: str, prefix: str = "benchmarks/results/") -> str:
    """Return where a file of races or trainings is from: command, dates, machine, commit or digest of code."""
    cells = load(name)["cells"].values()
    days = sorted({one["date"][:10] for one in cells})
    threads = sorted({one["machine"]["threads"] for one in cells})
    told = [
        f"`python -m benchmarks {name}`",
        " to ".join(dict.fromkeys((days[0], days[-1]))),
        some(one["machine"]["cpu"].replace("(R)", "") for one in cells),
        " and ".join(map(str, threads)) + (" thread" if threads == [1] else " threads"),
        "torch " + some(one["machine"]["torch"] for one in cells),
        origin(list(cells)),
    ]
    return f"{link(f'{name}.json', prefix)}: {', '.join(told)}"


def origin(cells: list[dict[str, Any]]) -> str:
    """Return the commits of cells, or the digests of the code that was timed where no commit is kept."""
    commits = [one["commit"] for one in cells if one.get("commit")]
    return f"commit {some(commits)}" if commits else f"code {some(one['source'] for one in cells)}"


def some(names: Iterable[str]) -> str:
    """Return different names in order; of more than two the first and how many others.

    >>> some(["a", "b", "a"]), some("abcd")
    ('a and b', 'a and 3 more')
    """
    found = list(dict.fromkeys(names))
    return " and ".join(found) if len(found) < 3 else f"{found[0]} and {len(found) - 1} more"


def sources(lines: Iterable[str], summary: str = "Where these numbers are from") -> str:
    """Return small print, folded: a line each where it is shown, one line of the page."""
    return f"<details><summary>{summary}</summary>\n\n{'<br>'.join(lines)}\n\n</details>"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    heads = tuple(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ("---",) * len(heads), *rows))
