"""Tables and figures of LoTRA: spectra and truncation, error against trained numbers and seconds, rates by width."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lissome.recipes.lotra_names import FULL, FUNCTION, MODES, PDE, POLICIES, RANKS, RATES, WAYS
from lissome.recipes.paper import Drawn, Row, Sheet, of
from lissome.report.drawing import INK, Style, dress, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, count, quantity, seconds

COLOURED = {
    "LoTRA 2": "lora", "LoTRA 4": "lotra", "LoTRA 8": "svd", "full": "full", "last layer": "last", "scratch": "scratch",
}  # fmt: skip
RULED = {"equal": "full", "closed": "svd", "measured": "lotra"}
SHOWN = 4  # the rank of the table of spectra


def groups(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Return (part, task, points) of the transfers that are known."""
    found = dict.fromkeys((row["part"], row["task"], row.get("points") or 0) for row in rows if row["part"] != RATES)
    return [group for group in found if any(row["label"] in WAYS for row in _in(rows, group))]


def _in(rows: Sequence[Row], group: tuple[str, str, int]) -> list[Row]:
    part, task, points = group
    return [row for row in of(rows, part=part, task=task) if (row.get("points") or 0) == points]


def _titled(group: tuple[str, str, int]) -> str:
    _, task, points = group
    return f"{task}, {points:,} points" if points else task


def mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of what is known, or None."""
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None


def told(values: Sequence[float | None]) -> str:
    """Return the geometric mean, and least and greatest where there are several."""
    known, middle = [value for value in values if value], mean(values)
    if middle is None:
        return ABSENT
    return quantity(middle) + (f" ({quantity(min(known))} to {quantity(max(known))})" if len(known) > 1 else "")


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return spectra with truncation, a table of each transfer, and the sweep of rates."""
    sheets = [sheet for sheet in (_spectra(rows), _cut(rows)) if sheet.rows]
    for group in groups(rows):
        here = _in(rows, group)
        ways = [way for way in WAYS if of(here, label=way)]
        starts = [row for row in rows if (row["part"], row["task"], row["label"]) == (*group[:2], "start")]
        own = [row for row in starts if row["width"] == here[-1]["width"]]
        base, untouched = (told([row[key] for row in own]) for key in ("base", "untouched"))
        note = f"Before: error {base} where the network was trained, {untouched} here."
        heads = ["trained", "numbers", "share", "error", "rate", "seconds"]
        sheets.append(Sheet(_titled(group), heads, [_line(of(here, label=way)) for way in ways], note if own else ""))
    sweep = _sweep(rows)
    return [*sheets, *([sweep] if sweep.rows else [])]


def _line(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if not row.get("failed")]
    if not known:
        return [rows[0]["label"], ABSENT, ABSENT, "failed", ABSENT, ABSENT]
    row = known[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted({each["rate"] for each in known}))
    took = seconds(statistics.median(each["cpu"] for each in known))
    share = f"{row['trained'] / row['total']:.1%}"
    return [row["label"], f"{row['trained']:,}", share, told([each["error"] for each in known]), rates, took]


def _spectra(rows: Sequence[Row]) -> Sheet:
    """Return the energy outside rank 4 of full changes, mode by mode, beside a random tensor's."""
    lines = []
    for group in groups(rows):
        here = [row for row in of(_in(rows, group), label=FULL) if "spectra" in row]
        if here:
            pairs = [
                " / ".join(
                    f"{statistics.mean(row['spectra'][kind][mode][SHOWN] for row in here):.2f}"
                    for kind in ("change", "random")
                )
                for mode in MODES
            ]
            lines.append([_titled(group), *pairs])
    note = "The middle layer's change after all weights were trained / a tensor of random numbers."
    return Sheet(f"Energy outside rank {SHOWN}, mode by mode", ["fitted to", *MODES], lines, note)


def _cut(rows: Sequence[Row]) -> Sheet:
    """Return the error of the full change cut to a rank, beside that of training at it."""
    lines = []
    for group in groups(rows):
        here = _in(rows, group)
        full = [row for row in of(here, label=FULL) if "cut" in row]
        if full:
            both = [
                f"{quantity(mean([row['cut'][way] for row in full]))} / "
                f"{quantity(mean([row.get('error') for row in of(here, label=way)]))}"
                for way in RANKS
            ]
            lines.append([_titled(group), *both, quantity(mean([row["error"] for row in full]))])
    heads = ["fitted to", *(f"rank {rank}" for rank in RANKS.values()), "uncut"]
    return Sheet("Error after the full change is cut to a rank / after training at it", heads, lines)


def best(row: Row) -> tuple[float, float] | None:
    """Return the base rate that does best in a sweep, between those that were tried, and its error.

    The place is that of a parabola through the logarithms at the best rate and its two neighbours.
    """
    known = sorted((float(rate), error) for rate, error in row["chosen"].items() if error)
    if not known:
        return None
    place = min(range(len(known)), key=lambda k: known[k][1])
    rate = known[place][0]
    error = row["sweep"][f"{rate:g}"]
    if 0 < place < len(known) - 1:
        x, y = np.log(np.array(known[place - 1 : place + 2])).T
        a, b, _ = np.polyfit(x, y, 2)
        rate = float(np.exp(-b / (2 * a))) if a > 0 else rate
    return rate, error


