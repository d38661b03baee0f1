"""The figures of in-context learning: errors by examples, by iterations, and under shifts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lissome.report.drawing import COLOURS, INK, blank, dress, legend, logarithmic, plain, upright
from lissome.report.incontext_files import Evaluation

MODEL = {"color": COLOURS["svd"], "linewidth": 2.0}
HUES = [COLOURS[name] for name in ("full", "lora-xs", "lora", "pissa")]
DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
LINE: dict[str, Any] = {"color": INK, "alpha": 0.5, "linewidth": 1, "linestyle": (0, (4, 3))}
LOST = "model, not finite"
FLOOR, CEILING = 1e-4, 1e4  # errors beyond are drawn at the edge
NAMES = {
    "scale": "inputs so many times as large",
    "skew": "how fast variances fall",
    "noise": "standard deviation of noise",
}
LEVELS = {"scale": 1.0, "skew": 0.0}  # strengths that change nothing


def by_examples(found: Evaluation) -> Figure:
    """Draw the error by number of examples in context, beside the oracles'."""
    drawn, axes = blank()
    _curves(axes, found.context, found.model, found.oracles, marker="o")  # also of one that stands between gaps
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="examples in context", ylabel="squared error")
    legend(drawn, axes)
    return drawn


def by_iterations(found: Evaluation) -> Figure:
    """Draw the error of the last place by iterations, with the trained number as a line."""
    drawn, axes = blank()
    count = np.arange(1, len(found.iterations) + 1)
    whole = np.isfinite(found.iterations)
    axes.plot(count[whole], kept(found.iterations[whole]), label="model", marker="o", markersize=2.5, **MODEL)
    for (name, each), hue, dash in zip(found.oracles.items(), HUES, DASHES, strict=False):
        if np.isfinite(each[-1]) and each[-1] > FLOOR:
            axes.axhline(each[-1], color=hue, linestyle=dash, linewidth=1.4, label=plain(name))
    logarithmic(axes, "y")
    if found.broken is not None:
        axes.axvspan(found.broken, max(len(found.iterations), found.broken + 0.5), color=INK, alpha=0.08, linewidth=0)
        upright(axes, found.broken, "not finite")
    axes.axvline(found.trained, **LINE)
    upright(axes, found.trained, "trained")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="iterations", ylabel="squared error, last place")
    legend(drawn, axes)
    return drawn


def by_shift(found: Evaluation) -> Figure | None:
    """Draw the error of the last place by the strength of each shift, a panel for each."""
    if not found.shifts:
        return None
    figure = Figure(figsize=({1: 4.6}.get(len(found.shifts), 9.3), 3.1), layout="constrained")
    axes = None
    for number, (kind, each) in enumerate(found.shifts.items()):
        axes = dress(figure.add_subplot(1, len(found.shifts), number + 1, sharey=axes))
        _curves(axes, each.strength, each.model, each.oracles, marker="o")
        if kind in LEVELS:
            axes.axvline(LEVELS[kind], **LINE)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel(NAMES.get(kind, kind))
        if number == 0:
            axes.set_ylabel("error / mean square of y")
    assert axes is not None
    # the panel that has most to name
    legend(figure, max(figure.axes, key=lambda each: len(each.get_legend_handles_labels()[1])))
    return figure


def _curves(axes: Axes, x: np.ndarray, model: np.ndarray, oracles: dict[str, np.ndarray], **look: Any) -> None:
    axes.plot(x, kept(model), label="model", markersize=4, **MODEL, **look)
    if len(lost := x[~np.isfinite(model)]):  # at the top, whatever the range of the rest is
        across = axes.get_xaxis_transform()
        axes.plot(lost, np.full(len(lost), 0.97), "x", label=LOST, transform=across, color=MODEL["color"])
    for (name, each), hue, dash in zip(oracles.items(), HUES, DASHES, strict=False):
        axes.plot(x, kept(each), color=hue, linestyle=dash, linewidth=1.4, label=plain(name))
    logarithmic(axes, "y")


def kept(values: Iterable[float]) -> np.ndarray:
    """Return errors within what is drawn; what is not finite leaves a gap."""
    return np.clip(np.asarray(values, float), FLOOR, CEILING)
