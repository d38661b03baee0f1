"""`python -m benchmarks.combinations_figure`: the four combinations from the results kept, light and dark."""

from __future__ import annotations

import json
import pathlib
import statistics

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.combinations import COMBINATIONS, Combination, rows_of
from benchmarks.record import RESULTS

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"
STYLES = {"light": "default", "dark": "dark_background"}
OWN, OTHER = "C0", "C7"


def draw(theme: str) -> None:
    """Draw one panel for each combination: a point for each seed and a line at the mean, a row for each way."""
    cells = json.loads((RESULTS / "combinations.json").read_text())["cells"]
    found = {name: cell["figures"] for name, cell in cells.items()}
    with plt.style.context(STYLES[theme]):
        figure, axes = plt.subplots(2, 2, figsize=(10.4, 5.6), layout="constrained")
        for axis, (name, one) in zip(axes.flat, COMBINATIONS.items(), strict=True):
            _panel(axis, one, [[row[way][one.figure] for row in rows_of(found, name)] for way in one.ways])
        figure.savefig(IMAGES / f"combinations-{theme}.png", dpi=100)
        plt.close(figure)


def _panel(axis: Axes, one: Combination, figures: list[list[float]]) -> None:
    for place, values in enumerate(figures):
        if not values:
            continue
        colour = OTHER if place else OWN
        axis.plot(values, [place] * len(values), "o", color=colour, ms=5, alpha=0.8)
        middle = statistics.geometric_mean(values) if one.ratio else statistics.mean(values)
        axis.plot([middle, middle], [place - 0.32, place + 0.32], color=colour, lw=2)
    axis.set_xscale("log" if one.ratio else "linear")
    axis.set_yticks(range(len(one.ways)), one.ways)
    axis.invert_yaxis()
    axis.set_title(one.title, fontsize=10)
    axis.set_xlabel(f"{one.unit}, less is better", fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", alpha=0.25)


def main() -> None:
    """Draw both."""
    for theme in STYLES:
        draw(theme)


if __name__ == "__main__":
    main()
