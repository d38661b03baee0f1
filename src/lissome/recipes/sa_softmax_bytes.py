"""Variants at the bytes of a text, each at its own best rate; softmax for as many seconds as each of them too."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from lissome.language import Text
from lissome.recipes.language_contest import Asked, as_long, at_its_best, decoder, rate_file, ratio_of_seconds
from lissome.recipes.language_contest_data import FEW, HELD, SYMBOLS, reading
from lissome.recipes.language_contest_seeds import SECONDS
from lissome.recipes.paper import Row, Tick
from lissome.recipes.sa_softmax_gradients import LOOKS, Watched, curves
from lissome.recipes.sa_softmax_names import BYTES, LARGE, LENGTH, LENGTHS, MORE, POSITIONS, SMALL, VARIANTS

SCORED = 1 << 16  # bytes of the test


def run(
    tick: Tick, place: Path, *, label: str, seed: int, quick: bool, large: bool, position: str, length: int,
    data: Sequence[str],
) -> Row:  # fmt: skip
    """Train one variant, or softmax for the seconds of another; return its nats of a byte on the test."""
    sizes = dataclasses.replace(LARGE, rows=LARGE.rows * LENGTHS[0] // length) if large else SMALL
    sizes = sizes.quick() if quick else sizes
    judged, train, test = reading(data, length, FEW if quick else HELD * LENGTH // length)
    who, longer, other = label.partition(SECONDS)
    made = functools.partial(decoder, sizes, SYMBOLS, seed, length=length, position=POSITIONS[position])
    make = functools.partial(made, normalize=VARIANTS[who])
    asked = Asked(sizes, seed, rate_file(place, BYTES, position, length, who), follows=bool(seed or longer),
                  looks=LOOKS, more=MORE)  # fmt: skip
    told = Row()
    if longer:
        told["ratio"] = ratio_of_seconds(functools.partial(made, normalize=VARIANTS[other]), make, judged, asked, tick)
        asked = as_long(asked, told["ratio"])
    best, found = at_its_best(asked, make, Watched(judged), tick)
    if best is None:
        return told | found
    scored = Text(train, test, length=length, scored=length if quick else SCORED)
    return told | found | {"gradients": curves(best.result), "nats": scored.evaluate(best.model)["validation_loss"]}
