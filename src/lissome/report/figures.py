"""The figures of runs and comparisons, by matplotlib's object interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lissome.report.drawing import INK, Style, blank, dress, legend, logarithmic, plain, whole
from lissome.report.numerals import count

SHOWN = 800  # points of one curve that are drawn
LAYERS = 12  # layers whose singular values are drawn
WIDTHS = {1: 4.6, 2: 9.3, 3: 9.3, 4: 11.0}  # inches of so many panels
PALE = 0.45
DOTTED: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.1}
BAND: dict[str, Any] = {"color": INK, "alpha": 0.25, "linewidth": 6, "solid_capstyle": "round"}


@dataclass(frozen=True)
class Curve:
    """One named curve: x and y of shape (N,)."""

    label: str
    x: np.ndarray
    y: np.ndarray


def thin(curve: Curve) -> Curve:
    """Keep at most SHOWN evenly spaced points, the last among them."""
    if len(curve.x) <= SHOWN:
        return curve
    kept = np.unique(np.linspace(0, len(curve.x) - 1, SHOWN).round().astype(int))
    return Curve(curve.label, curve.x[kept], curve.y[kept])


def progress(
    curves: Sequence[Curve], *, x: str, y: str = "relative L2 error", styles: dict[str, Style]
) -> Figure | None:
    """Draw a positive quantity against steps or seconds, one curve per label; None if nothing is to be seen."""
    curves = [thin(curve) for curve in curves if len(curve.x)]
    if not curves:
        return None
    figure, axes = blank()
    for curve in curves:
        style = styles[curve.label]
        line = axes.plot(
            curve.x, curve.y, linestyle=style.dash, color=style.colour, label=plain(curve.label), linewidth=1.8
        )
        line[0].set(marker=style.marker, markersize=5.5, markevery=[len(curve.x) - 1])
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel=x, ylabel=y)
    if len(curves) > 1:
        legend(figure, axes)
    return figure


def residuals(train: Curve, fresh: Curve, colour: str) -> Figure | None:
    """Draw the loss on the points of training and on fresh points against steps."""
    if not len(train.x) and not len(fresh.x):
        return None
    figure, axes = blank()
    for curve, dash, ink in ((train, "-", colour), (fresh, "--", INK)):
        drawn = thin(curve)
        if len(drawn.x):
            axes.plot(drawn.x, drawn.y, dash, color=ink, label=plain(curve.label), linewidth=1.8)
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="steps", ylabel="residual loss")
    legend(figure, axes)
    return figure


def slices(x: np.ndarray, exact: np.ndarray | None, curves: Sequence[Curve], styles: dict[str, Style]) -> Figure | None:
    """Draw the solution along a line, the exact one as a broad pale band below the networks'."""
    if not curves and exact is None:
        return None
    figure, axes = blank()
    if exact is not None:
        along = np.argsort(x, kind="stable")
        axes.plot(x[along], exact[along], label="exact", **BAND)
    for curve in curves:
        style, along = styles[curve.label], np.argsort(curve.x, kind="stable")
        y = np.clip(curve.y[along], -1e99, 1e99)
        axes.plot(curve.x[along], y, linestyle=style.dash, color=style.colour, linewidth=1.8, label=plain(curve.label))
    if exact is not None and len(exact):
        reach = np.ptp(exact) or 1.0
        low, high = axes.get_ylim()  # a network that failed must not press the others flat
        axes.set_ylim(max(low, exact.min() - reach), min(high, exact.max() + reach))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel="coordinate along the slice", ylabel="solution")
    legend(figure, axes)
    return figure


def spectra(layers: dict[str, tuple[np.ndarray, np.ndarray]], colours: Sequence[str]) -> Figure | None:
    """Draw singular values before and after, a panel and a colour for each layer; at most LAYERS layers."""
    shown = dict(list(layers.items())[:LAYERS])
    if not shown:
        return None
    columns = 4 if len(shown) == 4 else min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTHS[columns], 2.2 * rows + 0.6), layout="constrained")
    axes = None
    for number, (name, (before, after)) in enumerate(shown.items()):
        axes = dress(figure.add_subplot(rows, columns, number + 1))
        for values, ink, alpha in ((before, INK, PALE), (after, colours[number], 1.0)):
            axes.plot(np.arange(1, len(values) + 1), values, "o-", color=ink, alpha=alpha, **DOTTED)
        axes.set_title(plain(name), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if min(before.min(initial=1), after.min(initial=1)) > 0:
            logarithmic(axes, "y")
        if number % columns == 0:
            axes.set_ylabel("singular value")
        if number // columns == rows - 1:
            axes.set_xlabel("index")
    assert axes is not None
    own = set(colours[: len(shown)])
    axes.plot([], [], "o-", color=INK, alpha=PALE, label="before", **DOTTED)
    axes.plot([], [], "o-", color=own.pop() if len(own) == 1 else INK, label="after", **DOTTED)  # of no one panel
    legend(figure, axes)
    return figure


def cost(points: Sequence[Curve], styles: dict[str, Style]) -> Figure | None:
    """Draw the error against the count of trained numbers, one named dot per label."""
    points = [point for point in points if len(point.x)]
    if not points:
        return None
    figure, axes = blank()
    for point in points:
        style = styles[point.label]
        axes.plot(point.x, point.y, style.marker, color=style.colour, markersize=9, label=plain(point.label))
    axes.margins(0.12, 0.18)
    logarithmic(axes, "x", write=count, crowd=1.5)
    logarithmic(axes, "y")
    axes.set(xlabel="trained numbers", ylabel="relative L2 error")
    legend(figure, axes)
    return figure


def overview(names: Sequence[str], points: Sequence[Curve], styles: dict[str, Style]) -> Figure | None:
    """Draw the error of each label over all parameter values; x of a point is the index into names."""
    points = [point for point in points if len(point.x)]
    if not points:
        return None
    figure, axes = blank(width=9.4, height=3.3)
    for point in points:
        style = styles[point.label]
        line = axes.plot(
            point.x, point.y, linestyle=style.dash, color=style.colour, label=plain(point.label), linewidth=1.2
        )
        line[0].set(marker=style.marker, markersize=8)
    logarithmic(axes, "y")
    axes.set_xticks(range(len(names)), [plain(name) for name in names])
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylabel("relative L2 error")
    legend(figure, axes)
    return figure
