"""What AlgoFormer claims at small size, what stands against it, and the figures that decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from lissome.recipes.algoformer_names import (
    ADDED,
    ALGO,
    AS_LONG,
    BYTES,
    CUT,
    DEEP,
    LINEAR,
    LOOPED,
    NONE,
    NORMED,
    PLAIN,
    REPRESENTATION,
)
from lissome.recipes.incontext.measure import TIMES
from lissome.recipes.language_contest_seeds import Pick, pairs, picked
from lissome.recipes.paper import Claim, Row, Spread, of

PAPER, BASELINE, HERE = "arXiv 2402.13572", "arXiv 2311.12424", "here"
AFFINE = "affine ridge on x"
LAST, MEAN = "at the last place", "over all places"
FACTOR = 0.3  # of a plain model's error
LOW = 0.03
LEVEL = 1.1  # error far beyond the trained iterations, beside that at them
FEWER, LOSSLESS = 0.9, 1.05  # iterations of early exit beside the trained ones, and its error


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of both tasks, of iterations beyond and below the trained ones, of the gradient, of bytes."""
    rows = [row for row in rows if not row["quick"]]  # one that failed stays, and is the worst
    learnt, linear = of(rows, REPRESENTATION), of(rows, LINEAR)
    early = [*_fewer(learnt, ADDED, "linear attention"), *_fewer(linear, ADDED, "softmax")]
    return [*_learnt(learnt), *_linear(linear), *_beyond(learnt, linear), *early, *_cut(linear),
            *_bytes(of(rows, BYTES))]  # fmt: skip


def error(row: Row, where: str = LAST) -> float:
    """Return the mean squared error of a row; infinity where it was not finite."""
    return math.inf if row["failed"] else finite(row["last"]["error"] if where == LAST else row["mean"])


def half(row: Row) -> float:
    """Return the squared error that half the prompts do not exceed, whatever becomes of a few."""
    return math.inf if row["failed"] else finite(row["last"]["median"])


def finite(value: float | None) -> float:
    """Return a number, infinity where there is none."""
    return math.inf if value is None or math.isnan(value) else value


def drift(row: Row) -> float:
    """Return the error at four times the trained iterations beside that at them; infinity where it is not finite."""
    if row["failed"]:
        return math.inf
    found = row["by iterations"]
    own, far = finite(found[row["iterations"] - 1]), finite(found[TIMES * row["iterations"] - 1])
    return far / own if own < math.inf else math.inf


def _medians(rows: Sequence[Row], one: str, other: str, what=error) -> Spread | None:
    """Return the ratio of two labels' medians over seeds, and the ratios of seeds at its ends."""
    both = [(what(a), what(b)) for a, b in pairs(rows, one, other)]
    tops, bottoms = [a for a, _ in both], [b for _, b in both]
    if not both or statistics.median(bottoms) == math.inf:
        return None
    each = [a / b if b < math.inf else 0.0 for a, b in both]
    return picked(each, lambda _: statistics.median(tops) / statistics.median(bottoms))


def _ratios(rows: Sequence[Row], one: str, other: str, where: str = LAST) -> Spread | None:
    """Return the greatest ratio of errors over seeds."""
    each = [error(a, where) / error(b, where) for a, b in pairs(rows, one, other) if error(b, where) < math.inf]
    return picked(each, max)


def _values(rows: Sequence[Row], label: str, pick: Pick, what=error) -> Spread | None:
    return picked([what(row) for row in of(rows, label=label)], pick)


def _learnt(rows: Sequence[Row]) -> list[Claim]:
    """Return who learns the representation at equal weights and steps, layers, and seconds."""
    said, what = "linear attention: AlgoFormer's error, with injection, is", "squared error, AlgoFormer"
    floor = [math.inf if row["failed"] else error(row) / row["oracles"][AFFINE][-1] for row in of(rows, label=ADDED)]
    return [
        Claim(f"{said} far below that of a plain model with as many weights, at equal steps", PAPER,
              f"{what} / plain, medians over seeds", _medians(rows, ADDED, PLAIN), most=FACTOR),
        Claim(f"{said} below the looped model's, at equal steps", PAPER,
              f"{what} / looped, medians over seeds", _medians(rows, ADDED, LOOPED), most=1.0),
        Claim(f"{said} at most {LOW:g}", HERE,
              f"{what}, median over seeds", _values(rows, ADDED, statistics.median), most=LOW),
        Claim(f"{said} below that of affine regression: the representation is learnt, in every seed", HERE,
              f"{what} / {AFFINE}, the greatest", picked(floor, max), most=1.0),
        Claim(f"{said} below that of a plain model with as many layers as it runs, at equal steps", HERE,
              f"{what} / plain with as many layers, of half the prompts at most, medians over seeds",
              _medians(rows, ADDED, DEEP, half), most=1.0),
        Claim(f"{said} below that of the plain model that is trained for as many seconds", HERE,
              f"{what} / plain trained as long, medians over seeds", _medians(rows, ADDED, AS_LONG), most=1.0),
        Claim(f"{said} below that without", HERE,
              f"{what}, with injection / without, medians over seeds", _medians(rows, ADDED, NONE), most=1.0),
    ]  # fmt: skip


