"""The figures of a language model that are curves: loss, perplexity by length, bias by distance, gradients, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lissome.report.drawing import COLOURS, DASHES, INK, Style, blank, dress, legend, logarithmic, plain, upright, whole
from lissome.report.figures import Curve, thin
from lissome.report.language_files import Lengths, Maps, Shares
from lissome.report.numerals import count, power, share
from lissome.report.read import series

BROAD = 9.3  # inches
HUES = [COLOURS[name] for name in ("svd", "full", "lora-xs", "lora", "pissa", "lotra", "last", "scratch")]
SHORT = 16.0  # times that a short axis spans
SEEN = (1, 2, 3, 4, 6)  # whose multiples of powers of ten are written on it
NAMED = 8  # curves that the legend names
PARTS = {  # classes that together are all keys, in the order in which they are stacked
    "first_4": ("first 4 tokens", "#332288"),
    "far_separators": ("separators farther back", "#D55E00"),
    "nearest_16": ("16 nearest tokens", "#0072B2"),
    "rest": ("all others", "#8C8C8C"),
}
LINE: dict[str, Any] = {"color": INK, "alpha": 0.5, "linewidth": 1, "linestyle": (0, (4, 3))}


def hue(number: int) -> dict[str, Any]:
    """Return colour and dash of the curve of a layer or head; all of eight colours come before another dash."""
    turn, place = divmod(number, len(HUES))
    return {"color": HUES[place], "linestyle": DASHES[turn % len(DASHES)]}


def positive(axes: Axes) -> None:
    """Make the upright axis logarithmic, unless it is so short that a linear one says the same with better numbers."""
    low, high = axes.get_ylim()
    if low > 0 and high < 2 * low:
        whole(axes.yaxis)
        return
    logarithmic(axes, "y")
    number(axes)


def number(axes: Axes) -> None:
    """Write more of the numbers of a logarithmic axis that spans about a decade, as those of losses do."""
    low, high = axes.get_ylim()
    if 3 < high / low < SHORT:
        for write in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            write(
                FuncFormatter(
                    lambda x, _: power(x) if round(x / 10 ** math.floor(math.log10(x) + 1e-9), 6) in SEEN else ""
                )
            )


def losses(metrics: list[dict[str, Any]], x: str) -> Figure | None:
    """Draw the loss of training and on held-out text against "step" or "seconds"."""
    looks = (
        ("text of a step", "loss", "-", COLOURS["svd"]),
        ("held-out text", "validation_loss", "--", COLOURS["full"]),
    )
    curves = [(thin(Curve(name, *series(metrics, x, key))), dash, ink) for name, key, dash, ink in looks]
    if not any(len(curve.x) for curve, _, _ in curves):
        return None
    drawn, axes = blank()
    for curve, dash, ink in curves:
        axes.plot(curve.x, curve.y, dash, color=ink, label=curve.label, linewidth=1.8)
    positive(axes)
    whole(axes.xaxis)
    axes.set(xlabel="steps" if x == "step" else x, ylabel="nats per token")
    legend(drawn, axes)
    return drawn


def by_length(
    found: Sequence[tuple[str, Lengths]], styles: Mapping[str, Style], *, broad: bool = False
) -> Figure | None:
    """Draw perplexity by length with bands of two standard errors, and a line at each training length.

    Args:
        found: (label, lengths) of each run.
        styles: of each label.
        broad: over the whole width.
    """
    if not found:
        return None
    drawn, axes = blank(BROAD, 3.6) if broad else blank()
    ticks = sorted({float(length) for _, lengths in found for length in lengths.length})
    known = sorted({lengths.trained for _, lengths in found if lengths.trained})
    for label, lengths in found:
        style = styles[label]
        axes.fill_between(lengths.length, lengths.low, lengths.high, color=style.colour, alpha=0.18, linewidth=0)
        axes.plot(
            lengths.length,
            lengths.perplexity,
            linestyle=style.dash,
            marker=style.marker,
            markersize=4.5,
            color=style.colour,
            label=plain(label),
            linewidth=1.8,
        )
    axes.set_xscale("log", base=2)
    positive(axes)
    if len(ticks) == 1:
        seen = [*ticks, *known]  # a line outside the axes would leave them no room
        axes.set_xlim(min(seen) / 2, max(seen) * 2)
    axes.set_xticks(_apart(ticks, axes, broad), labels=[count(tick) for tick in _apart(ticks, axes, broad)])
    axes.xaxis.set_minor_locator(NullLocator())
    for trained in known:
        _line(axes, trained, "training length")
    axes.set(xlabel="tokens read", ylabel="perplexity")
    if len(found) > 1:
        legend(drawn, axes)
    return drawn


def decays(maps: Maps) -> Figure | None:
    """Draw the bias by distance of each head, a panel for each layer; None where no layer has a bias."""
    shown = {layer: own for layer, own in maps.layers.items() if "decay" in own}
    if not shown:
        return None
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=({1: 4.6}.get(columns, BROAD), 2.3 * rows + 0.5), layout="constrained")
    axes = None
    for number, (layer, own) in enumerate(shown.items()):
        axes = dress(figure.add_subplot(rows, columns, number + 1, sharey=axes))
        for place, head in enumerate(maps.heads):
            label = f"head {head + 1}" if number == len(shown) - 1 and len(maps.heads) <= NAMED else None
            axes.plot(maps.distance, own["decay"][place], label=label, linewidth=1.6, **hue(place))
            if "near" in own:
                near = own["near"][place]
                axes.plot(maps.distance[: len(near)], near, color=hue(place)["color"], linewidth=1.2, linestyle=":")
        if maps.told.get("length"):
            axes.axvline(float(maps.told["length"]), **LINE)
        axes.set_title(f"layer {layer + 1}", fontsize=9)
        whole(axes.xaxis)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if number % columns == 0:
            axes.set_ylabel("bias")
        if number // columns == rows - 1 or number + columns >= len(shown):
            axes.set_xlabel("tokens between query and key")
    assert axes is not None
    legend(figure, axes)
    return figure


def gradients(found: Mapping[str, np.ndarray]) -> Figure | None:
    """Draw the norms of the gradient against steps: of layers and embedding, and of the stages where they learn."""
    if not found:
        return None
    steps = found["step"]
    panels = {"weights of each layer": found["layers"], "stages of each layer": found["stages"]}
    panels = {title: values for title, values in panels.items() if (values > 0).any()}
    if not panels:
        return None
    figure = Figure(figsize=(BROAD if len(panels) > 1 else 4.6, 3.1), layout="constrained")
    axes = None
    for number, (title, values) in enumerate(panels.items()):
        axes = dress(figure.add_subplot(1, len(panels), number + 1))
        for layer in range(values.shape[1]):
            label = f"layer {layer + 1}" if values.shape[1] <= NAMED else None
            curve = thin(Curve("", steps, np.where(values[:, layer] > 0, values[:, layer], np.nan)))
            axes.plot(curve.x, curve.y, label=label if number == 0 else None, linewidth=1.3, **hue(layer))
        if number == 0 and (found["embedding"] > 0).any():
            curve = thin(Curve("", steps, found["embedding"]))
            axes.plot(curve.x, curve.y, color=INK, linewidth=1.1, alpha=0.7, linestyle="--", label="embedding")
        axes.set_title(title, fontsize=9)
        logarithmic(axes, "y")
        whole(axes.xaxis)
        axes.set(xlabel="steps", ylabel="norm of the gradient" if number == 0 else "")
    legend(figure, figure.axes[0])
    return figure


def parts(shares: Shares) -> Figure | None:
    """Draw where attention falls, a stacked bar for each layer, above the bar of what would be even."""
    named = {name: look for name, look in PARTS.items() if name in shares.attention}
    if not named:
        return None
    depth = len(shares.sums)
    drawn, axes = blank(_width(shares), max(2.2, min(0.9 + 0.3 * (depth + 1), 5.2)))
    places = [*range(depth), depth + 0.4]
    start = np.zeros(depth + 1)
    for name, (label, ink) in named.items():
        size = np.append(shares.attention[name].mean(1), shares.keys[name])
        axes.barh(places, size, left=start, height=0.72, color=ink, label=label, linewidth=0)
        start += size
    every = max(1, -(-depth // 16))
    axes.set_yticks(
        [*range(0, depth, every), places[-1]], [*(f"layer {i + 1}" for i in range(0, depth, every)), "even"]
    )
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.set_xlabel("share of attention")
    legend(drawn, axes)
    return drawn


def separators(shares: Shares) -> Figure:
    """Draw the share of attention on separators, layer by head, each cell with its figure where there are few."""
    values = shares.attention["separators"]
    depth, heads = values.shape
    drawn, axes = blank(_width(shares), max(1.8, min(1.0 + 0.34 * depth, 6.0)))
    axes.imshow(_tinted(values, shares.keys["separators"]), aspect="auto", interpolation="none")
    axes.grid(False)
    layers, columns = max(1, -(-depth // 16)), max(1, -(-heads // 16))
    axes.set_yticks(range(0, depth, layers), [str(i + 1) for i in range(0, depth, layers)])
    axes.set_xticks(range(0, heads, columns), [str(i + 1) for i in range(0, heads, columns)])
    if depth <= 16 and heads <= 16:
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, share(float(value), 1) or "0%", ha="center", va="center", fontsize=8, color=INK)
    axes.set(xlabel="head", ylabel="layer")
    return drawn


def _width(shares: Shares) -> float:
    """Return the inches of both figures of shares, which stand beside each other where there are few heads."""
    return 4.6 if shares.sums.shape[1] <= 10 else BROAD


def _tinted(values: np.ndarray, even: float) -> np.ndarray:
    """Return shares as a colour that is denser where they are larger, (..., 4); text is read on it, light or dark."""
    depth = np.clip(values / max(values.max(initial=0), 4 * even, 1e-9), 0, 1)  # what is even stays pale
    colour = np.broadcast_to(np.array([0xD5, 0x5E, 0x00]) / 255, (*values.shape, 3))
    return np.concatenate((colour, 0.06 + 0.54 * depth[..., None]), -1)


def _apart(ticks: Sequence[float], axes: Axes, broad: bool) -> list[float]:
    """Keep ticks that leave room for their labels on a logarithmic axis."""
    low, high = np.log2(axes.get_xlim())
    room = (high - low) * (0.055 if broad else 0.11)
    kept = list[float]()
    for tick in ticks:
        if not kept or np.log2(tick / kept[-1]) >= room:
            kept.append(tick)
    return kept


def _line(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, **LINE)
    upright(axes, x, text)
