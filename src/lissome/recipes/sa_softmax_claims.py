"""What SA-Softmax claims at small size, what stands against it, and the figures that decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from lissome.recipes.language_contest_seeds import Pick, pairs, picked, whole
from lissome.recipes.paper import Claim, Ratio, Row, Spread, of, spread
from lissome.recipes.sa_softmax_names import (
    ADAM,
    AS_LONG,
    BEST,
    BYTES,
    CAP,
    DEEP,
    FIRST,
    HELD_STILL,
    LENGTH,
    LENGTHS,
    LOOKUP,
    ORDINARY,
    PLAIN,
    POSITION,
    ROW,
    SATURATED,
    SECOND,
    SGD,
    VARIANTS,
)

PAPER, HERE = "arXiv 2502.18277", "here"
SURE = 0.975  # of a t distribution: 5% on two sides
LEARNT = 0.5  # accuracy; a guess has a sixteenth
COMPARED = ((PLAIN, "as many steps", PAPER), (f"{AS_LONG}{BEST}", "as many seconds", HERE))  # beside V4


class Paired(NamedTuple):
    """Differences seed by seed: each, their mean, t, and the two-sided p; both NaN of fewer than two."""

    each: tuple[float, ...]
    mean: float
    t: float
    p: float


def paired(ones: Sequence[float], others: Sequence[float]) -> Paired:
    """Compare what two have seed by seed.

    >>> found = paired([1.0, 2.0, 3.5], [2.0, 4.0, 4.5])
    >>> round(found.mean, 3), round(found.t, 3), round(found.p, 3)
    (-1.333, -4.0, 0.057)
    """
    each = tuple(one - other for one, other in zip(ones, others, strict=True))
    mean = statistics.mean(each)
    error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else 0.0
    t = mean / error if error else math.nan
    return Paired(each, mean, t, float(2 * stats.t.sf(abs(t), len(each) - 1)) if error else math.nan)


def beside(rows: Sequence[Row], one: str, other: str) -> Paired | None:
    """Compare the nats of two that read the same text at the same seeds."""
    nats = [(a["nats"], b["nats"]) for a, b in pairs(of(rows, BYTES), one, other)]
    return paired(*zip(*nats, strict=True)) if nats else None


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of the row, of the look-up and of bytes."""
    rows = whole(rows)
    small = [row for row in of(rows, BYTES) if not row["large"]]
    return [*_row(of(rows, ROW)), *_lookup(of(rows, LOOKUP)), *_bytes(small), *_large(rows)]


def _row(rows: Sequence[Row]) -> list[Claim]:
    said = f"steps of SGD, a wrong key at c = {DEEP}"
    return [
        Claim(f"a softmax that is sure of the wrong key does not leave it in {CAP:,} steps of SGD", HERE,
              f"{said}, softmax, the least", _reached(rows, PLAIN, min), least=CAP),
        Claim("V1 leaves it in ten", HERE, f"{said}, V1, medians over starts, the greatest",
              _reached(rows, FIRST, statistics.median), most=10),
        Claim("V1 leaves it from every start", HERE, f"{said}, V1, the greatest", _reached(rows, FIRST, max),
              most=CAP - 1),
        Claim("V4 with its extrema held constant in the gradient leaves it in a hundred", HERE,
              f"{said}, V4 detached, the greatest", _reached(rows, HELD_STILL, max), most=100),
        Claim(f"V4 as published does not leave it in {CAP:,}", HERE, f"{said}, V4, the least",
              _reached(rows, BEST, min), least=CAP),
        Claim("with Adam all variants but V2 need as many steps as the softmax", HERE,
              f"steps of Adam at c = {DEEP}, medians over starts, the slowest / the quickest, the greatest",
              _alike(rows, [label for label in VARIANTS if label != SECOND]), most=1.2),
        Claim("with Adam V2 does too", HERE, f"the same of softmax and V2, c = {DEEP}, the greatest",
              _alike(rows, [PLAIN, SECOND]), most=1.2),
        *(Claim(f"{said} restores the gradient of a softmax that is sure of the wrong key", HERE,
                f"first gradient at c = {DEEP}, {label} / softmax", _restored(rows, label), least=1e3)
          for label, said in ((FIRST, FIRST), (BEST, BEST), (HELD_STILL, "V4 with its extrema held constant"))),
    ]  # fmt: skip


def steps(row: Row, optimizer: str, c: int) -> list[int]:
    """Return the steps of each start; the cap where the right key did not lead by then."""
    return [CAP if step is None else step for step in row["reached"][optimizer][str(c)]]


def _reached(rows: Sequence[Row], label: str, pick: Pick) -> Spread | None:
    """Return what is picked of the starts of each seed, and of those the least if that is asked, else the greatest."""
    own = of(rows, label=label)
    if not own:
        return None
    found = [pick(steps(row, SGD, DEEP)) for row in own]
    capped = sum(step is None for row in own for step in row["reached"][SGD][str(DEEP)])
    starts = sum(len(row["reached"][SGD][str(DEEP)]) for row in own)
    worst = min(found) if pick is min else max(found)
    return Spread(worst, min(found), max(found), starts, capped, 0)


