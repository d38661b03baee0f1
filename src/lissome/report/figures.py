"""Figures: matplotlib's object interface, drawn to SVG that takes its ink from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from lissome.report.numerals import power

INK = "#010203"  # replaced by the colour of the page's text
# Okabe and Ito's colours, told apart by colour-blind eyes (jfly.uni-koeln.de/color), without yellow: it fades on white.
COLOURS = {
    "svd": "#0072B2",
    "lora": "#E69F00",
    "lora-xs": "#009E73",
    "pissa": "#CC79A7",
    "last": "#56B4E9",
    "full": "#D55E00",
    "scratch": "#8C8C8C",
}
MARKERS = {"svd": "o", "lora": "s", "lora-xs": "^", "pissa": "D", "last": "v", "full": "P", "scratch": "X"}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
SHOWN = 800  # points of one curve that are drawn
LAYERS = 12  # layers whose singular values are drawn


@dataclass(frozen=True)
class Curve:
    """One named curve: x and y of shape (N,)."""

    label: str
    method: str
    x: np.ndarray
    y: np.ndarray


def palette(methods: Iterable[str]) -> dict[str, str]:
    """Give every method its colour: known ones always the same, others what is left.

    >>> palette(["svd", "mine"])["svd"]
    '#0072B2'
    """
    names = sorted(set(methods))
    free = [colour for name, colour in COLOURS.items() if name not in names] or list(COLOURS.values())
    strange = [name for name in names if name not in COLOURS]
    return {name: COLOURS[name] for name in names if name in COLOURS} | {
        name: free[index % len(free)] for index, name in enumerate(strange)
    }


class Powers(LogFormatter):
    """Ticks of a logarithmic axis as plain text, 10⁻³; in between only where the axis is short."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write the tick at x, or nothing."""
        return power(x) if super().__call__(x, pos) else ""


