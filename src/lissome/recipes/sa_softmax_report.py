"""Tables of SA-Softmax: steps on one row, the look-up, nats of a byte beside the softmax's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lissome.recipes.language_contest_seeds import rates, written
from lissome.recipes.paper import Row, Sheet, of
from lissome.recipes.sa_softmax_claims import Paired, beside, steps
from lissome.recipes.sa_softmax_drawings import drawings
from lissome.recipes.sa_softmax_names import (
    ADAM,
    AS_LONG,
    BYTES,
    CAP,
    DEEP,
    LENGTH,
    LOOKUP,
    ORDINARY,
    PLAIN,
    POSITION,
    ROW,
    SATURATED,
    SGD,
    VARIANTS,
    WRONG,
)
from lissome.report.numerals import ABSENT, count, quantity

__all__ = ["drawings", "tables"]

NAMES = {SGD: "SGD", ADAM: "Adam"}


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return tables of the parts that have rows."""
    text = [row for row in of(rows, BYTES) if "nats" in row]
    small, large = ([row for row in text if row["large"] is which] for which in (False, True))
    made = [
        _steps(of(rows, ROW), SGD),
        _steps(of(rows, ROW), ADAM),
        _least(of(rows, ROW)),
        _first(of(rows, ROW)),
        *(_lookup(of(rows, LOOKUP, start=start), start) for start in (SATURATED, ORDINARY)),
        _equal_steps(small),
        _equal_seconds(small),
        _large(large),
    ]
    return [sheet for sheet in made if sheet.rows]


def _steps(rows: Sequence[Row], optimizer: str) -> Sheet:
    lines = []
    for label in VARIANTS:
        own = of(rows, label=label)
        found = [[step for row in own for step in steps(row, optimizer, c)] for c in WRONG]
        lines += [[label, *map(_taken, found)]] if own else []
    note = "Medians over starts and seeds, least and greatest; the values have gain 5."
    heads = ["", *(f"c = {c}" for c in WRONG)]
    return Sheet(f"One row: steps of {NAMES[optimizer]} until the right key leads", heads, lines, note)


def _least(rows: Sequence[Row]) -> Sheet:
    """Return the steps apart by whether the right key has the least score, where V1 and V2 hardly weigh it."""
    lines = []
    for label in VARIANTS:
        own = of(rows, label=label)
        found = [[step for row in own for step, last in zip(steps(row, optimizer, DEEP), row["least"], strict=True)
                  if last is which] for optimizer in (SGD, ADAM) for which in (True, False)]  # fmt: skip
        lines += [[label, *(_taken(each) if each else ABSENT for each in found)]] if own else []
    many = [sum(last is which for row in of(rows, label=PLAIN) for last in row["least"]) for which in (True, False)]
    heads = ["", *(f"{NAMES[optimizer]}, {said}" for optimizer in (SGD, ADAM) for said in ("least", "not least"))]
    note = f"Least: the right key begins with the least of all scores; {many[0]} starts, and {many[1]} others."
    return Sheet(f"One row, c = {DEEP}: steps by where the right key begins", heads, lines, note)