def _linear(rows: Sequence[Row]) -> list[Claim]:
    beside = ((PLAIN, PAPER), (LOOPED, PAPER), (DEEP, HERE), (NONE, HERE))
    return [
        Claim(f"softmax, linear regression: AlgoFormer with injection is better than {other} {where}, in every seed",
              source, f"squared error, with injection / {other}, the greatest", _ratios(rows, ADDED, other, where),
              most=1.0)
        for other, source in beside for where in (MEAN, LAST)
    ]  # fmt: skip


def _beyond(learnt: Sequence[Row], linear: Sequence[Row]) -> list[Claim]:
    """Return what iterations beyond the trained number do to the error."""
    what = f"error at {TIMES} T / at T"
    stable = ((ADDED, "AlgoFormer with injection", HERE), (LOOPED, "the looped model", BASELINE))
    kept = [sum(not row["failed"] and row["broken"] is None for row in rows) / len(rows)
            for label in (NONE, ADDED, NORMED, LOOPED) if (rows := of(learnt, label=label))]  # fmt: skip
    return [
        *(Claim(f"softmax: {name} keeps its error at {TIMES} times the trained iterations, in every seed", source,
                f"{what}, the greatest", _values(linear, label, max, drift), most=LEVEL)
          for label, name, source in stable),
        Claim("softmax: injection makes the drift smaller", HERE, f"{what}, with injection / without, medians",
              _medians(linear, ADDED, NONE, drift), most=1.0),
        Claim("softmax: a norm in the loop makes the drift smaller still", HERE,
              f"{what}, with the norm / without, medians", _medians(linear, NORMED, ADDED, drift), most=1.0),
        Claim(f"linear attention: no model with a loop leaves the range of numbers within {TIMES} times the trained "
              "iterations", HERE, "seeds in which it does not, the least part of a model's", picked(kept, min),
              least=1.0),
    ]  # fmt: skip


def _fewer(rows: Sequence[Row], label: str, name: str) -> list[Claim]:
    """Return whether early exit saves iterations, and whether that costs anything."""
    own = [row for row in of(rows, label=label) if row.get("settled")]
    taken = [row["settled"]["iterations"] / row["iterations"] for row in own]
    cost = [finite(row["settled"]["error"]) / error(row) for row in own if error(row) < math.inf]
    return [
        Claim(f"{name}: early exit, which watches predictions, saves iterations, in every seed", HERE,
              f"mean iterations / T, {label}, the greatest", picked(taken, max), most=FEWER),
        Claim(f"{name}: early exit costs next to nothing, in every seed", HERE,
              f"squared error, {label}, with it / without, the greatest", picked(cost, max), most=LOSSLESS),
    ]  # fmt: skip


def _cut(rows: Sequence[Row]) -> list[Claim]:
    said = "the full gradient is better than one that is cut before the supervised iterations"
    return [Claim(f"softmax: {said} {where}, in every seed", HERE, "squared error, full / cut, the greatest",
                  _ratios(rows, ADDED, CUT, where), most=1.0) for where in (MEAN, LAST)]  # fmt: skip


OTHERS: Mapping[str, str] = {
    PLAIN: "a plain one of as many weights",
    DEEP: "a plain one of as many layers as it runs",
    AS_LONG: "a plain one of as many weights that is trained for as many seconds",
}


def _bytes(rows: Sequence[Row]) -> list[Claim]:
    known = [row for row in rows if "nats" in row]
    return [
        Claim(f"bytes: a decoder with AlgoFormer's body is better than {what}, in every seed", HERE,
              "perplexity, AlgoFormer / plain, the greatest",
              picked([math.exp(a["nats"] - b["nats"]) for a, b in pairs(known, ALGO, label)], max), most=1.0)
        for label, what in OTHERS.items()
    ]  # fmt: skip
