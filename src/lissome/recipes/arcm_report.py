"""Tables and figures of minimisations: what each tolerance cost, the gradient's norm, performance profiles.

A performance profile gives, for each t, the share of cells that a method finishes within t times what the best needs
(E. Dolan, J. More 2002, doi 10.1007/s101070100263).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lissome.recipes.paper import Drawn, Row, Sheet
from lissome.report.drawing import Style, blank, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, seconds

TOLERANCES = ("1e-3", "1e-6", "1e-9")
MEASURES = ("rejected", "evaluations", "gradients", "hessians")
NOT = "not reached"
SAID = {"iterations": "iterations", "hessians": "Hessians"}
Place = tuple[str, str, str]


def tables(rows: Sequence[Row], methods: Sequence[str]) -> list[Sheet]:
    """Return for each data, problem and start the costs of each method, medians over the seeds."""
    heads = ["method", *(f"iterations to {t}" for t in TOLERANCES), "rejected", "f", "f and g", "Hessians", "CPU s"]
    sheets = []
    for place in dict.fromkeys(_place(row) for row in rows):
        here = [row for row in rows if _place(row) == place]
        lines = [_line(method, [row for row in here if row["method"] == method]) for method in methods]
        seeds = 1 + max(row["seed"] for row in here)
        told = f", medians of {seeds} seeds" if seeds > 1 else ""
        sheets.append(Sheet(f"{', '.join(place[:2])}, from {place[2]}{told}", heads, [line for line in lines if line]))
    return sheets


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    """Return a method's line: iterations to each tolerance, the rest up to 1e-6."""
    if not rows:
        return []
    costs = [row["reached"]["1e-6"] for row in rows]
    iterations = [_middle([row["reached"][t] for row in rows], "iterations") for t in TOLERANCES]
    took = ABSENT if None in costs else seconds(statistics.median(cost["seconds"] for cost in costs))
    rest = [ABSENT if None in costs else _middle(costs, measure) for measure in MEASURES]
    return [method, *iterations, *rest, took]


def _middle(costs: Sequence[Row | None], measure: str) -> str:
    """Return the median of those that reached it, and how many did not."""
    numbers = [cost[measure] for cost in costs if cost is not None]
    if not numbers:
        return NOT
    lost = f" ({len(costs) - len(numbers)} of {len(costs)} {NOT})" if len(numbers) < len(costs) else ""
    return f"{statistics.median(numbers):g}{lost}"


def drawings(rows: Sequence[Row], methods: Sequence[str]) -> list[Drawn]:
    """Return performance profiles over all cells, and curves from 0 for each data and problem."""
    styles = palette((method, method) for method in methods)
    drawn = [
        Drawn(f"profile-{measure}", profile(rows, measure, styles), f"Share of cells done to 1e-6, by {SAID[measure]}")
        for measure in ("iterations", "hessians")
    ]
    for data, problem, start in dict.fromkeys(_place(row) for row in rows if row["start"] == "0"):
        here = [row for row in rows if _place(row) == (data, problem, start)]
        for number, measure in enumerate(("iterations", "hessians")):
            name = re.sub(r"[^a-z0-9]+", "-", f"{data}-{problem}-{measure}".lower())
            caption = f"{data}, {problem}, from 0: the gradient's norm against {SAID[measure]}"
            drawn.append(Drawn(name, descent(here, number, measure, styles), caption))
    return drawn


def descent(rows: Sequence[Row], number: int, measure: str, styles: dict[str, Style]) -> Figure:
    """Draw the gradient's norm against iterations (number 0) or Hessians (number 1)."""
    figure, axes = blank()
    for row in rows:
        points, style = np.array(row["curve"], dtype=float), styles[row["method"]]
        x, y = np.maximum(points[:, number], 0.5), np.maximum(points[:, 2], 1e-16)  # the start, on a logarithmic axis
        line = axes.plot(x, y, linestyle=style.dash, color=style.colour, label=plain(row["method"]), linewidth=1.6)
        line[0].set(marker=style.marker, markersize=5, markevery=[len(x) - 1])
    logarithmic(axes, "x", "y")
    axes.set(xlabel=SAID[measure], ylabel="gradient norm")
    legend(figure, axes)
    return figure


def profile(rows: Sequence[Row], measure: str, styles: dict[str, Style], at: str = "1e-6") -> Figure | None:
    """Draw the performance profile of those cells that all methods were run on."""
    cells: dict[tuple[Place, int], dict[str, float]] = {}
    for row in rows:
        cost = row["reached"][at]
        cells.setdefault((_place(row), row["seed"]), {})[row["method"]] = cost[measure] if cost else np.inf
    several = max((len(costs) for costs in cells.values()), default=0)
    whole = [costs for costs in cells.values() if len(costs) == several and np.isfinite(min(costs.values()))]
    if several < 2 or not whole:
        return None
    figure, axes = blank()
    for method, style in styles.items():
        if method not in whole[0]:
            continue
        t = np.sort([costs[method] / min(costs.values()) for costs in whole])
        t = t[np.isfinite(t)]
        x, y = np.append(np.repeat(t, 2), 100.0), np.append(np.repeat(np.arange(len(t) + 1), 2)[1:-1], len(t))
        axes.plot(x, y / len(whole), linestyle=style.dash, color=style.colour, label=plain(method), linewidth=1.6)
    axes.set(xlim=(1, 30), ylim=(0, 1.03))
    logarithmic(axes, "x")
    axes.set(xlabel=f"{SAID[measure]} over the best method's", ylabel="share of cells")
    legend(figure, axes)
    return figure


def _place(row: Row) -> Place:
    return row["data"], row["problem"], row["start"]