def _taken(found: Sequence[int]) -> str:
    low, middle, high = (_or_more(pick(found)) for pick in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def _or_more(step: float) -> str:
    return f"over {CAP:,}" if step >= CAP else f"{step:,.0f}"


def _first(rows: Sequence[Row]) -> Sheet:
    lines = []
    for label in VARIANTS:
        own = of(rows, label=label)
        found = [[norm for row in own for norm in row["gradient"][str(c)]] for c in WRONG]
        lines += [[label, *(quantity(_middle(each)) for each in found)]] if own else []
    heads = ["", *(f"c = {c}" for c in WRONG)]
    return Sheet("One row: norm of the first gradient in the scores", heads, lines,
                 "Geometric means over starts where the right key does not lead already.")  # fmt: skip


def _lookup(rows: Sequence[Row], start: str) -> Sheet:
    lines, known = [], [row for row in rows if "accuracy" in row]
    for optimizer in (SGD, ADAM):
        for label in VARIANTS:
            own = of(known, label=label, optimizer=optimizer)
            if not own:
                failed = of(rows, label=label, optimizer=optimizer)
                lines += [[NAMES[optimizer], label, "failed", *[ABSENT] * 5]] if failed else []
                continue
            norms = [[row["gradients"]["scores/0"] for row in own], [row["gradients"]["layer/0"] for row in own]]
            told = [" → ".join(quantity(_middle([curve[k] for curve in curves])) for k in (0, len(curves[0]) // 2, -1))
                    for curves in norms]  # fmt: skip
            sure = " → ".join(f"{statistics.mean(row[key] for row in own):.3f}" for key in ("sure", "ends sure"))
            accuracy = written([row["accuracy"] for row in own], "{:.3f}".format)
            loss = written([row["loss"] for row in own], "{:.2f}".format)
            lines.append([NAMES[optimizer], label, accuracy, loss, sure, *told, rates(own, "{:.3g}")])
    heads = ["", "", "accuracy", "nats, held out", "greatest weight", "gradient of q, k", "of the layer", "rate"]
    note = f"{known[0]['steps']} steps; a guess is right: {known[0]['chance']:.3g}. " if known else ""
    right = statistics.mean(row["right"] for row in known) if known else 0.0
    note += f"Weight on pairs that answer, at the start: {right:.3f}. Arrows: at the start, in the middle, at the end."
    return Sheet(f"Look-up in one layer, {start} start", heads, lines, note)


def _middle(values: Sequence[float]) -> float:
    """Return the geometric mean of what is above 0, and 0 if nothing is."""
    known = [value for value in values if value > 0]
    return statistics.geometric_mean(known) if known else 0.0


def _equal_steps(rows: Sequence[Row]) -> Sheet:
    lines = []
    for label in VARIANTS:
        own = of(rows, label=label)
        swept = next((row["rates"] for row in own if row["seed"] == 0), {})
        tried = ", ".join(f"{float(rate):.3g}: {swept[rate]:.3f}" for rate in sorted(swept, key=float))
        compared = _against(None if label == PLAIN else beside(rows, label, PLAIN))
        nats = written([row["nats"] for row in own], "{:.4f}".format)
        lines += [[label, nats, *compared, rates(own, "{:.3g}"), tried]] if own else []
    heads = ["", "nats of a byte", "beside softmax", "t", "p", "rate", "nats by rate, first seed"]
    note = (
        f"{rows[0]['steps']} steps. Below 0 is better than the softmax of the same seed; p is two-sided."
        if rows
        else ""
    )
    return Sheet(f"Bytes, {POSITION}, {LENGTH}: after as many steps", heads, lines, note)


def _against(found: Paired | None) -> list[str]:
    if found is None:
        return [ABSENT] * 3
    rest = [ABSENT] * 2 if math.isnan(found.t) else [f"{found.t:+.1f}", f"{found.p:.2f}"]
    return [written(found.each, "{:+.4f}".format), *rest]


def _equal_seconds(rows: Sequence[Row]) -> Sheet:
    lines = []
    for label in VARIANTS:
        other = of(rows, label=f"{AS_LONG}{label}")
        if other:
            columns = (("ratio", "{:.2f}".format), ("steps", count), ("nats", "{:.4f}".format))
            told = [written([row[key] for row in other], write) for key, write in columns]
            lines.append([label, *told, *_against(beside(rows, label, f"{AS_LONG}{label}"))])
    heads = ["", "seconds of a step / softmax's", "softmax's steps", "its nats", "the variant beside it", "t", "p"]
    return Sheet(f"Bytes, {POSITION}, {LENGTH}: after as many seconds", heads, lines)


def _large(rows: Sequence[Row]) -> Sheet:
    lines, write = [], "{:.4f}".format
    for length, position in dict.fromkeys((row["length"], row["position"]) for row in rows):
        here = of(rows, length=length, position=position)
        labels = [label for label in VARIANTS if of(here, label=label)]
        told = [
            "; ".join(f"{label} {written([row['nats'] for row in of(here, label=label)], write)}" for label in labels)
        ]
        for other in (PLAIN, f"{AS_LONG}V4"):
            told.append(_against(beside(here, "V4", other))[0])
        lines.append([position, f"{length:,}", *told])
    heads = ["position", "length", "nats of a byte", "V4 beside softmax, as many steps", "as many seconds"]
    return Sheet("Bytes, a large look", heads, lines)
