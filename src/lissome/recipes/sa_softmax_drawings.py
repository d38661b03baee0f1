"""Figures of SA-Softmax: steps and gradients on one row, gradients of layers over training, nats by variant."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lissome.recipes.paper import Drawn, Row, of
from lissome.recipes.sa_softmax_claims import steps
from lissome.recipes.sa_softmax_names import (
    ADAM,
    AS_LONG,
    BYTES,
    CAP,
    LENGTH,
    LOOKUP,
    ORDINARY,
    POSITION,
    ROW,
    SATURATED,
    SGD,
    VARIANTS,
    WRONG,
)
from lissome.report.drawing import INK, Style, dress, legend, logarithmic, palette, plain

COLOURED = {"softmax": "scratch", "V1": "lora", "V2": "pissa", "V3": "lora-xs", "V4": "svd",
            "V3, detached": "last", "V4, detached": "full"}  # fmt: skip
NAMES = {SGD: "SGD", ADAM: "Adam"}
WIDTH = 9.3


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return all figures; those without rows are empty."""
    small = [row for row in of(rows, BYTES) if "nats" in row and not row["large"]]
    look = [row for row in of(rows, LOOKUP) if "gradients" in row]
    text = f"Bytes, {POSITION}, {LENGTH}"
    return [
        Drawn("row", _rows(of(rows, ROW)), f"One row with a wrong key at c: steps until the right key leads (of {CAP:,}"
              " at most), and the first gradient; medians over starts and seeds"),
        Drawn("nats", _nats(small), f"{text}: nats of a byte; right, beside the softmax of the same seed, filled after "
              "as many steps, hollow after as many seconds; dots are seeds"),
        Drawn("gradients", _layers(small), f"{text}: norm of the gradient on rows held out, before any clip, by layer; "
              "means over seeds"),
        Drawn("look-up", _lookups(look), "Look-up in one layer: norm of the gradient in what makes queries and keys, "
              "on rows held out; means over seeds"),
    ]  # fmt: skip


def _styles() -> dict[str, Style]:
    return palette(COLOURED.items())


def _rows(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    figure, styles = Figure(figsize=(WIDTH, 3.1), layout="constrained"), _styles()
    panels = [dress(figure.add_subplot(1, 3, place)) for place in (1, 2, 3)]
    for label in (label for label in VARIANTS if of(rows, label=label)):
        own = of(rows, label=label)
        curves = [[statistics.median(step for row in own for step in steps(row, optimizer, c)) for c in WRONG]
                  for optimizer in (SGD, ADAM)]  # fmt: skip
        curves.append([statistics.median(norm for row in own for norm in row["gradient"][str(c)]) for c in WRONG])
        for axes, curve in zip(panels, curves, strict=True):
            _line(axes, WRONG, curve, label, styles[label])
    for axes, name in zip(panels, ("steps of SGD", "steps of Adam", "norm of the first gradient"), strict=True):
        logarithmic(axes, "y")
        axes.set(xlabel="score of the wrong key, c", ylabel=name)
    for axes in panels[:2]:
        axes.set_ylim(1, CAP * 1.4)
        axes.axhline(CAP, color=INK, linestyle="--", linewidth=1, alpha=0.6)
    legend(figure, panels[0])
    return figure


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, style: Style) -> None:
    axes.plot(x, y, style.marker, linestyle=style.dash, color=style.colour, linewidth=1.5, markersize=4.5,
              label=plain(label), markevery=max(1, len(x) // 8))  # fmt: skip


def _mean(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Return steps, and the geometric mean over seeds; 0 where one seed has 0."""
    curves = np.array([row["gradients"][key] for row in rows])  # (seeds, looks)
    with np.errstate(divide="ignore"):
        return rows[0]["gradients"]["step"], np.exp(np.log(curves).mean(0)).tolist()


def _layers(rows: Sequence[Row]) -> Figure | None:
    rows = [row for row in rows if row["label"] in VARIANTS]
    if not rows:
        return None
    layers = sum(key.startswith("layer/") for key in rows[0]["gradients"])
    figure, styles, first = Figure(figsize=(WIDTH, 5.2), layout="constrained"), _styles(), None
    for place, (what, name) in enumerate((("scores", "queries and keys"), ("layer", "all of the layer"))):
        for layer in range(layers):
            axes = dress(figure.add_subplot(2, layers, place * layers + layer + 1))
            first = first or axes
            for label in (label for label in VARIANTS if of(rows, label=label)):
                _line(axes, *_mean(of(rows, label=label), f"{what}/{layer}"), label, styles[label])
            logarithmic(axes, "y")
            axes.set_title(f"layer {layer + 1}, {name}", fontsize=9, color=INK)
            axes.set(xlabel="steps" if place else "", ylabel="gradient" if not layer else "")
    assert first is not None
    legend(figure, first)
    return figure


def _lookups(rows: Sequence[Row]) -> Figure | None:
    ways = [(start, optimizer) for start in (SATURATED, ORDINARY) for optimizer in (SGD, ADAM)
            if of(rows, start=start, optimizer=optimizer)]  # fmt: skip
    if not ways:
        return None
    figure, styles, first = Figure(figsize=(WIDTH, 3.0), layout="constrained"), _styles(), None
    for place, (start, optimizer) in enumerate(ways):
        axes = dress(figure.add_subplot(1, len(ways), place + 1))
        first = first or axes
        here = of(rows, start=start, optimizer=optimizer)
        for label in (label for label in VARIANTS if of(here, label=label)):
            _line(axes, *_mean(of(here, label=label), "scores/0"), label, styles[label])
        logarithmic(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.set_title(f"{start}, {NAMES[optimizer]}", fontsize=9, color=INK)
        axes.set(xlabel="steps", ylabel="gradient of q, k" if not place else "")
    assert first is not None
    legend(figure, first)
    return figure


def _nats(rows: Sequence[Row]) -> Figure | None:
    labels = [label for label in VARIANTS if of(rows, label=label)][::-1]
    if not labels:
        return None
    figure, styles = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(labels)), layout="constrained"), _styles()
    left = dress(figure.add_subplot(1, 2, 1))
    right = dress(figure.add_subplot(1, 2, 2, sharey=left))
    for y, label in enumerate(labels):
        own, colour = of(rows, label=label), styles[label].colour
        found = [row["nats"] for row in own]
        left.plot(found, [y] * len(found), "o", color=colour, alpha=0.55, markersize=5)
        left.plot(statistics.mean(found), y, "|", color=colour, markersize=14, markeredgewidth=2)
        for other, up, fill in (("softmax", 0.13, colour), (f"{AS_LONG}{label}", -0.13, "none")):
            apart = [a["nats"] - b["nats"] for a in own for b in of(rows, label=other, seed=a["seed"])]
            if apart and label != "softmax":
                right.plot(apart, [y + up] * len(apart), "o", color=colour, markerfacecolor=fill, markersize=5)
                right.plot(statistics.mean(apart), y + up, "|", color=colour, markersize=11, markeredgewidth=2)
    right.axvline(0, color=INK, linestyle="--", linewidth=1, alpha=0.6)
    left.set_yticks(range(len(labels)), [plain(label) for label in labels])
    left.tick_params(axis="y", length=0)
    right.tick_params(axis="y", labelleft=False, length=0)
    left.set(xlabel="nats of a byte", ylim=(-0.6, len(labels) - 0.4))
    right.set(xlabel="more than the softmax's")
    return figure
