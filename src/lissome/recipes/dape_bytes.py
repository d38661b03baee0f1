"""Contestants at the bytes of a text: trained at one length, their loss at up to many times that."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lissome.language import perplexity_by_length
from lissome.models.decoder import Decoder
from lissome.recipes.dape_names import BYTES, CONTESTANTS, FAR, LENGTH, LENGTHS
from lissome.recipes.language_contest import Asked, Sizes, as_long, at_its_best, decoder, rate_file, ratio_of_seconds
from lissome.recipes.language_contest_data import FEW, HELD, SYMBOLS, reading
from lissome.recipes.language_contest_seeds import SECONDS
from lissome.recipes.paper import Row, Tick

SIZES = Sizes(layers=2, width=48, steps=1200, rates=(6e-3, 1.2e-2))
LARGE = Sizes(layers=6, width=128, steps=6000, rates=(1e-3, 2e-3))
WINDOWS, FEWER = 48, 12  # that are evaluated; fewer of long texts and by a quick look
SCORED = 64  # bytes scored in each
TOGETHER = 1 << 11  # bytes that are evaluated at once


def run(tick: Tick, place: Path, *, label: str, seed: int, quick: bool, scale: bool, data: Sequence[str]) -> Row:
    """Train one contestant, or Kerple for the seconds of another; return its nats at each length."""
    sizes = LARGE if scale else SIZES
    sizes = sizes.quick() if quick else sizes
    judged, _, test = reading(data, LENGTH, FEW if quick else HELD)
    who, longer, other = label.partition(SECONDS)
    made = functools.partial(decoder, sizes, SYMBOLS, seed, length=LENGTH)
    make = functools.partial(made, **CONTESTANTS[who])
    asked = Asked(sizes, seed, rate_file(place, BYTES, who), follows=bool(seed or longer))
    if longer:
        ratio = ratio_of_seconds(functools.partial(made, **CONTESTANTS[other]), make, judged, asked, tick)
        asked = as_long(asked, ratio)
    best, told = at_its_best(asked, make, judged, tick)
    if best is None:
        return told
    lengths = LENGTHS[:3] if quick else (*LENGTHS, *(FAR if scale else ()))
    return told | measured(best.model, test, lengths, FEWER if quick or scale else WINDOWS, tick)


def measured(model: Decoder, test: np.ndarray, lengths: Sequence[int], windows: int, tick: Tick) -> Row:
    """Return nats per byte at each length, and each window's."""
    found = perplexity_by_length(model, test, lengths, scored=SCORED, windows=windows, tokens_at_once=TOGETHER,
                                 tick=lambda _: tick())  # fmt: skip
    return {
        "nats": {str(each.length): each.nats for each in found},
        "each window": {str(each.length): [round(nats, 5) for nats in each.each] for each in found},
    }
