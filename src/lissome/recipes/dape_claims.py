"""What DAPE and DAPE V2 claim at small size, and the figures that decide; most have to hold in every seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lissome.recipes.dape_names import (
    AS_LONG,
    BYTES,
    DAPE,
    EARLIEST,
    LENGTH,
    LENGTHS,
    PAIRS,
    RECALL,
    RECENT,
    STATIC,
    V2,
)  # fmt: skip
from lissome.recipes.language_contest_seeds import Pick, pairs, picked, whole
from lissome.recipes.paper import Claim, Row, Spread, of

SINGLE = ("NoPE", STATIC, "rotary", "NoPE + DAPE", DAPE)  # see one pair at a time
CONVOLVED = ("NoPE + V2", V2)
SHORT, LONG = LENGTH, LENGTHS[-1]
CAPE, CAPE_V2, HERE = "arXiv 2405.14722", "arXiv 2410.04798", "here"


def adaptive_claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of DAPE: look-up in one layer, and bytes."""
    rows = whole(rows)
    return [
        _low(rows, "a static bias that falls with distance does not find the earliest match", HERE,
             EARLIEST, 24, (STATIC,), most=0.4),
        _high(rows, "DAPE, which adapts the bias to the scores, finds the earliest match", HERE,
              EARLIEST, 24, (DAPE,), least=0.9),
        _low(rows, "rotary loses the most recent match at twice the length of training", HERE,
             RECENT, 48, ("rotary",), most=0.5),
        _high(rows, "DAPE finds the most recent match at twice the length of training", HERE,
              RECENT, 48, (DAPE,), least=0.95),
        _high(rows, "V2 finds the earliest match at twice the length of training", HERE,
              EARLIEST, 48, (V2,), least=0.8),
        *_below(rows, DAPE, CAPE),
        Claim("the lead of DAPE over Kerple widens with the length", CAPE,
              f"perplexity, DAPE / Kerple, at {LONG:,} over that at {SHORT}", _widened(rows, DAPE), most=1.0),
        Claim("rotary collapses beyond the length of training", CAPE,
              f"perplexity of rotary, at {LONG:,} over that at {SHORT}, the least",
              _grown(rows, "rotary", min), least=2.0),
        Claim("DAPE is the better the more context it is given", CAPE,
              f"perplexity of DAPE, at {LONG:,} over that at {SHORT}, the greatest",
              _grown(rows, DAPE, max), most=1.0),
        *_below(rows, V2, CAPE_V2),
        *_timed(rows, DAPE),
    ]  # fmt: skip


def convolved_claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of V2: recall in one layer, even pairs, and bytes."""
    rows = whole(rows)
    said = "in one layer V2 recalls what followed a key, with Kerple or without a position"
    other = "in one layer attention that sees one pair at a time, DAPE's too, does not recall what followed a key"
    return [
        *(_high(rows, said, HERE, RECALL, n, CONVOLVED, least=0.98) for n in (8, 32)),
        *(_low(rows, other, HERE, RECALL, n, SINGLE, most=0.3) for n in (8, 32)),
        *(_high(rows, f"{label} tells even pairs at five times the length of training", HERE, PAIRS, 100, (label,),
                least=0.9) for label in CONVOLVED),
        *_below(rows, V2, CAPE_V2),
        Claim("V2 is better than DAPE at the length of training and beyond", CAPE_V2,
              f"perplexity, V2 / DAPE at {SHORT} and {LONG:,}, the greatest",
              picked([ratio for n in (SHORT, LONG) for ratio in _ratios(rows, V2, DAPE, n)], max), most=1.0),
        Claim("the lead of V2 over Kerple widens with the length", CAPE_V2,
              f"perplexity, V2 / Kerple, at {LONG:,} over that at {SHORT}", _widened(rows, V2), most=1.0),
        *_timed(rows, V2),
    ]  # fmt: skip


def _accuracies(rows: Sequence[Row], part: str, n: int, labels: Sequence[str]) -> list[float]:
    return [row["accuracy"][str(n)] for label in labels for row in of(rows, part, label=label)]


def _high(
    rows: Sequence[Row], says: str, source: str, part: str, n: int, labels: Sequence[str], *, least: float
) -> Claim:
    what = f"accuracy at n = {n}, {' and '.join(labels)}, the least"
    return Claim(says, source, what, picked(_accuracies(rows, part, n, labels), min), least=least)


def _low(
    rows: Sequence[Row], says: str, source: str, part: str, n: int, labels: Sequence[str], *, most: float
) -> Claim:
    what = f"accuracy at n = {n}, {', '.join(labels)}, the greatest"
    return Claim(says, source, what, picked(_accuracies(rows, part, n, labels), max), most=most)


def _ratios(rows: Sequence[Row], one: str, other: str, n: int) -> list[float]:
    """Return the ratio of perplexities at a length, of each seed."""
    return [math.exp(a["nats"][str(n)] - b["nats"][str(n)]) for a, b in pairs(of(rows, BYTES), one, other)]


def _below(rows: Sequence[Row], one: str, source: str) -> list[Claim]:
    name = one.removeprefix("Kerple + ")
    return [
        Claim(f"{name} beats its own static bias at {n:,} bytes, trained at {SHORT}, in every seed", source,
              f"perplexity, {name} / Kerple, the greatest", picked(_ratios(rows, one, STATIC, n), max), most=1.0)
        for n in (SHORT, LONG)
    ]  # fmt: skip


def _timed(rows: Sequence[Row], one: str) -> list[Claim]:
    name = one.removeprefix("Kerple + ")
    return [
        Claim(f"{name} beats Kerple that is trained for as many seconds, at {n:,} bytes, in every seed", HERE,
              f"perplexity, {name} / Kerple, the greatest",
              picked(_ratios(rows, one, f"{AS_LONG}{one}", n), max), most=1.0)
        for n in (SHORT, LONG)
    ]  # fmt: skip


def _widened(rows: Sequence[Row], one: str) -> Spread | None:
    both = zip(_ratios(rows, one, STATIC, LONG), _ratios(rows, one, STATIC, SHORT), strict=True)
    return picked([far / near for far, near in both], statistics.geometric_mean)


def _grown(rows: Sequence[Row], one: str, pick: Pick) -> Spread | None:
    nats = [row["nats"] for row in of(rows, BYTES, label=one)]
    return picked([math.exp(each[str(LONG)] - each[str(SHORT)]) for each in nats], pick)
