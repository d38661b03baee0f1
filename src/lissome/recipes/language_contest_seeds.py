"""Seeds of a contest: which cells they make, who follows whom, and what their figures come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from lissome.recipes.paper import Cell, ReplicateSettings, Row, Spread, of
from lissome.report.numerals import ABSENT

SEEDS = 3
SECONDS = ", seconds of "  # between who is trained for longer and the one whose seconds it is given
Pick = Callable[[Sequence[float]], float]


def seeds(settings: ReplicateSettings) -> range:
    """Return the seeds that are asked for."""
    return range(1 if settings.quick else settings.seeds or SEEDS)


def cell(where: str, **arguments: Any) -> Cell:
    """Return the cell of a label and a seed, after the one that chooses its rate: the same label's in the first seed.

    >>> cell("bytes", label="Kerple, seconds of DAPE", seed=1).after
    'bytes, Kerple, seed 1'
    """
    label, seed = arguments["label"], arguments["seed"]
    plain, longer, _ = label.partition(SECONDS)
    after = f"{where}, {plain}, seed {seed if longer else 0}" if longer or seed else ""
    return Cell(f"{where}, {label}, seed {seed}", arguments, after)


def whole(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that count for a claim: of no quick look, and that did not fail."""
    return [row for row in rows if not row["quick"] and not row["failed"]]


def pairs(rows: Sequence[Row], one: str, other: str) -> list[tuple[Row, Row]]:
    """Return the rows of two labels, seed by seed."""
    return [(a, b) for a in of(rows, label=one) for b in of(rows, label=other, seed=a["seed"])]


def picked(values: Sequence[float], pick: Pick) -> Spread | None:
    """Return the figure that decides, and least and greatest."""
    return Spread(pick(values), min(values), max(values), len(values), 0, 0) if values else None


def written(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Return the mean, and least and greatest where there are several.

    >>> written([0.5, 1.0], "{:.2f}".format)
    '0.75 (0.50 to 1.00)'
    """
    if not values:
        return ABSENT
    middle = write(statistics.mean(values))
    return f"{middle} ({write(min(values))} to {write(max(values))})" if len(values) > 1 else middle


def rates(rows: Sequence[Row], form: str) -> str:
    """Return the rates at which rows were trained."""
    return ", ".join(sorted({form.format(row["rate"]) for row in rows}))
