"""Tables and figures of both replications of DAPE: accuracy by length and contestant, nats per byte by length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from lissome.recipes.dape_names import AS_LONG, BYTES, CONTESTANTS, LENGTH, STATIC, TRIALS
from lissome.recipes.language_contest_seeds import pairs, rates, written
from lissome.recipes.paper import Drawn, Row, Sheet, of
from lissome.report.drawing import INK, dress, legend, palette, plain
from lissome.report.numerals import ABSENT, count, seconds

COLOURED = {
    "rotary": "full", "NoPE": "last", "Kerple": "lora", "FIRE": "pissa", "NoPE + DAPE": "scratch",
    "Kerple + DAPE": "svd", "FIRE + DAPE": "lora-xs", "rotary + V2": "", "NoPE + V2": "lora-xs", "Kerple + V2": "lotra",
}  # fmt: skip
WHAT = {
    "recall": "a key's value stands behind it, one layer",
    "earliest": "the value of a key's earliest occurrence, one layer",
    "recent": "the value of a key's most recent occurrence, one layer",
    "even pairs": "is the number of neighbours that differ even, two layers",
}


def labels(rows: Sequence[Row]) -> list[str]:
    """Return who is there, in the order of the contestants; those that are given seconds come last."""
    known = {row["label"] for row in rows}
    return [*(label for label in CONTESTANTS if label in known), *sorted(each for each in known if AS_LONG in each)]


def trials(rows: Sequence[Row]) -> list[str]:
    """Return the tasks that were tried, in their order."""
    return [part for part in TRIALS if any("accuracy" in row for row in of(rows, part))]


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return a table for each task, and two for the text."""
    sheets = [_task(part, of(rows, part)) for part in trials(rows)]
    text = [row for row in of(rows, BYTES) if "nats" in row]
    return [*sheets, *([_text(text), _against(text)] if text else [])]


def _task(part: str, rows: Sequence[Row]) -> Sheet:
    known = [row for row in rows if "accuracy" in row]
    lengths, lines = list(known[0]["accuracy"]), []
    for label in labels(rows):
        own = of(known, label=label)
        found = [written([row["accuracy"][n] for row in own], "{:.3f}".format) for n in lengths]
        lines.append([label, *found, *_cost(own)])
    least, most = known[0]["trained at"]
    chance = ", ".join(f"{known[0]['chance'][n]:.3g} at {n}" for n in lengths)
    note = f"Trained at n = {least} to {most}, {known[0]['steps']:,} steps; a guess is right: {chance}."
    heads = ["", *(f"n = {n}" for n in lengths), "numbers", "rate", "CPU ms a step"]
    return Sheet(f"{part}: {WHAT.get(part, 'of the Chomsky hierarchy')}; accuracy", heads, lines, note)


