"""Tables and figures of Slim KAN: error or accuracy against parameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from lissome.recipes.paper import Drawn, Row, Sheet
from lissome.report.drawing import blank, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, count

DIGITS, NAMED = "digits", "share named rightly"
FULL_KAN, SLIM, NARROW, MLPS = "full KAN", "Slim KAN", "narrow full KAN", "MLP"
COLOURED = {FULL_KAN: "full", SLIM: "lotra", NARROW: "lora", MLPS: "scratch"}


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return a table for each task, a line for each size."""
    sheets = []
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        seeds = len({row["seed"] for row in here})
        what = NAMED if task == DIGITS else "relative error"
        groups = dict.fromkeys((row["rank"], row["kind"]) for row in here)
        lines = [_line([row for row in here if (row["rank"], row["kind"]) == group]) for group in groups]
        told = f", means of {seeds} seeds" if seeds > 1 else ""
        sheets.append(Sheet(f"{here[0]['name']}: {what}{told}", ["network", "rank", "parameters", what, "rate"], lines))
    return sheets


def worth(row: Row) -> float | None:
    """Return the share of digits named rightly, or the error of a function."""
    if row["error"] is None:
        return None
    return 1 - row["error"] if row["task"] == DIGITS else row["error"]


def _line(rows: Sequence[Row]) -> list[str]:
    row, values = rows[0], [value for value in map(worth, rows) if value is not None]
    sized = "" if not row["rank"] else f"{row['rank']}" if row["kind"] == SLIM else f"as {row['rank']}"
    rates = ", ".join(dict.fromkeys(f"{each['rate']:g}" for each in rows if each["rate"]))
    return [row["kind"], sized or ABSENT, f"{row['numbers']:,}", _told(values, row["task"]), rates or ABSENT]


def _told(values: Sequence[float], task: str) -> str:
    if not values:
        return ABSENT
    if task == DIGITS:
        mean, low, high = (f"{100 * value:.1f}%" for value in (statistics.mean(values), min(values), max(values)))
    else:
        mean, low, high = (f"{value:.2e}" for value in (_mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def _mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if min(values) > 0 else statistics.mean(values)


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return for each task what the networks are worth against their parameters."""
    drawn = []
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task and row["error"] is not None]
        name, what = task.replace(" ", "-"), NAMED if task == DIGITS else "relative error"
        said = here[0]["name"] if here else task
        caption = f"{said}: {what} against parameters, a dot for each seed, lines through their means"
        drawn.append(Drawn(name, _sizes(here, what), caption))
    return drawn


def _sizes(rows: Sequence[Row], what: str) -> Figure | None:
    if not rows:
        return None
    styles = palette(COLOURED.items())
    figure, axes = blank(4.6, 3.3)
    for kind, style in styles.items():
        here = [(row["numbers"], worth(row)) for row in rows if row["kind"] == kind]
        if not here:
            continue
        sizes = sorted({size for size, _ in here})
        middle = statistics.mean if what == NAMED else _mean
        means = [middle([value for each, value in here if each == size and value is not None]) for size in sizes]
        axes.plot(*zip(*here, strict=True), style.marker, color=style.colour, alpha=0.35, markersize=4)
        line = axes.plot(sizes, means, linestyle=style.dash, color=style.colour, linewidth=1.6, label=plain(kind))
        line[0].set(marker=style.marker, markersize=6)
    logarithmic(axes, "x", write=count, crowd=1.8)
    if what == "relative error":
        logarithmic(axes, "y")
    axes.set(xlabel="parameters", ylabel=what)
    legend(figure, axes)
    return figure
