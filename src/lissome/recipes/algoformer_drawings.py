"""Figures of AlgoFormer: the error by model, and by iterations to four times the trained number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lissome.recipes.algoformer_claims import LAST, error, finite
from lissome.recipes.algoformer_names import (
    ADDED,
    ALGO,
    AS_LONG,
    CUT,
    DEEP,
    LOOPED,
    NONE,
    NORMED,
    PLAIN,
    TRIALS,
)
from lissome.recipes.paper import Drawn, Row, of
from lissome.report.drawing import INK, Style, dress, legend, logarithmic, palette, plain

COLOURED = {PLAIN: "full", AS_LONG: "lora", DEEP: "pissa", LOOPED: "last", ALGO: "svd", ADDED: "lora-xs",
            NONE: "svd", NORMED: "lotra", CUT: "scratch"}  # fmt: skip
WIDTH, CEILING = 9.3, 1e3
PARTS = {"representation": "hidden representation, linear attention", "linear": "linear regression, softmax"}


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return both figures; those without rows are empty."""
    return [
        Drawn("models", _models(rows), "Squared error at the last place; dots are seeds, bars their medians, vertical "
              "lines what statistics makes of the same examples"),
        Drawn("iterations", _iterations(rows), "Squared error at the last place by iterations, to four times the "
              "trained number (dashed line); medians over seeds, thin lines are seeds; a line ends where its error is "
              f"not finite, and errors above {CEILING:,.0f} are drawn there"),
    ]  # fmt: skip


def known(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the rows of a task that have an error."""
    return [row for row in of(rows, part) if "last" in row]


def _styles() -> dict[str, Style]:
    return palette(COLOURED.items())


def _parts(rows: Sequence[Row]) -> list[str]:
    return [part for part in TRIALS if known(rows, part)]


def _models(rows: Sequence[Row]) -> Figure | None:
    parts = _parts(rows)
    if not parts:
        return None
    figure, styles = Figure(figsize=(WIDTH, 2.9), layout="constrained"), _styles()
    for place, part in enumerate(parts):
        axes, here = dress(figure.add_subplot(1, len(parts), place + 1)), known(rows, part)
        names = [label for label in TRIALS[part].contestants if of(here, label=label)][::-1]
        for y, label in enumerate(names):
            found = [min(error(row, LAST), CEILING) for row in of(here, label=label)]
            axes.plot(found, [y] * len(found), "o", color=styles[label].colour, alpha=0.55, markersize=5)
            axes.plot(statistics.median(found), y, "|", color=styles[label].colour, markersize=14, markeredgewidth=2)
        for (name, each), dash in zip(here[0]["oracles"].items(), ("--", ":"), strict=False):
            if each[-1] > 1e-6:
                axes.axvline(each[-1], color=INK, linestyle=dash, linewidth=1, alpha=0.7, label=plain(name))
        axes.set_yticks(range(len(names)), [plain(label) for label in names])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(-0.6, len(names) - 0.4), xlabel="squared error")
        axes.set_title(PARTS[part], fontsize=9, color=INK)
        logarithmic(axes, "x")
    legend(figure, figure.axes[0])
    return figure


def _iterations(rows: Sequence[Row]) -> Figure | None:
    looped = [row for part in TRIALS for row in known(rows, part)
              if row["iterations"] > 1 and row["label"] != CUT]  # fmt: skip
    parts = _parts(looped)
    if not parts:
        return None
    figure, styles = Figure(figsize=(WIDTH, 3.4), layout="constrained"), _styles()
    for place, part in enumerate(parts):
        axes, here = dress(figure.add_subplot(1, len(parts), place + 1)), of(looped, part)
        for label in TRIALS[part].contestants:
            _curve(axes, of(here, label=label), styles[label], label)
        axes.axvline(here[0]["iterations"], color=INK, linestyle="--", linewidth=1, alpha=0.6)
        axes.set(xlabel="iterations", ylabel="" if place else "squared error")
        axes.set_title(PARTS[part], fontsize=9, color=INK)
        logarithmic(axes, "y")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _curve(axes: Axes, rows: Sequence[Row], style: Style, label: str) -> None:
    if not rows:
        return
    each = [[finite(found) for found in row["by iterations"]] for row in rows]
    count = range(1, len(each[0]) + 1)
    for one in each:
        axes.plot(count, _drawn(one), color=style.colour, linewidth=0.6, alpha=0.45)
    middle = [statistics.median(values) for values in zip(*each, strict=True)]
    axes.plot(count, _drawn(middle), color=style.colour, linestyle=style.dash, linewidth=1.8, label=plain(label))


def _drawn(values: Sequence[float]) -> list[float]:
    return [min(value, CEILING) if math.isfinite(value) else math.nan for value in values]