def _cost(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["failed", ABSENT, ABSENT]
    return [count(rows[0]["numbers"]), rates(rows, "{:g}"),
            seconds(1000 * statistics.median(row["each"] for row in rows))]  # fmt: skip


def _text(rows: Sequence[Row]) -> Sheet:
    lengths, lines = list(rows[0]["nats"]), []
    for label in labels(rows):
        own = of(rows, label=label)
        found = [written([row["nats"][n] for row in own], "{:.3f}".format) for n in lengths]
        steps = written([row["steps"] for row in own], count)
        lines.append([label, *found, steps, *_cost(own)])
    heads = ["", *(f"{int(n):,}" for n in lengths), "steps", "numbers", "rate", "CPU ms a step"]
    note = f"Trained at {LENGTH} bytes; the same bytes of the same places are scored at every length."
    return Sheet("Bytes: nats of a byte by length", heads, lines, note)


def _against(rows: Sequence[Row]) -> Sheet:
    """Return how much less each pays than Kerple, with the error of windows compared one by one."""
    lengths, lines = list(rows[0]["nats"]), []
    for label in labels(rows):
        both = pairs(rows, label, STATIC)
        if label == STATIC or not both:
            continue
        cells = []
        for n in lengths:
            apart = [[x - y for x, y in zip(a["each window"][n], b["each window"][n], strict=True)] for a, b in both]
            error = math.hypot(*map(_error, apart)) / len(apart)
            cells.append(f"{written([statistics.mean(each) for each in apart], '{:+.3f}'.format)}; {error:.3f}")
        lines.append([label, *cells])
    heads = ["", *(f"{int(n):,}" for n in lengths)]
    note = "Below 0 is better than Kerple; behind the semicolon the standard error over windows."
    return Sheet("Bytes: nats beside Kerple of the same seed", heads, lines, note)


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return a figure of each task, and one of the text."""
    drawn = []
    for part in trials(rows):
        here = [row for row in of(rows, part) if "accuracy" in row]
        caption = f"{part}: {WHAT.get(part, 'of the Chomsky hierarchy')}; dots are seeds, dashed is a guess"
        drawn.append(Drawn(part.replace(" ", "-"), _strips(here), caption))
    text = [row for row in of(rows, BYTES) if "nats" in row]
    caption = f"Nats of a byte by length, trained at {LENGTH} (dashed); right, beside Kerple of the same seed"
    drawn.append(Drawn(BYTES, _curves(text), caption))
    return drawn


def _strips(rows: Sequence[Row]) -> Figure:
    """Draw a panel for each length, a line for each contestant, a dot for each seed."""
    names, lengths = labels(rows)[::-1], list(rows[0]["accuracy"])
    styles = palette((name, COLOURED.get(name, name)) for name in names)
    figure = Figure(figsize=(9.3, 0.9 + 0.26 * len(names)), layout="constrained")
    most, first = rows[0]["trained at"][1], None
    for place, n in enumerate(lengths):
        axes = dress(figure.add_subplot(1, len(lengths), place + 1, sharey=first))
        first = first or axes
        axes.axvline(rows[0]["chance"][n], color=INK, linestyle="--", linewidth=1, alpha=0.6)
        for y, name in enumerate(names):
            found = [row["accuracy"][n] for row in of(rows, label=name)]
            axes.plot(found, [y] * len(found), "o", color=styles[name].colour, alpha=0.55, markersize=5)
            axes.plot(statistics.mean(found), y, "|", color=styles[name].colour, markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
        axes.tick_params(axis="y", labelleft=not place, length=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.4), xlabel="accuracy")
        axes.set_title(f"n = {n}{', trained' if int(n) <= most else ''}", fontsize=9, color=INK)
    return figure


def _curves(rows: Sequence[Row]) -> Figure | None:
    """Draw nats by length of all, and beside Kerple of those that do not collapse."""
    if not rows:
        return None
    names = labels(rows)
    styles = palette((name, COLOURED.get(name, name)) for name in names)
    figure = Figure(figsize=(9.3, 3.3), layout="constrained")
    left, right = (dress(figure.add_subplot(1, 2, place)) for place in (1, 2))
    for name in names:
        own, style = of(rows, label=name), styles[name]
        x = [int(n) for n in own[0]["nats"]]
        found = list(zip(*(row["nats"].values() for row in own), strict=True))
        same = {"color": style.colour, "linestyle": style.dash, "linewidth": 1.6}
        left.plot(x, [statistics.mean(each) for each in found], style.marker, **same, label=plain(name), markersize=4)
        left.fill_between(
            x, [min(each) for each in found], [max(each) for each in found], color=style.colour, alpha=0.18
        )
        if name == "rotary":
            continue
        for row, other in pairs(rows, name, STATIC):
            apart = [row["nats"][str(n)] - other["nats"][str(n)] for n in x]
            right.plot(x, apart, style.marker, color=style.colour, linestyle=style.dash, linewidth=1, markersize=3.5)
    for axes in (left, right):
        axes.axvline(LENGTH, color=INK, linestyle="--", linewidth=1, alpha=0.6)
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(n) for n in rows[0]["nats"]], [count(int(n)) for n in rows[0]["nats"]])
        axes.minorticks_off()
        axes.set(xlabel="bytes that are read")
    left.set(ylabel="nats of a byte")
    right.set(ylabel="nats above Kerple's")
    legend(figure, left)
    return figure