def _alike(rows: Sequence[Row], labels: Sequence[str]) -> Spread | None:
    """Return how many times the steps of the quickest the slowest needs, of each seed with all of them."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in of(rows, seed=seed) if row["label"] in labels]
        if len(own) == len(labels):
            medians = [statistics.median(steps(row, ADAM, DEEP)) for row in own]
            found.append(max(medians) / min(medians))
    return picked(found, max)


def _restored(rows: Sequence[Row], label: str) -> Spread | None:
    return spread([
        Ratio(a["seed"], one / other)
        for a, b in pairs(rows, label, PLAIN)
        for one, other in zip(a["gradient"][str(DEEP)], b["gradient"][str(DEEP)], strict=True)
    ])  # fmt: skip


def _lookup(rows: Sequence[Row]) -> list[Claim]:
    ordinary = [row["accuracy"] for row in of(rows, start=ORDINARY, optimizer=ADAM)]
    found = [Claim("from an ordinary start one layer learns most of the look-up with Adam", HERE,
                   "accuracy, softmax and V4, the least", picked(ordinary, min), least=LEARNT)]  # fmt: skip
    for optimizer, name in ((SGD, "SGD"), (ADAM, "Adam")):
        here = of(rows, start=SATURATED, optimizer=optimizer)
        own = {label: [row["accuracy"] for row in of(here, label=label)] for label in VARIANTS if label != PLAIN}
        best = max((label for label in own if own[label]), key=lambda label: statistics.mean(own[label]), default=None)
        said = f"accuracy with {name}, the best variant" + (f" ({best})" if best else "") + ", mean"
        found.append(Claim(f"a variant learns most of the look-up from a saturated start with {name}", HERE, said,
                           picked(own[best], statistics.mean) if best else None, least=LEARNT))  # fmt: skip
    sgd = of(rows, start=SATURATED, optimizer=SGD)
    for label in (FIRST, BEST, HELD_STILL):
        says = f"from a saturated start {label} keeps the gradient that the softmax loses, with SGD"
        what = f"norm in what makes queries and keys, {label} / softmax, second half of training"
        found.append(Claim(says, HERE, what, _kept(sgd, label), least=10))
    return found


def _kept(rows: Sequence[Row], label: str) -> Spread | None:
    return spread([
        Ratio(a["seed"], one / other)
        for a, b in pairs(rows, label, PLAIN)
        for one, other in _looks(a, b, "scores/0", half=True)
    ])  # fmt: skip


def _looks(one: Row, other: Row, key: str, *, half: bool = False) -> list[tuple[float, float]]:
    """Return what two have at the looks of training, of its second half if asked, where both are above 0."""
    a, b = one["gradients"][key], other["gradients"][key]
    return [(x, y) for x, y in list(zip(a, b, strict=True))[len(a) // 2 if half else 0 :] if x and y]


def _bytes(rows: Sequence[Row]) -> list[Claim]:
    found = []
    for other, said, source in COMPARED:
        apart = beside(rows, BEST, other)
        ratios = [math.exp(each) for each in apart.each] if apart else []
        what = f"perplexity, V4 / softmax of {said}, {POSITION}, {LENGTH} bytes"
        found += [
            Claim(f"V4 has a lower perplexity than the softmax after {said}", source, f"{what}, mean",
                  picked(ratios, statistics.geometric_mean), most=1.0),
            Claim(f"V4 has a lower perplexity than the softmax after {said}, beyond chance", HERE,
                  f"t of the nats, softmax - V4, {len(ratios)} seeds", _beyond(apart), least=_sure(len(ratios))),
        ]  # fmt: skip
    return [*found, Claim("under V4 more gradient reaches what makes queries and keys than under the softmax", PAPER,
                          "norm of their gradient, V4 / softmax, over layers and training", _gradients(rows),
                          least=1.0)]  # fmt: skip


def _sure(seeds: int) -> float:
    """Return the t that is wanted of so many seeds; of fewer than two there is none to hold it to."""
    return round(float(stats.t.ppf(SURE, max(seeds, 2) - 1)), 2)


def _beyond(apart: Paired | None) -> Spread | None:
    if apart is None or math.isnan(apart.t):
        return None
    return Spread(-apart.t, -apart.t, -apart.t, len(apart.each), 0, 0)


def _gradients(rows: Sequence[Row]) -> Spread | None:
    return spread([
        Ratio(a["seed"], one / other)
        for a, b in pairs(rows, BEST, PLAIN)
        for key in a["gradients"]
        if key.startswith("scores/")
        for one, other in _looks(a, b, key)
    ])  # fmt: skip


def _large(rows: Sequence[Row]) -> list[Claim]:
    """Return what a large look says of each length: the worst position decides."""
    found = []
    for length in LENGTHS:
        here = of(rows, BYTES, large=True, length=length)
        for other, said, source in COMPARED:
            places = dict.fromkeys(row["position"] for row in here)
            each = [apart for place in places if (apart := beside(of(here, position=place), BEST, other))]
            ratios = [math.exp(apart.mean) for apart in each]
            if ratios:
                found.append(Claim(
                    f"at {length:,} bytes V4 has a lower perplexity than the softmax after {said}, in every position",
                    source, f"perplexity, V4 / softmax, means over seeds of {len(ratios)} positions, the greatest",
                    picked(ratios, max), most=1.0))  # fmt: skip
    return found
