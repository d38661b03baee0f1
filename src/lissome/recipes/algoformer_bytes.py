"""Decoders that read bytes: one whose middle layer is iterated, beside plain ones of its weights, work and seconds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from lissome.language import perplexity_by_length
from lissome.models import Decoder
from lissome.recipes.algoformer_names import ALGO, AS_LONG, BYTES, DEEP, LARGE_READING, READING, Reading
from lissome.recipes.language_contest import Asked, as_long, at_its_best, decoder, rate_file, ratio_of_seconds
from lissome.recipes.language_contest_data import FEW, HELD, SYMBOLS, reading
from lissome.recipes.paper import Row, Tick

LENGTH = 64  # bytes of a row
WINDOWS, FEWER = 256, 8  # of the test; the last half of each is scored


def run(tick: Tick, place: Path, *, label: str, seed: int, quick: bool, scale: bool, data: Sequence[str]) -> Row:
    """Train one decoder; return its nats of a byte that it has not seen."""
    look = LARGE_READING if scale else READING
    sizes = look.sizes.quick() if quick else look.sizes
    judged, _, test = reading(data, LENGTH, FEW if quick else HELD)
    asked = Asked(sizes, seed, rate_file(place, BYTES, label, seed), follows=False)
    make = functools.partial(made, label, look, seed)
    ratio = None
    if label == AS_LONG:
        ratio = ratio_of_seconds(functools.partial(made, ALGO, look, seed), make, judged, asked, tick)
        asked = as_long(asked, ratio)
    best, told = at_its_best(asked, make, judged, tick)
    if best is None:
        return told
    found = perplexity_by_length(best.model, test, [LENGTH], scored=LENGTH // 2, windows=FEWER if quick else WINDOWS,
                                 tick=lambda _: tick())[0]  # fmt: skip
    return told | {"nats": found.nats, "error": found.error, "ratio": ratio}


def made(label: str, look: Reading, seed: int) -> Decoder:
    """Return a contestant as it is drawn."""
    sizes = dataclasses.replace(look.sizes, layers=look.runs) if label == DEEP else look.sizes
    body = f"algoformer({look.iterations})" if label == ALGO else "plain"
    return decoder(sizes, SYMBOLS, seed, length=LENGTH, body=body)