def _sweep(rows: Sequence[Row]) -> Sheet:
    lines = []
    here = of(rows, part=RATES)
    for width in sorted({row["width"] for row in here}):
        for policy in POLICIES:
            found = [pair for pair in map(best, of(here, width=width, label=policy)) if pair]
            if found:
                lines.append([f"{width}", policy, told([rate for rate, _ in found]), told([e for _, e in found])])
    note = "Each policy at its own best base rate of the sweep."
    return Sheet("Rates by component, three widths", ["width", "policy", "best base rate", "error"], lines, note)


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return spectra, truncation, error against numbers and seconds for each transfer, and the sweep."""
    drawn = []
    for part, what in ((FUNCTION, "functions"), (PDE, "equations")):
        full = [row for row in of(rows, part=part, label=FULL) if "spectra" in row]
        caption = f"{what}: energy of the middle layer's full change outside each rank; dashed, of a random tensor"
        drawn.append(Drawn(f"spectra-{what}", _outside(full), caption))
    for group in groups(rows):
        here = [row for row in _in(rows, group) if row["label"] in WAYS and row.get("error")]
        title = _titled(group)
        caption = f"{title}: error against trained numbers, a dot for each seed, and against seconds, a line for each"
        drawn.append(Drawn(f"transfer-{title.replace(',', '').replace(' ', '-')}", _transfer(here), caption))
    caption = "Error against the base rate, by policy and width; dots are seeds"
    drawn.append(Drawn("rates", _rates(of(rows, part=RATES)), caption))
    return drawn


def _outside(rows: Sequence[Row]) -> Figure | None:
    if not rows:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    styles = palette((task, task) for task in tasks)
    figure = Figure(figsize=(9.3, 2.9), layout="constrained")
    axes = None
    for place, mode in enumerate(MODES):
        axes = dress(figure.add_subplot(1, 3, place + 1))
        lines = [(task, of(rows, task=task), "change", styles[task]) for task in tasks]
        lines.append(("random tensor", list(rows), "random", Style(INK, "--", "")))
        for name, here, kind, style in lines:
            curves = np.array([row["spectra"][kind][mode] for row in here]).mean(0)[:-1]
            axes.plot(np.arange(len(curves)), curves, linestyle=style.dash, color=style.colour, label=plain(name),
                      linewidth=1.5, alpha=0.6 if kind == "random" else 1)  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(ylim=(0, 1.03), xlabel=f"rank, {mode}", ylabel="energy outside" if not place else "")
    assert axes is not None
    legend(figure, axes)
    return figure


def _transfer(rows: Sequence[Row]) -> Figure | None:
    """Draw error against trained numbers, with the full change cut to each rank, and against seconds."""
    styles = {way: style for way, style in palette(COLOURED.items()).items() if of(rows, label=way)}
    if not styles:
        return None
    figure = Figure(figsize=(9.3, 3.1), layout="constrained")
    left, right = (dress(figure.add_subplot(1, 2, place)) for place in (1, 2))
    for way in (way for way in WAYS if way in styles):
        here, style = of(rows, label=way), styles[way]
        numbers, errors = [row["trained"] for row in here], [row["error"] for row in here]
        left.plot(numbers, errors, style.marker, color=style.colour, alpha=0.35, markersize=4)
        left.plot(numbers[0], statistics.geometric_mean(errors), style.marker, color=style.colour, markersize=9)
        left.plot([], [], style.marker, color=style.colour, linestyle=style.dash, label=plain(way))
        for row in here:
            t, e = (np.array(row["curve"][key], dtype=float) for key in ("cpu", "error"))
            line = right.plot(t, e, linestyle=style.dash, color=style.colour, linewidth=1.2)
            line[0].set(marker=style.marker, markersize=5, markevery=[len(t) - 1])
    _draw_cut(left, rows)
    left.margins(0.12, 0.1)
    logarithmic(left, "x", write=count, crowd=1.8)
    for axes in (left, right):
        logarithmic(axes, "y")
    left.set(xlabel="trained numbers", ylabel="relative error")
    right.set(xlabel="seconds of one core")
    legend(figure, left)
    return figure


def _draw_cut(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the error of the full change cut to each rank, above the numbers of a form of that rank."""
    cuts = [row["cut"] for row in rows if "cut" in row]
    pairs = [(here[0]["trained"], mean([cut[way] for cut in cuts])) for way in RANKS if (here := of(rows, label=way))]
    known = [(numbers, error) for numbers, error in pairs if error]
    if known:
        axes.plot(*zip(*known, strict=True), "x:", color=INK, linewidth=1.2, label="full, cut to the rank")


def _rates(rows: Sequence[Row]) -> Figure | None:
    widths = sorted({row["width"] for row in rows})
    if not widths:
        return None
    styles = palette(RULED.items())
    figure = Figure(figsize=(9.3, 2.9), layout="constrained")
    axes, first = None, None
    for place, width in enumerate(widths):
        axes = dress(figure.add_subplot(1, len(widths), place + 1, sharey=first))
        first = first or axes
        for policy in POLICIES:
            found = [(float(rate), error) for row in of(rows, width=width, label=policy)
                     for rate, error in row["sweep"].items() if error]  # fmt: skip
            if not found:
                continue
            style, rates = styles[policy], sorted({rate for rate, _ in found})
            axes.plot(*zip(*found, strict=True), style.marker, color=style.colour, alpha=0.35, markersize=3.5)
            means = [statistics.geometric_mean([error for each, error in found if each == rate]) for rate in rates]
            axes.plot(rates, means, linestyle=style.dash, color=style.colour, linewidth=1.5, label=plain(policy))
        logarithmic(axes, "x", "y")
        axes.set_title(f"width {width}", fontsize=9)
        axes.set(xlabel="base rate", ylabel="relative error" if not place else "")
    assert axes is not None
    legend(figure, axes)
    return figure
