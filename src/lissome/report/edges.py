"""The learned functions of a KAN as pictures: the network with a plot on each edge, and some of them with axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Rectangle
from matplotlib.path import Path as Line
from matplotlib.ticker import MaxNLocator

from lissome._errors import UsageError
from lissome.report.document import figure
from lissome.report.drawing import INK, dress, plain
from lissome.report.numerals import count, share

BROAD = 9.3  # inches, as of other figures over the whole width
PLOT, PITCH, LEAST = 0.6, 0.9, 4.0  # inches: a plot's side, from one to the next, a row; narrower where there are many
ROW, ASIDE = 1.65, 0.34  # inches from one layer of nodes to the next, and beyond the outer ones
DOT, RING = 0.05, 0.115  # inches of a node's radius, without and with its number
LETTER = 0.078  # inches of a letter
FAINT = 0.16  # darkness of an edge without importance
COLUMNS = 4  # functions of a layer with axes
TITLE = 14  # letters of a node in a title


@dataclass(frozen=True)
class Layer:
    """What is drawn of one layer: E functions of n points.

    Attributes:
        size: how many inputs and outputs it has.
        inputs: those that are drawn.
        outputs: likewise.
        edges: (from, to) of each function.
        importance: (E,), of the layer's 1.
        x: (E, n).
        y: (E, n).
        ends: (E, 2), of the grid.
    """

    size: tuple[int, int]
    inputs: list[int]
    outputs: list[int]
    edges: list[tuple[int, int]]
    importance: np.ndarray
    x: np.ndarray
    y: np.ndarray
    ends: np.ndarray


def edges(folder: Path, curves: Mapping[str, np.ndarray], inputs: object, outputs: object, colour: str) -> list[str]:
    """Draw and write the learned functions that a run keeps, as figures of its page; none where it keeps none.

    Args:
        folder: of the figures.
        curves: of the run, flat; those named edges/LAYER/... are read.
        inputs: names of the network's inputs; x1, x2, ... where they are no list of as many.
        outputs: likewise; y1, y2, ...
        colour: of the curves.

    Raises:
        UsageError: tensors that do not fit each other.
    """
    found = layers(curves)
    if not found or not all(np.isfinite(part).all() for one in found for part in (one.x, one.y, one.importance)):
        return []
    names = _names(inputs, found[0].size[0], "x"), _names(outputs, found[-1].size[1], "y")
    return [
        figure(folder, "edges", network(found, *names, colour), caption(found)),
        figure(folder, "functions", functions(found, *names, colour), _told(found)),
    ]


def layers(curves: Mapping[str, np.ndarray]) -> list[Layer]:
    """Read the layers that a run keeps.

    Raises:
        UsageError: tensors that are missing or do not fit each other.
    """
    found = list[Layer]()
    while f"edges/{len(found)}/size" in curves:
        number = len(found)
        try:
            part = {name: curves[f"edges/{number}/{name}"] for name in ("size", "inputs", "outputs", "from", "to")}
            whole = {name: [int(value) for value in values] for name, values in part.items()}
            pairs = list(zip(whole["from"], whole["to"], strict=True))
            x, y, ends = (curves[f"edges/{number}/{name}"].reshape(len(pairs), -1) for name in ("x", "y", "ends"))
            importance = curves[f"edges/{number}/importance"]
            before, after = whole["size"]
            fits = x.shape == y.shape and ends.shape[1] == 2 and importance.shape == (len(pairs),)
            fits = fits and set(whole["from"]) <= set(whole["inputs"]) and set(whole["to"]) <= set(whole["outputs"])
        except (KeyError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise UsageError(f"curves.safetensors holds functions of layer {number + 1} that do not fit each other")
        found.append(Layer((before, after), whole["inputs"], whole["outputs"], pairs, importance, x, y, ends))
    return found


def caption(found: Sequence[Layer]) -> str:
    """Say what the picture shows, and how many of how many functions.

    >>> one = Layer((2, 1), [0, 1], [0], [(0, 0)], np.ones(1), np.zeros((1, 3)), np.zeros((1, 3)), np.ones((1, 2)))
    >>> caption([one]).split(". ")[0]
    'The learned functions, from the inputs below to the output above: the most important, 1 of 2'
    """
    drawn, there = [len(one.edges) for one in found], [math.prod(one.size) for one in found]
    if drawn == there:
        which = f"all {count(sum(there))}" if sum(there) > 1 else "its only one"
    else:
        each = [f"{count(a)} of {count(b)}" for a, b in zip(drawn, there, strict=True)]
        which = f"the most important, {_listed(each)}{' from layer to layer' if len(found) > 1 else ''}"
    nodes = _nodes(found)
    few = [f"{len(kept)} of {size}" for kept, size in nodes if len(kept) < size]
    between = f", between {_listed(few)} nodes" if few else ""
    return (
        f"The learned functions, from the inputs below to the output above: {which}{between}. "
        "The stronger an edge, the more of the output's spread passes over it; each plot has a scale of its own."
    )


def network(found: Sequence[Layer], inputs: Sequence[str], outputs: Sequence[str], colour: str) -> Figure:
    """Draw nodes in rows, inputs below, with a plot of its function on each edge."""
    most = max(len(one.edges) for one in found)
    width, height = min(max(PITCH * most, LEAST), BROAD), ROW * len(found)
    figure = Figure(figsize=(BROAD, height + 2 * ASIDE))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=((width - BROAD) / 2, (width + BROAD) / 2), ylim=(-ASIDE, height + ASIDE))
    axes.set_axis_off()
    rows = _nodes(found)
    names = [inputs, *([None] * (len(found) - 1)), outputs]
    rims = [RING if name is None and len(kept) < size else DOT for name, (kept, size) in zip(names, rows, strict=True)]
    for level, one in enumerate(found):
        _edges(axes, one, width, level * ROW, rims[level : level + 2], colour)
    for level, (kept, _) in enumerate(rows):
        _row(axes, kept, names[level], rims[level], width, level * ROW, above=level == len(found))
    return figure


def _edges(axes: Axes, one: Layer, width: float, low: float, rims: Sequence[float], colour: str) -> None:
    """Draw the edges of a layer whose inputs lie at `low`, each through the plot of its function."""
    side = min(PLOT, 0.8 * width / max(len(one.edges), 1))
    middle, top, inner = low + ROW / 2, low + ROW, 0.8 * side
    starts = dict(zip(one.inputs, _places(len(one.inputs), width), strict=True))
    stops = dict(zip(one.outputs, _places(len(one.outputs), width), strict=True))
    greatest = one.importance.max(initial=0) or 1.0
    for k, x in enumerate(_places(len(one.edges), width)):
        p, q = one.edges[k]
        dark = FAINT + (1 - FAINT) * math.sqrt(max(one.importance[k], 0) / greatest)
        _link(axes, (starts[p], low + rims[0]), (x, middle - side / 2), dark)
        _link(axes, (x, middle + side / 2), (stops[q], top - rims[1]), dark)
        box = (x - side / 2, middle - side / 2)
        axes.add_patch(Rectangle(box, side, side, fill=False, edgecolor=INK, alpha=0.55 * dark, linewidth=0.6))
        across, up = x + inner * (_unit(one.x[k]) - 0.5), middle + inner * (_unit(one.y[k]) - 0.5)
        axes.plot(across, up, color=colour, alpha=dark, linewidth=1.4 if side > 0.4 else 1.1)


def _link(axes: Axes, start: tuple[float, float], stop: tuple[float, float], dark: float) -> None:
    """Join two places by a curve that leaves and enters upright."""
    bend = 0.5 * (stop[1] - start[1])
    way = [start, (start[0], start[1] + bend), (stop[0], stop[1] - bend), stop]
    line = Line(way, [Line.MOVETO, Line.CURVE4, Line.CURVE4, Line.CURVE4])
    axes.add_patch(PathPatch(line, fill=False, edgecolor=INK, alpha=0.75 * dark, linewidth=0.9))


def _row(
    axes: Axes, kept: Sequence[int], names: Sequence[str] | None, rim: float, width: float, y: float, *, above: bool
) -> None:
    """Draw a row of nodes: dots, with their names in the outer rows, or rings with their numbers."""
    room = int(width / len(kept) / LETTER)
    for node, x in zip(kept, _places(len(kept), width), strict=True):
        if rim == RING:
            axes.add_patch(Circle((x, y), rim, fill=False, edgecolor=INK, linewidth=0.8))
            axes.text(x, y, str(node + 1), ha="center", va="center_baseline", fontsize=6.5, color=INK)
        else:
            axes.add_patch(Circle((x, y), rim, color=INK, linewidth=0))
        if names is not None:
            name, away, side = _short(names[node], room), 0.17 if above else -0.17, "bottom" if above else "top"
            axes.text(x, y + away, plain(name), fontsize=9, color=INK, ha="center", va=side)


def functions(found: Sequence[Layer], inputs: Sequence[str], outputs: Sequence[str], colour: str) -> Figure:
    """Draw the most important functions of each layer with axes, a layer in a row."""
    columns = min(COLUMNS, max(len(one.edges) for one in found))
    figure = Figure(figsize=(BROAD, 1.85 * len(found)), layout="constrained")
    for level, one in enumerate(found):
        best = np.argsort(-one.importance, kind="stable")[:columns].tolist()
        for column, k in enumerate(best):
            axes = dress(figure.add_subplot(len(found), columns, level * columns + column + 1))
            axes.plot(one.x[k], one.y[k], color=colour, linewidth=1.8)
            low, high = one.x[k].min(), one.x[k].max()
            for end, edge in zip(one.ends[k], (low, high), strict=True):
                if low < end < high:
                    axes.axvline(end, color=INK, alpha=0.6, linewidth=0.9, linestyle=":")
                    axes.axvspan(min(end, edge), max(end, edge), color=INK, alpha=0.06, linewidth=0)
            axes.set_xlim(*((low, high) if high > low else (low - 1, high + 1)))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            p, q = one.edges[k]
            start = str(inputs[p]) if level == 0 else f"node {p + 1}"
            stop = f"node {q + 1}"
            if level == len(found) - 1:
                stop = "output" if len(outputs) == 1 else str(outputs[q])
            title = f"{_short(start, TITLE)} → {_short(stop, TITLE)}, {share(float(one.importance[k]), 1)}"
            axes.set_title(plain(title), fontsize=9)
            if column == 0:
                axes.set_ylabel(f"layer {level + 1}")
    return figure


def _told(found: Sequence[Layer]) -> str:
    """Say what is seen of each function with axes."""
    most = min(COLUMNS, max(len(one.edges) for one in found))
    return (
        f"Up to {most} functions of each layer, those of the above over which most of the output's spread passes, over "
        "what their edges were given. Shaded, beyond the dotted lines: outside the grid."
    )


def _nodes(found: Sequence[Layer]) -> list[tuple[list[int], int]]:
    """Return the nodes that are drawn of each row, and how many there are."""
    return [*((one.inputs, one.size[0]) for one in found), (found[-1].outputs, found[-1].size[1])]


def _names(given: object, size: int, letter: str) -> list[str]:
    """Return names if they are as many as are needed, else numbered letters."""
    if isinstance(given, list) and len(given) == size:
        return [str(name) for name in given]
    return [letter] if size == 1 else [f"{letter}{i + 1}" for i in range(size)]


def _places(many: int, width: float) -> list[float]:
    return [width * (i + 0.5) / many for i in range(many)]


def _unit(values: np.ndarray) -> np.ndarray:
    """Return values on [0, 1]; what is constant lies in the middle."""
    reach = np.ptp(values)
    if reach <= 1e-9 * np.abs(values).max(initial=0):
        return np.full_like(values, 0.5)
    return (values - values.min()) / reach


def _short(name: str, room: int) -> str:
    return name if len(name) <= room else name[: max(room - 1, 1)] + "…"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
