"""What SepLLM claims at small size, and the figures that decide; readers are compared at equal measured use alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from lissome.recipes.language_contest_seeds import pairs, picked, whole
from lissome.recipes.paper import Claim, Row, Spread, of
from lissome.recipes.sa_softmax_claims import SURE, Paired, paired
from lissome.recipes.sepllm_names import (
    CACHE,
    FIX,
    FREE,
    FULL,
    MASK,
    NEEDLE,
    OTHERS,
    SEPLLM,
    STREAM,
    TRAINED,
    TRAINING,
)
from lissome.recipes.sepllm_rules import ALIKE

PAPER, HERE = "arXiv 2412.12094", "here"
WAYS: Mapping[str, dict[str, Any]] = {  # how a trained model is read -> which rows these are
    "by mask": {"part": FREE, "mode": MASK},
    "by cache": {"part": FREE, "mode": CACHE},
    "as a stream": {"part": STREAM},
    "trained with its own mask": {"part": TRAINING},
}
CLOSE = 1.05  # perplexity beside full attention's
LEVEL = 1.02  # last tenth of a stream beside the first, both beside full attention
RECALLED = 0.9  # accuracy; a guess has an eighth


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of each way to read, of streams, of training and of facts far behind."""
    rows = whole(rows)
    return [
        *(claim for way in WAYS for claim in _beside_others(rows, way)),
        *_full(rows),
        *_stream(of(rows, STREAM)),
        *_needle(of(rows, NEEDLE)),
    ]


def fair(rows: Sequence[Row], way: str) -> list[Row]:
    """Return the rows of a way to read in which as many keys are used as by SepLLM, and those of full attention."""
    found = [row for row in of(rows, **WAYS[way]) if "nats" in row]
    return [row for row in found if row["label"] == FULL or abs(row["used"] / row["wanted"] - 1) <= ALIKE]


def beside(rows: Sequence[Row], one: str, other: str) -> Paired | None:
    """Compare the nats of two labels seed by seed."""
    nats = [(a["nats"], b["nats"]) for a, b in pairs(rows, one, other)]
    return paired(*zip(*nats, strict=True)) if nats else None


def _beside_others(rows: Sequence[Row], way: str) -> list[Claim]:
    """Return that SepLLM is the best in every seed, and that it is better than each other beyond chance."""
    here = fair(rows, way)
    others = [label for label in OTHERS if label in TRAINED or WAYS[way]["part"] != TRAINING]
    each = dict[int, float]()  # seed -> SepLLM beside the best of the others
    for row in of(here, label=SEPLLM):
        nats = [other["nats"] for label in others for other in of(here, label=label, seed=row["seed"])]
        if len(nats) == len(others):
            each[row["seed"]] = math.exp(row["nats"] - min(nats))
    won = f"; below 1 in {sum(ratio < 1 for ratio in each.values())} of {len(each)} seeds" if each else ""
    found = [Claim(f"{way}, SepLLM is the best of {_listed([SEPLLM, *others])} at equal use, in every seed", PAPER,
                   f"perplexity, SepLLM / the best other, the greatest{won}", picked(list(each.values()), max),
                   most=1.0)]  # fmt: skip
    for other in others:
        apart = beside(here, other, SEPLLM)
        found.append(Claim(f"{way}, SepLLM is better than {other} at equal use, beyond chance", HERE,
                           f"t of the nats, {other} - SepLLM, {len(apart.each) if apart else 0} seeds",
                           _t(apart), least=_sure(apart)))  # fmt: skip
    return found


def _listed(labels: Sequence[str]) -> str:
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


def _t(apart: Paired | None) -> Spread | None:
    if apart is None or math.isnan(apart.t):
        return None
    return Spread(apart.t, apart.t, apart.t, len(apart.each), 0, 0)


def _sure(apart: Paired | None) -> float:
    """Return the t that is wanted of so many seeds; of fewer than two there is none to hold it to."""
    return round(float(stats.t.ppf(SURE, max(len(apart.each) if apart else 0, 2) - 1)), 2)


def _full(rows: Sequence[Row]) -> list[Claim]:
    """Return how SepLLM stands beside full attention, read without training and trained."""
    free, own = of(rows, FREE, mode=MASK), fair(rows, "trained with its own mask")
    told = [(free, "read by mask without training", f"is within {CLOSE - 1:.0%} of full attention", PAPER, CLOSE),
            (own, "trained with its mask", "is not above full attention", PAPER, 1.0)]  # fmt: skip
    found = [Claim(f"{how}, SepLLM's perplexity {says}, in every seed", source,
                   "perplexity, SepLLM / full, the greatest", _ratios(here, SEPLLM, here, FULL), most=most)
             for here, how, says, source, most in told]  # fmt: skip
    return [*found, Claim("trained with its mask, SepLLM is better than read so without training, in every seed", PAPER,
                          "perplexity, trained / read without training, the greatest",
                          _ratios(own, SEPLLM, free, SEPLLM), most=1.0)]  # fmt: skip


def _ratios(ones: Sequence[Row], one: str, others: Sequence[Row], other: str) -> Spread | None:
    """Return the greatest ratio of perplexities over seeds."""
    found = [math.exp(a["nats"] - b["nats"]) for a in of(ones, label=one)
             for b in of(others, label=other, seed=a["seed"])]  # fmt: skip
    return picked(found, max)


def _stream(rows: Sequence[Row]) -> list[Claim]:
    grown = [math.exp(list(row["beyond"].values())[-1] - next(iter(row["beyond"].values())))
             for row in of(rows, label=FULL) if len(row["beyond"]) > 1]  # fmt: skip
    drift = [math.exp((a["tenths"][-1] - b["tenths"][-1]) - (a["tenths"][0] - b["tenths"][0]))
             for a, b in pairs(rows, SEPLLM, FULL)]  # fmt: skip
    return [
        Claim("full attention collapses beyond its trained length, in every seed", PAPER,
              "perplexity at the greatest length read / at the trained one, the least", picked(grown, min), least=2.0),
        Claim("SepLLM's stream stays level, in every seed", PAPER,
              "perplexity beside full attention in windows, last tenth / first, the greatest", picked(drift, max),
              most=LEVEL),
    ]  # fmt: skip


def _needle(rows: Sequence[Row]) -> list[Claim]:
    """Return who recalls facts that lie beyond the window."""
    own = {label: [row["accuracy"] for row in of(rows, label=label) if "accuracy" in row] for label in TRAINED}
    free = [row["free"][SEPLLM] for row in of(rows, label=FULL) if "free" in row]
    said = "accuracy on facts beyond the window"
    return [
        Claim("full attention recalls facts from afar, in every seed", HERE, f"{said}, full, the least",
              picked(own[FULL], min), least=RECALLED),
        Claim("read with SepLLM's mask without training, it still does", HERE, f"{said}, full read so, the least",
              picked(free, min), least=RECALLED),
        Claim("trained with SepLLM's mask, separators carry the facts, in every seed", PAPER,
              f"{said}, SepLLM, the least", picked(own[SEPLLM], min), least=RECALLED),
        Claim("trained with FixLLM's mask, tokens at fixed places do not carry them as well", HERE,
              f"{said}, SepLLM - FixLLM, means over seeds", _gap(own[SEPLLM], own[FIX]), least=0.1),
    ]  # fmt: skip


def _gap(ones: Sequence[float], others: Sequence[float]) -> Spread | None:
    if not ones or len(ones) != len(others):
        return None
    return picked([one - other for one, other in zip(ones, others, strict=True)], statistics.mean)
