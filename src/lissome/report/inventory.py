"""The page of all runs below a directory, and its table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from rich.table import Table

from lissome._errors import UsageError
from lissome._files import write
from lissome.report.document import document
from lissome.report.language import decimal
from lissome.report.listing import blocks
from lissome.report.numerals import ABSENT, count, quantity, seconds, share
from lissome.report.read import Row

SIGNATURE = "Written by Lissome; a run's name leads to its page."
SHOWN = 12  # runs below another that stand in the table; of more, one line opens them
WIDE, HIGH = 84, 22  # of a course, in pixels
HEADS = ("run", "what", "main figure", "course", "trained", "seconds", "begun", "state")
WRITTEN = {
    "perplexity": decimal,
    "claims shown": lambda part: share(part, 1.0),
    "cells done": lambda part: share(part, 1.0),
}


@dataclass(frozen=True)
class Entry:
    """A run as the page tells it.

    Attributes:
        path: as seen from the directory of the page.
        parent: path of the run that it is a part of, or None.
        kind: the verb that makes such a run, without `lissome`.
        what: equation, task or model.
        figure: name of the main figure, or None.
        value: that figure.
        trained: numbers.
        seconds: in training.
        begun: when, as YYYY-MM-DDThh:mm:ss and the zone where that is known.
        state: finished, failed, running, unfinished or damaged.
        checkpoint: whether there is one.
        page: path of its page, or None.
        problem: why it failed, or what is damaged, or None.
        course: the main figure along the training, thinned.
    """

    path: str
    parent: str | None
    kind: str
    what: str
    figure: str | None
    value: float | None
    trained: int | None
    seconds: float | None
    begun: str
    state: str
    checkpoint: bool
    page: str | None
    problem: str | None
    course: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The path, as seen from its parent."""
        return self.path if self.parent is None else self.path.removeprefix(f"{self.parent}/")

    def told(self) -> Row:
        """Return it as JSON."""
        return {key: value for key, value in asdict(self).items() if key != "course"}


def inventory_page(directory: Path, entries: Sequence[Entry]) -> Path:
    """Write index.html of a directory that holds runs; return its path.

    Args:
        directory: what holds them.
        entries: in the order of the page, each after its parent.

    Raises:
        UsageError: there is an index.html that is not of this kind.
    """
    path = directory / "index.html"
    if path.exists() and SIGNATURE not in path.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"'{path}' is a page of another kind and is not written over; move it, or name one run")
    title = f"Runs in {directory.resolve().name}"
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADS)
    whole = [entry for entry in entries if entry.parent is None]
    body = "".join(_body(entry, _below(entry, entries)) for entry in whole)
    table = f'<table class="lines runs"><thead><tr>{head}</tr></thead>{body}</table>'
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(tally(entries))}</p>',
        f'<div class="wide">{table}</div>',
        f"<footer>{SIGNATURE} <code>lissome show</code> writes it anew.</footer>",
    ]
    return write(path, document(title, "\n".join(parts)))


def inventory_terminal(entries: Sequence[Entry]) -> Table:
    """Return what the terminal shows: each run in two lines, those that are parts of it below it."""
    return blocks((_indented(entry), f"{entry.kind}: {entry.what or entry.name}", (_line(entry),)) for entry in entries)


def _indented(entry: Entry) -> str:
    return entry.name if entry.parent is None else f"  {entry.name}"


def _line(entry: Entry) -> str:
    """Say in one line how far a run is, and with which figures."""
    if entry.problem:
        return f"{state(entry)}: {entry.problem}"
    numbers = "" if entry.trained is None else f"{count(entry.trained)} numbers"
    spent = "" if entry.seconds is None else f"{seconds(entry.seconds)} s"
    figure, value = main(entry)
    told = f"{figure} {value}" if figure else ""
    return ", ".join(filter(None, (state(entry), told, numbers, spent, _day(entry))))


def tally(entries: Sequence[Entry]) -> str:
    """Say how many runs there are, and in which states."""
    states = Counter(entry.state for entry in entries)
    told = ", ".join(f"{states[name]:,} {name}" for name in sorted(states, key=lambda name: (-states[name], name)))
    return f"{len(entries):,} run{'' if len(entries) == 1 else 's'}: {told}."


def main(entry: Entry) -> tuple[str, str]:
    """Write the main figure: its name and its value; no name where there is none."""
    if entry.figure is None or entry.value is None:
        return "", ABSENT
    return entry.figure, WRITTEN.get(entry.figure, quantity)(entry.value)


def state(entry: Entry) -> str:
    """Say how far a run has come."""
    left = entry.checkpoint and entry.state in ("unfinished", "failed")
    return f"{entry.state}, with a checkpoint" if left else entry.state


def course(values: Sequence[float]) -> str:
    """Draw positive numbers as a line on a logarithmic scale, in the ink of the page; nothing of fewer than two.

    >>> course([1.0])
    ''
    >>> course([1.0, 0.1]).count("<polyline")
    1
    """
    if len(values) < 2:
        return ""
    y = np.log(np.asarray(values, dtype=float))
    y = (y - y.min()) / (np.ptp(y) or 1.0)
    x = np.linspace(1, WIDE - 1, len(y))
    points = " ".join(f"{a:.1f},{HIGH - 2 - (HIGH - 4) * b:.1f}" for a, b in zip(x, y, strict=True))
    size = f'width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}"'
    return f'<svg class="course" {size} aria-hidden="true"><polyline points="{points}"/></svg>'


def _below(parent: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Return all that are parts of a run, or of its parts."""
    return [entry for entry in entries if entry.path.startswith(f"{parent.path}/")]


def _body(entry: Entry, below: Sequence[Entry]) -> str:
    """Return a run and its parts as rows; of many the parts open on a click."""
    inside = "".join(map(_row, below))
    if len(below) > SHOWN:
        table = f'<table class="lines runs"><tbody>{inside}</tbody></table>'
        told = f"<details><summary>{len(below):,} runs below it</summary>{table}</details>"
        inside = f'<tr><td colspan="{len(HEADS)}">{told}</td></tr>'
    return f"<tbody>{_row(entry)}{inside}</tbody>"


def _row(entry: Entry) -> str:
    name = escape(entry.name).replace("/", "/<wbr>")
    if entry.page:
        name = f'<a href="{escape(quote(entry.page), quote=True)}">{name}</a>'
    kinds = [*(["below"] if entry.parent else []), *([] if entry.state == "finished" else ["faint"])]
    figure, value = main(entry)
    cells = [
        f"<td>{escape(entry.problem or entry.what)}<small>{escape(entry.kind)}</small></td>",
        f"<td>{escape(value)}<small>{escape(figure)}</small></td>",
        f"<td>{course(entry.course)}</td>",
        f'<td class="number">{count(entry.trained)}</td>',
        f'<td class="number">{seconds(entry.seconds)}</td>',
        f'<td class="day">{_stacked(_day(entry), " ")}</td>',
        f"<td>{_stacked(state(entry), ', ')}</td>",
    ]
    return f'<tr class="{" ".join(kinds)}"><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _stacked(text: str, mark: str) -> str:
    """Return text as HTML, what comes behind the first mark below it in small letters."""
    first, _, rest = map(escape, text.partition(mark))
    return f"{first}<small>{rest}</small>" if rest else first


def _day(entry: Entry) -> str:
    return entry.begun[:16].replace("T", " ") or ABSENT
