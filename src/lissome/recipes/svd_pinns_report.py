"""The published table of SVD-PINNs beside ours, what the default gains, and error against seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lissome.recipes.paper import Drawn, Row, Sheet
from lissome.report.drawing import blank, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, seconds

# c, method -> steps -> mean((u - u*)^2) / mean(u*^2); Allen-Cahn, one seed
PUBLISHED: dict[tuple[float, str], dict[int, float]] = {
    (0.5, "D by descent"): {4_000: 1.97e-3, 20_000: 1.50e-3},
    (0.5, "D by Adam"): {4_000: 1.99e-3, 20_000: 1.53e-3},
    (2.0, "D by descent"): {4_000: 6.90e-4, 20_000: 4.64e-4},
    (2.0, "D by Adam"): {4_000: 8.45e-4, 20_000: 5.78e-4},
    (50.0, "D by descent"): {4_000: 3.65e-3, 20_000: 2.65e-3},
    (50.0, "full"): {4_000: 2.34e-3, 20_000: 9.06e-4},
}
MARK = 20_000
COLOURED = {"D by descent": "svd", "D by Adam": "lora", "svd": "svd", "full": "full", "scratch": "scratch"}


def error_at(row: Row, step: int | None = None) -> float | None:
    """Return the squared error at the end, or after so many steps; None where the cell did not get there."""
    curve = row["curve"]
    pairs = [(s, e) for s, e in zip(curve["step"], curve["squared_error"], strict=True) if e is not None]
    if not pairs or row["failed"]:
        return None
    return pairs[-1][1] if step is None else dict(pairs).get(step)


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return the published table beside ours, then a table for each family and preset."""
    whole = any(row["family"] == "allen-cahn" and not row["quick"] for row in rows)
    sheets = [_published(rows), _reached(rows)] if whole else []
    for family, preset in dict.fromkeys((row["family"], row["preset"]) for row in rows):
        here = [row for row in rows if (row["family"], row["preset"]) == (family, preset)]
        heads = ["c", "trained", "numbers", "squared error at the end", "on uniform points", "steps", "seconds"]
        groups = dict.fromkeys((row["c"], row["label"]) for row in here)
        lines = [_line([row for row in here if (row["c"], row["label"]) == group]) for group in groups]
        sheets.append(Sheet(f"{family}, {preset} preset", heads, lines))
    return sheets


def _published(rows: Sequence[Row]) -> Sheet:
    heads = ["c", "trained", "steps", "published", "ours, published preset", "ours / published", "default svd", "gain"]
    ours = [row for row in rows if row["family"] == "allen-cahn" and not row["quick"]]
    lines = []
    for (c, label), marks in PUBLISHED.items():
        best = [error_at(row) for row in ours if (row["preset"], row["c"], row["label"]) == ("default", c, "svd")]
        for step, value in marks.items():
            chosen = [row for row in ours if (row["preset"], row["c"], row["label"]) == ("published", c, label)]
            found = [error_at(row, step) for row in chosen]
            same, beaten = _mean(found), _mean(best)
            ratio = ABSENT if same is None else f"{same / value:.2f}"
            gain = ABSENT if beaten is None else f"{value / beaten:.0f}"
            lines.append([f"{c:g}", label, f"{step:,}", f"{value:.2e}", _told(found), ratio, _told(best), gain])
    return Sheet("Published and ours, Allen-Cahn, squared error", heads, lines)


def _reached(rows: Sequence[Row]) -> Sheet:
    """Return seconds and trained numbers to the least error that is published for a member, after 20,000 steps."""
    heads = ["c", "published", "preset", "trained", "numbers", "reached", "steps", "seconds"]
    lines = []
    for c in dict.fromkeys(c for c, _ in PUBLISHED):
        wanted = min(marks[MARK] for (member, _), marks in PUBLISHED.items() if member == c)
        here = [row for row in rows if row["family"] == "allen-cahn" and row["c"] == c and not row["quick"]]
        for preset, label in dict.fromkeys((row["preset"], row["label"]) for row in here):
            own = [row for row in here if (row["preset"], row["label"]) == (preset, label)]
            found = [first for first in (reached(row, wanted) for row in own) if first is not None]
            steps, took = (_between([pair[k] for pair in found]) for k in (0, 1))
            count = f"{len(found)} of {len(own)}"
            lines.append([f"{c:g}", f"{wanted:.2e}", preset, label, f"{own[0]['trained']:,}", count, steps, took])
    return Sheet("To the published errors after 20,000 steps, Allen-Cahn; seeds that reach them", heads, lines)


def reached(row: Row, error: float) -> tuple[float, float] | None:
    """Return the step and the seconds at which a run is first at most at an error."""
    curve = row["curve"]
    found = zip(curve["step"], curve["seconds"], curve["squared_error"], strict=True)
    return next(((step, t) for step, t, e in found if e is not None and e <= error), None)


def _between(values: Sequence[float]) -> str:
    """Return the mean, and least and greatest where there are several."""
    if not values:
        return ABSENT
    mean, low, high = (seconds(each) for each in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def _line(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    uniform = [r["curve"]["error_uniform"][-1] for r in rows if r["curve"]["error_uniform"]]
    squared = [None if value is None else value**2 for value in uniform]
    steps = [r["curve"]["step"][-1] for r in rows if r["curve"]["step"]]
    took = seconds(statistics.median(r["seconds"] for r in rows))
    failed = sum(bool(r["failed"]) for r in rows)
    told = _told([error_at(r) for r in rows]) + (f" ({failed} of {len(rows)} failed)" if failed else "")
    count = f"{row['trained']:,} of {row['total']:,}"
    return [f"{row['c']:g}", row["label"], count, told, _told(squared), f"{max(steps, default=0):,}", took]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None


def _told(values: Sequence[float | None]) -> str:
    """Return the geometric mean, and least and greatest where there are several."""
    known, mean = [value for value in values if value], _mean(values)
    if mean is None:
        return ABSENT
    return f"{mean:.2e}" + (f" ({min(known):.1e} to {max(known):.1e})" if len(known) > 1 else "")


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return error against seconds, a figure for each family and c."""
    drawn = []
    for family, c in dict.fromkeys((row["family"], row["c"]) for row in rows if row["label"] != "start"):
        here = [row for row in rows if (row["family"], row["c"]) == (family, c) and row["label"] != "start"]
        caption = f"{family}, c = {c:g}: squared error against seconds, a line for each seed"
        drawn.append(Drawn(f"{family}-c-{c:g}", _curves(here), caption))
    return drawn


def _curves(rows: Sequence[Row]) -> Figure | None:
    names = {f"{row['preset']}: {row['label']}": COLOURED[row["label"]] for row in rows}
    styles = palette(names.items())
    figure, axes = blank()
    seen = set[str]()
    for row in rows:
        name, curve = f"{row['preset']}: {row['label']}", row["curve"]
        pairs = [(t, e) for t, e in zip(curve["seconds"], curve["squared_error"], strict=True) if e and t]
        if not pairs:
            continue
        t, e = np.array(pairs).T
        label = None if name in seen else plain(name)
        axes.plot(t, e, color=styles[name].colour, linestyle=styles[name].dash, linewidth=1.4, label=label)
        seen.add(name)
    if not seen:
        return None
    logarithmic(axes, "x", "y")
    axes.set(xlabel="seconds", ylabel="squared error")
    legend(figure, axes)
    return figure
