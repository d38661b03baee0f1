"""The tables of a benchmark: who leads, who is better than whom, and the errors behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lissome.recipes.bench_board import BUDGETS, Board
from lissome.recipes.paper import Sheet
from lissome.recipes.standings import Scatter, scatters, wins
from lissome.report.listing import fewer, seeded
from lissome.report.numerals import ABSENT, count, quantity
from lissome.report.numerals import seconds as in_seconds

Row = dict[str, Any]
BEST = 10  # contestants in the table of wins
LEAST = "* The least error of the member."
SPREAD = (
    "An error is the geometric mean over the seeds that have one; behind x/ is the factor by which a seed is usually "
    f"above or below it, the exponential of the standard deviation of logarithms. {LEAST}"
)


def sheets(board: Board, own: Sequence[Row]) -> list[Sheet]:
    """Return the tables of one budget that all see; `own` is its leaderboard."""
    targets = list(dict.fromkeys(target for _, target in board.errors))
    heads = ["place", "adapter, optimizer", "mean rank", "best", "within 2x", "times the best", *targets]
    failed = any(row["failed"] for row in own)
    heads += ["seeds", "trained", "seconds", *(["failed"] if failed else [])]
    lines = [
        [
            str(row["place"]),
            row["contestant"],
            f"{row['rank']:.1f}" + (f" ({row['rank_low']:.1f} to {row['rank_high']:.1f})" if row["seeds"] > 1 else ""),
            f"{row['wins']} of {row['members']}",
            f"{row['within_twice']} of {row['members']}",
            quantity(row["factor"]),
            *(f"{row['ranks'][target]:.1f}" if target in row["ranks"] else ABSENT for target in targets),
            seeded(row),
            f"{row['trained_share']:.0%}",
            in_seconds(row["seconds"]),
            *([str(row["failed"] or "")] if failed else []),
        ]
        for row in own
    ]
    leaderboard = Sheet(f"Leaderboard, {BUDGETS[board.budget]}: mean ranks", heads, lines, fewer(own))
    return [leaderboard, _winning(board), _members(board)]


def _winning(board: Board) -> Sheet:
    """Return how often a line's contestant is below a column's."""
    names = [each.name for each in board.found[:BEST]]
    table = wins(board.errors, names)
    lines = [
        [f"{i + 1}. {name}", *(f"{won} of {both}" if i != j else "" for j, (won, both) in enumerate(table[i]))]
        for i, name in enumerate(names)
    ]
    return Sheet(
        "Members on which a line is better than a column", ["", *(f"{i + 1}." for i in range(len(names)))], lines
    )


def _members(board: Board) -> Sheet:
    """Return the error of each adapter by its best optimizer, for each member."""
    adapters = list(dict.fromkeys(board.adapters[each.name] for each in board.found))
    lines = []
    for (family, target), own in board.errors.items():
        best, least = board.best(own), min(own.values())
        known = {adapter: name for adapter, name in best.items() if math.isfinite(own[name])}
        told = {
            adapter: f"{_error(own[name])} {name.partition(', ')[2]}{' *' if own[name] == least else ''}"
            for adapter, name in known.items()
        }
        lines.append([family, target, *(told.get(adapter, ABSENT) for adapter in adapters)])
    return Sheet("Errors of each adapter with its best optimizer", ["family", "member", *adapters], lines, LEAST)


def folded(board: Board) -> list[Sheet]:
    """Return, for each family, the errors of all contestants and their spread; none where there is one seed."""
    found = scatters(board.rows)
    if max(each.seeds for own in found.values() for each in own.values()) < 2:
        return []
    told = {
        block: {name: _scatter(each, min(board.errors[block].values())) for name, each in own.items()}
        for block, own in found.items()
    }
    out = []
    for family in dict.fromkeys(family for family, _ in found):
        members = [told[block] for block in found if block[0] == family]
        lines = [
            [adapter, rest, *(own.get(each.name, ABSENT) for own in members)]
            for each in board.found
            for adapter, _, rest in [each.name.partition(", ")]
            if any(each.name in own for own in members)
        ]
        heads = ["adapter", "optimizer", *(target for name, target in found if name == family)]
        out.append(
            Sheet(f"{family}, {BUDGETS[board.budget]}: errors and their spread over seeds", heads, lines, SPREAD)
        )
    return out


def starts(rows: Sequence[Row]) -> Sheet:
    """Return how well the networks that are adapted solve their own member."""
    lines = [
        [family, str(len(own)), _error(_mean([row["error"] for row in own])), in_seconds(_median(own))]
        for family in dict.fromkeys(row["family"] for row in rows)
        for own in [[row for row in rows if row["family"] == family]]
    ]
    return Sheet("The networks that are adapted", ["family", "seeds", "error", "seconds"], lines)


def abreast(rows: Sequence[Row]) -> Sheet:
    """Return how much faster a step of Adam for many members is at once."""
    heads = ["family", "members", "points of each", "one after another, ms", "at once, ms", "times faster"]
    lines = [
        [
            row["family"],
            str(row["members"]),
            count(row["points"]),
            *(in_seconds(row[key]) for key in ("alone", "together")),
            f"{row['ratio']:.2f}" if row["ratio"] else f"cannot be: {row['failed']}",
        ]
        for row in rows
    ]
    return Sheet("Members adapted at once, a step of Adam", heads, lines)


def _median(rows: Sequence[Row]) -> float | None:
    took = [row["seconds"] for row in rows if row["seconds"] is not None]
    return statistics.median(took) if took else None


def _mean(values: Sequence[float | None]) -> float:
    return statistics.geometric_mean(value for value in values if value) if all(values) else math.inf


def _scatter(each: Scatter, least: float) -> str:
    told = _error(each.mean) + (f" x/ {each.factor:.{2 if each.factor < 10 else 0}f}" if each.factor else "")
    told += " *" if each.mean == least and not each.failed else ""
    return told + (f", {each.failed} of {each.seeds} failed" if each.failed else "")


def _error(value: float) -> str:
    return quantity(value if math.isfinite(value) else None)
