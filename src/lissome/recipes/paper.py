"""What a paper's replication is made of: cells to run, claims with their evidence, tables, figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from pydantic import Field

from lissome._errors import RunError, UsageError
from lissome.recipes.settings import Strict

Row = dict[str, Any]
Tick = Callable[[], None]


class ReplicateSettings(Strict):
    """`lissome replicate`: which paper, on what, how often."""

    paper: str = Field(description="name of the paper")
    data: list[str] = Field(default=[], description="files of data; none takes those that need no file")
    seeds: int | None = Field(default=None, ge=1, description="repetitions; null is the paper's own, 5 or 3")
    quick: bool = Field(default=False, description="a look in less than a minute")
    scale: bool = Field(default=False, description="larger models, longer inputs, more contestants; hours")


def no_data(settings: ReplicateSettings) -> None:
    """Refuse files of data for a paper that has none.

    Raises:
        UsageError: some were given.
    """
    if settings.data:
        raise UsageError(f"{settings.paper} reads no data, and '{settings.data[0]}' was given; leave out --data")


def kept(path: Path) -> Path:
    """Return the path of what an earlier cell has left.

    Raises:
        RunError: it has left nothing.
    """
    if not path.is_file():
        raise RunError(f"'{path}' is missing, on which later cells rest; run the whole in a new directory")
    return path


def of(rows: Sequence[Row], part: str | None = None, **wanted: Any) -> list[Row]:
    """Return the rows, of a part if one is named, in which all these things are so."""
    wanted |= {} if part is None else {"part": part}
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


@dataclass(frozen=True)
class Cell:
    """One run: its name, unique within the paper, what `Paper.run` is called with (plain values), whom it follows."""

    name: str
    arguments: Mapping[str, Any]
    after: str = ""


class Ratio(NamedTuple):
    """One cell: its seed, the ratio or None where there is none, and whether one side is known to be more alone."""

    seed: int
    value: float | None
    capped: bool = False


class Spread(NamedTuple):
    """A geometric mean over cells, its least and greatest over seeds; cells that were capped, and those left out."""

    mean: float
    low: float
    high: float
    cells: int
    capped: int
    left_out: int

    def __str__(self) -> str:
        """Return it as `0.723 (0.70 to 0.75 over seeds; 33 cells, 2 at the cap, 1 more reached by neither)`."""
        lost = f", {self.capped} at the cap" if self.capped else ""
        lost += f", {self.left_out} more reached by neither" if self.left_out else ""
        low, high = (f"{end:.2f}" if 0.1 <= end < 1e4 else f"{end:.2g}" for end in (self.low, self.high))
        return f"{self.mean:.3g} ({low} to {high} over seeds; {self.cells} cells{lost})"


def spread(ratios: Sequence[Ratio]) -> Spread | None:
    """Summarise ratios.

    >>> str(spread([Ratio(0, 1.0), Ratio(1, 4.0, True), Ratio(1, None, True)]))
    '2 (1.00 to 4.00 over seeds; 2 cells, 1 at the cap, 1 more reached by neither)'
    """
    legal = [(ratio.seed, ratio.value) for ratio in ratios if ratio.value is not None]
    if not legal:
        return None
    means = [statistics.geometric_mean([v for s, v in legal if s == seed]) for seed in {seed for seed, _ in legal}]
    capped = sum(ratio.capped for ratio in ratios if ratio.value is not None)
    whole = statistics.geometric_mean([value for _, value in legal])
    return Spread(whole, min(means), max(means), len(legal), capped, len(ratios) - len(legal))


@dataclass(frozen=True)
class Claim:
    """A sentence, where it stands, the ratio that it speaks of, and the bounds within which it is shown."""

    says: str
    source: str
    what: str
    found: Spread | None
    least: float = 0.0
    most: float = math.inf

    @property
    def verdict(self) -> str:
        """`shown`, `not shown`, or `not measured`."""
        if self.found is None:
            return "not measured"
        return "shown" if self.least <= self.found.mean <= self.most else "not shown"

    @property
    def evidence(self) -> str:
        """The ratio, its spread and its bounds in one line."""
        bounds = [f"at least {self.least:g}"] if self.least else []
        bounds += [f"at most {self.most:g}"] if math.isfinite(self.most) else []
        return f"{self.what}: {self.found or 'no cell to compare'}, wanted {' and '.join(bounds)}"

    def told(self) -> Row:
        """Return the claim as JSON."""
        found = self.found._asdict() if self.found else None
        return {
            "says": self.says,
            "source": self.source,
            "verdict": self.verdict,
            "what": self.what,
            "found": found,
            "least": self.least,
            "most": self.most if math.isfinite(self.most) else None,
        }


@dataclass(frozen=True)
class Sheet:
    """A table of texts, and what is said below it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self, *, folded: bool = False) -> str:
        """Return the table as Markdown, a heading above it, or folded below its title."""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        note = self.note.replace("*", r"\*")
        table += f"\n{note}\n" if note else ""
        if folded:
            return f"<details>\n<summary>{escape(self.title)}</summary>\n\n{table}\n</details>\n"
        return f"## {self.title}\n\n{table}"

    def html(self) -> str:
        """Return the table as HTML."""
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in self.heads)
        body = "".join(_line(row) for row in self.rows)
        note = f'<p class="lead">{escape(self.note)}</p>' if self.note else ""
        table = f'<table class="lines"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div class="wide">{table}</div>{note}'

    def told(self) -> Row:
        """Return the table as JSON."""
        return {"title": self.title, "heads": list(self.heads), "rows": [list(row) for row in self.rows]}


def _line(row: Sequence[str]) -> str:
    first, *rest = (escape(text) for text in row)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in rest)}</tr>'


@dataclass(frozen=True)
class Drawn:
    """A figure with its file's name and its caption."""

    name: str
    figure: Figure | None
    caption: str


@dataclass(frozen=True)
class Paper:
    """A title page.

    Attributes:
        arxiv: its number.
        title: its title.
        symbols: the paper's symbols -> ours.
        cells: settings -> what is to be run; refuses data that cannot be read.
        run: (tick, place, arguments of a cell) -> its figures as JSON; it calls `tick` often, which raises to stop.
            What it keeps in the directory `place` is there again when it is resumed.
        claims, tables, drawings: from the rows that are known.
        notes: what a reader should know beside the numbers.
        scales: whether `cells` knows a larger look.
    """

    arxiv: str
    title: str
    symbols: Mapping[str, str]
    cells: Callable[[ReplicateSettings], list[Cell]]
    run: Callable[..., Row]
    claims: Callable[[Sequence[Row]], list[Claim]]
    tables: Callable[[Sequence[Row]], list[Sheet]]
    drawings: Callable[[Sequence[Row]], list[Drawn]]
    notes: Sequence[str] = field(default=())
    scales: bool = False
