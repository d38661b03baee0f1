"""Figures of SepLLM: nats above SepLLM's at equal use, perplexity along a stream, accuracy on facts far behind."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from lissome.language.score import perplexity
from lissome.recipes.language_contest_seeds import pairs
from lissome.recipes.paper import Drawn, Row, of
from lissome.recipes.sepllm_claims import WAYS, fair
from lissome.recipes.sepllm_names import FULL, NEEDLE, READERS, SEPLLM, STREAM, TRAINED
from lissome.report.drawing import INK, Style, dress, legend, palette, plain

COLOURED = {FULL: "full", SEPLLM: "svd", "StreamingLLM": "lora", "FixLLM": "pissa", "random ids": "scratch"}
WIDTH = 9.3


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return all figures; those without rows are empty."""
    return [
        Drawn("equal-use", _equal(rows), "Nats of a token above SepLLM's of the same seed, at as many keys as it uses "
              "(full attention: all); left of the dashed line is better than SepLLM; dots are seeds"),
        Drawn("stream", _stream(of(rows, STREAM)), "A stream with positions in the cache: left, perplexity of each "
              "tenth, means over seeds; full attention reads windows of its trained length; right, full attention "
              "beyond that length"),
        Drawn("needle", _needle(of(rows, NEEDLE)), "Facts beyond the window: part that is recalled; filled, trained "
              "with its own mask; hollow, trained with full attention and read so; dashed is a guess; dots are seeds"),
    ]  # fmt: skip


def _styles() -> dict[str, Style]:
    return palette(COLOURED.items())


def _equal(rows: Sequence[Row]) -> Figure | None:
    ways = [way for way in WAYS if any(row["label"] != SEPLLM for row in fair(rows, way))]
    if not ways:
        return None
    figure, styles, first = Figure(figsize=(WIDTH, 2.3), layout="constrained"), _styles(), None
    names = [label for label in READERS if label != SEPLLM][::-1]
    for place, way in enumerate(ways):
        axes = dress(figure.add_subplot(1, len(ways), place + 1, sharey=first))
        first, here = first or axes, fair(rows, way)
        axes.axvline(0, color=INK, linestyle="--", linewidth=1, alpha=0.6)
        for y, label in enumerate(names):
            apart = [a["nats"] - b["nats"] for a, b in pairs(here, label, SEPLLM)]
            _dots(axes, apart, y, styles[label].colour)
        axes.set_yticks(range(len(names)), [plain(label) for label in names])
        axes.tick_params(axis="y", labelleft=not place, length=0)
        axes.locator_params(axis="x", nbins=3)
        axes.set(ylim=(-0.6, len(names) - 0.4), xlabel="nats above SepLLM")
        axes.set_title(way, fontsize=9, color=INK)
    return figure


def _dots(axes, values: Sequence[float], y: float, colour: str, *, filled: bool = True) -> None:
    axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.55, markersize=5,
              markerfacecolor=colour if filled else "none")  # fmt: skip
    if values:
        axes.plot(statistics.mean(values), y, "|", color=colour, markersize=14, markeredgewidth=2)


def _stream(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    figure, styles = Figure(figsize=(WIDTH, 3.2), layout="constrained"), _styles()
    left = dress(figure.add_subplot(1, 3, (1, 2)))
    for label in READERS:
        own, style = of(rows, label=label), styles[label]
        if own:
            step = own[0]["tokens"] / len(own[0]["tenths"]) / 1000
            nats = [statistics.mean(each) for each in zip(*(row["tenths"] for row in own), strict=True)]
            x = [step * (k + 1) for k in range(len(nats))]
            left.plot(x, [perplexity(each) for each in nats], style.marker, linestyle=style.dash, color=style.colour,
                      linewidth=1.5, markersize=4.5, label=plain(label))  # fmt: skip
    left.set(xlabel="thousands of tokens read", ylabel="perplexity")
    full = of(rows, label=FULL)
    if full:
        right = dress(figure.add_subplot(1, 3, 3))
        lengths = list(full[0]["beyond"])
        for row in full:
            right.plot([int(n) for n in lengths], [perplexity(row["beyond"][n]) for n in lengths],
                       styles[FULL].marker, linestyle=styles[FULL].dash, color=styles[FULL].colour, linewidth=1.2,
                       markersize=4)  # fmt: skip
        right.set_xscale("log", base=2)
        right.set_xticks([int(n) for n in lengths], [f"{int(n):,}" for n in lengths])
        right.minorticks_off()
        right.set(xlabel="tokens that are seen", ylabel="perplexity, full")
    legend(figure, left)
    return figure


def _needle(rows: Sequence[Row]) -> Figure | None:
    known = [row for row in rows if "accuracy" in row]
    if not known:
        return None
    names, styles = [*READERS][::-1], _styles()
    figure = Figure(figsize=(WIDTH * 0.6, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = dress(figure.add_subplot())
    axes.axvline(known[0]["chance"], color=INK, linestyle="--", linewidth=1, alpha=0.6)
    free = [row["free"] for row in known if "free" in row]
    for y, label in enumerate(names):
        own = [row["accuracy"] for row in of(known, label=label)] if label in TRAINED else []
        _dots(axes, own, y + 0.12, styles[label].colour)
        _dots(axes, [each[label] for each in free], y - 0.12, styles[label].colour, filled=False)
    axes.set_yticks(range(len(names)), [plain(label) for label in names])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.4), xlabel="accuracy")
    return figure
