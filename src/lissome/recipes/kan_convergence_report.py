"""Tables and figures of two-layer KANs: prediction and measurement by width, drift, spectra, SGD, loss weights."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lissome.recipes.paper import Drawn, Row, Sheet, of
from lissome.report.drawing import INK, blank, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, quantity, seconds

FLOOR, FAR = 1e-17, 1e3  # rounding of numbers near 1, and what has run away: the ends of a logarithmic axis
EARLY = ("regression, d = 1",)  # most of its way is gone in the first steps: drawn against their logarithm
HALF, WHOLE = 1e-5, 1e-10  # of the residual at the start, to which SGD is timed
BY = {"1": "1", "means": "balance of means", "traces": "balance of traces"}


def values(rows: Sequence[Row], key: str) -> list[Any]:
    """Return what a column holds, each once, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def exponent(rows: Sequence[Row]) -> float | None:
    """Return a in drift ~ m^-a, by least squares on logarithms; None of fewer than two widths.

    >>> round(exponent([{"width": m, "drift": 3 / m} for m in (4, 16, 64)]), 6)
    1.0
    """
    found = [(row["width"], row["drift"]) for row in rows if 0 < row["drift"] < math.inf]
    if len({m for m, _ in found}) < 2:
        return None
    m, moved = np.log(np.array(found, dtype=float)).T
    return float(-np.polyfit(m, moved, 1)[0])


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return a table for each part that has rows; spreads are over the seeds."""
    made = [*_widths(rows), _drifts(rows), _stochastic(rows), _spectra(rows), _weights(rows)]
    return [sheet for sheet in made if sheet.rows]


def _widths(rows: Sequence[Row]) -> list[Sheet]:
    heads = ["m", "lambda_max", "lambda_min", "largest gap to the prediction", "loss, measured / predicted",
             "residual / bound, most", "drift of K", "CPU s"]  # fmt: skip
    sheets = []
    for system in values(of(rows, "widths"), "system"):
        here, lines = of(rows, "widths", system=system), []
        for m in sorted(values(here, "width")):
            own = [row for row in here if row["width"] == m]
            keys = ("largest", "smallest", "error", "loss", "over", "drift")
            lines.append([f"{m:,}", *(_told([row[key] for row in own]) for key in keys), _took(own)])
        sheets.append(Sheet(f"{system}: descent at 1 / lambda_max, by width", heads, lines))
    return sheets


def _drifts(rows: Sequence[Row]) -> Sheet:
    lines = []
    for system in values(of(rows, "widths"), "system"):
        here = of(rows, "widths", system=system)
        slopes = [exponent([row for row in here if row["seed"] == seed]) for seed in values(here, "seed")]
        known = [-slope for slope in slopes if slope is not None]
        if known:
            span = f" ({min(known):.2f} to {max(known):.2f})" if len(known) > 1 else ""
            lines.append([system, f"{statistics.mean(known):.2f}{span}"])
    return Sheet("Drift of K against m: slope on logarithmic axes", ["system", "slope"], lines)


def _stochastic(rows: Sequence[Row]) -> Sheet:
    heads = [
        "b",
        "step",
        "eta",
        "eta* / crude",
        f"steps to {HALF:g}",
        f"steps to {WHOLE:g}",
        "residual at the end",
        "CPU s",
    ]
    here, lines = of(rows, "stochastic"), []
    for batch, factor in dict.fromkeys((row["batch"], row["factor"]) for row in here):
        own = [row for row in here if (row["batch"], row["factor"]) == (batch, factor)]
        marks = [_steps([row["reached"][str(mark)] for row in own]) for mark in (HALF, WHOLE)]
        ratio = _told([row["limit"] / row["crude"] for row in own])
        ends = _told([row["end"] for row in own])
        lines.append([str(batch), factor, _told([row["eta"] for row in own]), ratio, *marks, ends, _took(own)])
    note = "The crude rule is 2 / lambda_max times b / n; residuals are over that at the start."
    return Sheet("SGD, d = 5, 50 points, rows drawn with replacement", heads, lines, note)


def _spectra(rows: Sequence[Row]) -> Sheet:
    here, lines = of(rows, "spectra"), []
    for basis, d, n in dict.fromkeys((row["basis"], row["dimension"], row["count"]) for row in here):
        own = of(here, "spectra", basis=basis, dimension=d, count=n)
        ends = [_told([row[key] for row in own]) for key in ("largest", "smallest")]
        lines.append([basis, str(d), str(n), *ends, _told([row["eigenvalues"][-1] for row in own])])
    heads = ["basis", "d", "points", "lambda_max", "lambda_min", "lambda_min / lambda_max"]
    return Sheet("Spectra of K, regression", heads, lines, "Below 1e-15 it is rounding, whose sign says nothing.")


def _weights(rows: Sequence[Row]) -> Sheet:
    here, lines = of(rows, "weights"), []
    for system, by, weight in dict.fromkeys((row["system"], row["by"], row["weight"]) for row in here):
        own = of(here, "weights", system=system, by=by, weight=weight)
        found = [_told([row[key] for row in own]) for key in ("value", "error")]
        lines.append([system, by, BY[weight], *found, _took(own)])
    heads = ["system", "by", "weight", "w_boundary / w_inside", "relative L2 error", "CPU s"]
    return Sheet("Poisson's equation with weighed boundary rows", heads, lines)


def _told(found: Sequence[float]) -> str:
    """Return the median, and least and greatest where there are several."""
    middle = quantity(statistics.median(found))
    return f"{middle} ({quantity(min(found))} to {quantity(max(found))})" if len(found) > 1 else middle


def _steps(found: Sequence[int | None]) -> str:
    known = [step for step in found if step is not None]
    if not known:
        return "not reached"
    lost = f" ({len(found) - len(known)} of {len(found)} not reached)" if len(known) < len(found) else ""
    return f"{statistics.median(known):,.0f}{lost}"


def _took(rows: Sequence[Row]) -> str:
    return seconds(statistics.median(row["seconds"] for row in rows)) if rows else ABSENT


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return all figures of the parts that have rows; curves are of the first seed."""
    drawn = []
    for system in values(of(rows, "widths"), "system"):
        own = [row for row in of(rows, "widths", system=system) if row["seed"] == 0]
        caption = f"{system}: residual predicted at the start (grey) and measured, by m; first seed"
        drawn.append(Drawn(f"residual-{_slug(system)}", _residuals(own), caption))
    drawn.append(Drawn("drift", _drift(of(rows, "widths")), "Drift of K against m, geometric means; slopes beside"))
    largest = max(values(of(rows, "spectra"), "count"), default=0)
    own = [row for row in of(rows, "spectra", count=largest) if row["seed"] == 0]
    drawn.append(Drawn("spectra", _eigenvalues(own), f"Spectra of K at {largest} points, regression; first seed"))
    for batch in values(of(rows, "stochastic"), "batch"):
        own = [row for row in of(rows, "stochastic", batch=batch) if row["seed"] == 0]
        drawn.append(Drawn(f"sgd-{batch}", _descents(own), f"SGD with {batch} of 50 rows a step, d = 5; first seed"))
    caption = "Poisson's equation: error at the end by the weight of the boundary, each seed"
    return [*drawn, Drawn("weights", _errors(of(rows, "weights")), caption)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _clipped(curve: Sequence[float]) -> np.ndarray:
    """Return a curve without what is below rounding or has run away."""
    found = np.array(curve, dtype=float)
    found[(found > FAR) | (found < FLOOR)] = np.nan
    return found


def _residuals(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    styles = palette((f"m = {row['width']:,}", f"m = {row['width']:05}") for row in rows)
    figure, axes = blank()
    early = rows[0]["system"] in EARLY
    for row in sorted(rows, key=lambda row: row["width"]):
        name, curve = f"m = {row['width']:,}", row["curve"]
        steps = np.maximum(curve["step"], 0.5) if early else curve["step"]
        axes.plot(steps, _clipped(curve["predicted"]), color=INK, alpha=0.3, linewidth=4)
        colour, dash = styles[name].colour, styles[name].dash
        axes.plot(steps, _clipped(curve["measured"]), linestyle=dash, color=colour, linewidth=1.5, label=name)
    logarithmic(axes, *("xy" if early else "y"))
    axes.set(xlabel="steps", ylabel="residual, of that at the start")
    legend(figure, axes)
    return figure


def _drift(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    systems = values(rows, "system")
    styles = palette((system, system) for system in systems)
    figure, axes = blank(width=7.4)
    for system in systems:
        own, style = [row for row in rows if row["system"] == system and row["drift"] > 0], styles[system]
        widths = sorted({row["width"] for row in own})
        means = [statistics.geometric_mean(row["drift"] for row in own if row["width"] == m) for m in widths]
        slope = exponent(own)
        name = plain(system if slope is None else f"{system}: slope {-slope:.2f}")
        axes.plot(widths, means, marker=style.marker, linestyle=style.dash, color=style.colour, label=name)
    logarithmic(axes, "x", "y")
    every = sorted(values(rows, "width"))
    axes.set_xticks(every, [f"{m:,}" for m in every])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="width m", ylabel="drift of K, relative")
    legend(figure, axes)
    return figure


def _eigenvalues(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    names = {f"{row['basis']}, d = {row['dimension']}": row["eigenvalues"] for row in rows}
    styles = palette((name, name) for name in names)
    figure, axes = blank()
    for name, found in names.items():
        index = np.arange(1, len(found) + 1)
        line = axes.plot(index, _clipped(found), linewidth=1.6, label=name)
        line[0].set(color=styles[name].colour, linestyle=styles[name].dash)
    logarithmic(axes, "y")
    axes.set(xlabel="index", ylabel="eigenvalue, of the largest")
    legend(figure, axes)
    return figure


def _descents(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    styles = palette((row["factor"], row["factor"]) for row in rows)
    figure, axes = blank()
    for row in rows:
        style, curve = styles[row["factor"]], row["curve"]
        axes.plot(
            curve["step"],
            _clipped(curve["measured"]),
            style.dash,
            color=style.colour,
            label=row["factor"],
            linewidth=1.5,
        )
    logarithmic(axes, "y")
    axes.set(xlabel="steps", ylabel="residual, of that at the start")
    legend(figure, axes)
    return figure


def _errors(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    runs = list(dict.fromkeys((row["system"], row["by"]) for row in rows))
    weights = values(rows, "weight")
    styles = palette((weight, weight) for weight in weights)
    figure, axes = blank(width=7.4)
    for k, weight in enumerate(weights):
        own = [row for row in rows if row["weight"] == weight]
        x = [runs.index((row["system"], row["by"])) + 0.22 * (k - 1) for row in own]
        style = styles[weight]
        y = _clipped([min(row["error"], FAR) for row in own])
        axes.plot(x, y, style.marker, color=style.colour, markersize=6, label=f"weight: {BY[weight]}")
    axes.set_xticks(range(len(runs)), [plain(f"{system}\n{by}") for system, by in runs])
    axes.set_xlim(-0.5, len(runs) - 0.5)
    logarithmic(axes, "y")
    axes.set_ylabel("relative L2 error")
    legend(figure, axes)
    return figure
