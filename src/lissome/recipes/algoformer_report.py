"""Tables of AlgoFormer: errors beside the oracles', iterations beyond and below the trained ones, bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from lissome.language.score import perplexity
from lissome.recipes.algoformer_claims import LAST, MEAN, drift, error, finite, half
from lissome.recipes.algoformer_drawings import drawings, known
from lissome.recipes.algoformer_names import BYTES, LINEAR, PLAIN, READERS, READING, REPRESENTATION, TRIALS
from lissome.recipes.incontext.measure import LOST, TIMES, TOLERANCE
from lissome.recipes.language_contest_seeds import pairs
from lissome.recipes.paper import Row, Sheet, of
from lissome.report.numerals import ABSENT, count

__all__ = ["drawings", "tables"]

TITLES = {REPRESENTATION: "A hidden representation", LINEAR: "Linear regression"}
PLACES = {REPRESENTATION: (LAST,), LINEAR: (LAST, MEAN)}  # of pairs, places before the last were not trained on
INFINITE = "not finite"


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return two tables of each task, and one of the bytes."""
    made = [sheet for part in TRIALS for sheet in (_errors(part, of(rows, part)), _loops(part, known(rows, part)))]
    return [sheet for sheet in [*made, _bytes(of(rows, BYTES))] if sheet.rows]


def _plainly(value: float) -> str:
    return f"{value:.4f}" if value < 100 else f"{value:.1e}"


def middle(values: Sequence[float], write: Callable[[float], str] = _plainly) -> str:
    """Return the median, and least and greatest where they are told apart.

    >>> middle([0.5, 1.0, math.inf])
    '1.0000 (0.5000 to not finite)'
    """
    if not values:
        return ABSENT
    told = [INFINITE if math.isinf(each) else write(each) for each in (statistics.median(values), *_ends(values))]
    return f"{told[0]} ({told[1]} to {told[2]})" if told[1] != told[2] else told[0]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _errors(part: str, asked: Sequence[Row]) -> Sheet:
    lines, rows = [], known(asked, part)
    for label in TRIALS[part].contestants:
        own, failed = of(rows, label=label), sum(bool(row["failed"]) for row in of(asked, label=label))
        if own or failed:
            lines.append([f"{label} ({failed} more ended nowhere)" if failed else label,
                          *(middle([error(row, where) for row in own]) for where in PLACES[part]),
                          middle([half(row) for row in own]),
                          *(middle([row[name] for row in own], count) for name in ("numbers", "steps", "skipped")),
                          middle([row["last"]["lost"] for row in own], count),
                          middle([1000 * row["each"] for row in own], "{:.1f}".format)])  # fmt: skip
    for name, each in (rows[0]["oracles"] if rows else {}).items():
        told = {LAST: each[-1], MEAN: statistics.mean(each)}
        lines.append([name, *(f"{told[where]:.4f}" for where in PLACES[part]), *[ABSENT] * 6])
    heads = ["", *PLACES[part], "of half the prompts, at most", "numbers", "steps", "left out", "lost", "CPU ms a step"]
    return Sheet(
        f"{TITLES[part]}: squared error", heads, lines,
        "Medians over seeds, in brackets the least and the greatest; divided by the mean square of y, on "
        f"{rows[0]['prompts'] if rows else 0:,} fresh prompts. Left out: steps that were not finite; lost: prompts "
        f"with an error above {LOST:g}, which the mean has in it; ended nowhere: trained to weights whose loss was not "
        "finite, which claims take for an infinite error.",
    )  # fmt: skip


def _loops(part: str, rows: Sequence[Row]) -> Sheet:
    lines, looped = [], [row for row in rows if row["iterations"] > 1]
    for label in TRIALS[part].contestants:
        own = of(looped, label=label)
        if own:
            at = [middle([_at(row, times * row["iterations"]) for row in own]) for times in (1, 2, TIMES)]
            broken = sorted(row["broken"] for row in own if row["broken"] is not None)
            settled = [row["settled"] for row in own]
            lines.append([label, *at, middle([drift(row) for row in own], "{:.3g}".format),
                          ", ".join(map(str, broken)) or "none",
                          middle([each["iterations"] for each in settled], "{:.2f}".format),
                          middle([finite(each["error"]) for each in settled])])  # fmt: skip
    T = looped[0]["iterations"] if looped else 0
    heads = ["", *(f"{times * T} iterations" for times in (1, 2, TIMES)), f"{TIMES} T / T", "not finite from",
             "early exit, iterations", "its error"]  # fmt: skip
    return Sheet(f"{TITLES[part]}: other iterations than the {T} trained, squared error at the last place", heads,
                 lines, f"Early exit: when predictions move by less than {TOLERANCE:g} of their size.")  # fmt: skip


def _at(row: Row, iterations: int) -> float:
    return finite(row["by iterations"][iterations - 1])


def _bytes(rows: Sequence[Row]) -> Sheet:
    told, lines = [row for row in rows if "nats" in row], []
    for label in READERS:
        own = of(told, label=label)
        if own:
            apart = [math.exp(a["nats"] - b["nats"]) for a, b in pairs(told, label, PLAIN)]
            lines.append([label, middle([perplexity(row["nats"]) for row in own], "{:.3f}".format),
                          ABSENT if label == PLAIN else middle(apart, "{:.3f}".format),
                          *(middle([row[name] for row in own], count) for name in ("numbers", "steps")),
                          middle([1000 * row["each"] for row in own], "{:.1f}".format)])  # fmt: skip
    heads = ["", "perplexity of a byte", "beside plain", "numbers", "steps", "CPU ms a step"]
    return Sheet(f"Bytes: decoders of three layers, AlgoFormer's middle one {READING.iterations} times", heads, lines)