def blank(width: float = 4.6, height: float = 3.1) -> tuple[Figure, Axes]:
    """Return an empty figure with one frameless, lightly ruled pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, dress(figure.add_subplot())


def dress(axes: Axes) -> Axes:
    """Rule a pair of axes lightly in the colour of the page's ink."""
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.8)
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9)
    axes.grid(True, color=INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set(color=INK, fontsize=10)
    return axes


def logarithmic(axes: Axes, *which: str) -> None:
    """Make the axes named "x" or "y" logarithmic with plain ticks."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_formatter(Powers())
        axis.set_minor_formatter(Powers(minor_thresholds=(1.2, 0.5)))


def whole(axis) -> None:
    """Separate the thousands of a linear axis and keep its ticks few."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def legend(figure: Figure, axes: Axes) -> None:
    """Put the names above the axes, where they hide no curve."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        columns = 4 if sum(map(len, names)) < 34 else 2
        figure.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=2.2,
            columnspacing=1.2,
        )


def thin(curve: Curve) -> Curve:
    """Keep at most SHOWN evenly spaced points, the last among them."""
    if len(curve.x) <= SHOWN:
        return curve
    kept = np.unique(np.linspace(0, len(curve.x) - 1, SHOWN).round().astype(int))
    return Curve(curve.label, curve.method, curve.x[kept], curve.y[kept])


def progress(
    curves: Sequence[Curve], *, x: str, y: str = "relative L2 error", colours: dict[str, str]
) -> Figure | None:
    """Draw a positive quantity against steps or seconds, one curve per label; None if nothing is to be seen."""
    curves = [thin(curve) for curve in curves if len(curve.x)]
    if not curves:
        return None
    figure, axes = blank()
    for number, curve in enumerate(curves):
        dash = "-" if len(curves) == 1 else DASHES[number % len(DASHES)]
        axes.plot(curve.x, curve.y, dash, color=colours[curve.method], label=curve.label, linewidth=1.8)
        axes.plot(curve.x[-1:], curve.y[-1:], MARKERS.get(curve.method, "o"), color=colours[curve.method], markersize=5)
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
            axes.plot(drawn.x, drawn.y, dash, color=ink, label=curve.label, linewidth=1.8)
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="steps", ylabel="residual loss")
    legend(figure, axes)
    return figure


def slices(x: np.ndarray, exact: np.ndarray | None, curves: Sequence[Curve], colours: dict[str, str]) -> Figure | None:
    """Draw the solution along a line, the exact one as a broad pale band below the networks'."""
    if not curves and exact is None:
        return None
    figure, axes = blank()
    if exact is not None:
        axes.plot(x, exact, color=INK, alpha=0.25, linewidth=6, solid_capstyle="round", label="exact")
    for number, curve in enumerate(curves):
        dash = "-" if len(curves) == 1 else DASHES[number % len(DASHES)]
        axes.plot(curve.x, curve.y, dash, color=colours[curve.method], linewidth=1.8, label=curve.label)
    axes.set(xlabel="coordinate along the slice", ylabel="solution")
    legend(figure, axes)
    return figure


def spectra(layers: dict[str, tuple[np.ndarray, np.ndarray]], colour: str) -> Figure | None:
    """Draw the singular values of each layer before and after; at most LAYERS layers."""
    shown = dict(list(layers.items())[:LAYERS])
    if not shown:
        return None
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(max(3.1 * columns, 4.6), 2.2 * rows + 0.6), layout="constrained")
    axes = None
    for number, (name, (before, after)) in enumerate(shown.items()):
        axes = dress(figure.add_subplot(rows, columns, number + 1))
        axes.plot(
            np.arange(1, len(before) + 1),
            before,
            "o-",
            color=INK,
            alpha=0.45,
            markersize=3.5,
            linewidth=1,
            label="before",
        )
        axes.plot(np.arange(1, len(after) + 1), after, "o-", color=colour, markersize=3.5, linewidth=1.2, label="after")
        axes.set_title(name, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if min(before.min(initial=1), after.min(initial=1)) > 0:
            logarithmic(axes, "y")
        if number % columns == 0:
            axes.set_ylabel("singular value")
        if number // columns == rows - 1:
            axes.set_xlabel("index")
    assert axes is not None
    legend(figure, axes)
    return figure


def cost(points: Sequence[Curve], colours: dict[str, str]) -> Figure | None:
    """Draw the error against the count of trained numbers, one named dot per label."""
    points = [point for point in points if len(point.x)]
    if not points:
        return None
    figure, axes = blank()
    for point in points:
        axes.plot(
            point.x,
            point.y,
            MARKERS.get(point.method, "o"),
            color=colours[point.method],
            markersize=9,
            label=point.label,
        )
    logarithmic(axes, "x", "y")
    axes.margins(0.12, 0.18)
    axes.set(xlabel="trained numbers", ylabel="relative L2 error")
    legend(figure, axes)
    return figure


def overview(names: Sequence[str], points: Sequence[Curve], colours: dict[str, str]) -> Figure | None:
    """Draw the error of each label over all parameter values; x of a point is the index into names."""
    points = [point for point in points if len(point.x)]
    if not points:
        return None
    figure, axes = blank(width=9.4, height=3.3)
    for number, point in enumerate(points):
        marker = MARKERS.get(point.method, "o")
        axes.plot(
            point.x,
            point.y,
            marker,
            linestyle=DASHES[number % len(DASHES)],
            color=colours[point.method],
            label=point.label,
            markersize=8,
            linewidth=1.2,
        )
    logarithmic(axes, "y")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylabel("relative L2 error")
    legend(figure, axes)
    return figure


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as SVG text that may stand alone or inside a page.

    Its background is transparent, its ink `currentColor`, and its inner ids carry the name, so
    that several fit into one page.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lissome"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = text.replace(INK, "currentColor")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    label = escape(title, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1) + "\n"
