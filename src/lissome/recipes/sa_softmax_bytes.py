"""Variants at the bytes of a text, each at its own best rate; softmax for as many seconds as each of them too."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from lissome.language import Text
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape
from lissome.recipes.dape_bytes import HELD, SYMBOLS, parts, ratio_of_seconds
from lissome.recipes.dape_names import Sizes
from lissome.recipes.dape_training import Judged, shorter
from lissome.recipes.language.network import new_model
from lissome.recipes.paper import Row, Tick, kept
from lissome.recipes.sa_softmax_names import ADAM, AS_LONG, LARGE, LENGTH, LENGTHS, PLAIN, POSITIONS, SMALL, VARIANTS
from lissome.recipes.sa_softmax_training import Asked, Watched, at_its_best

QUICK = 6  # steps
SCORED = 1 << 16  # bytes of the test


def decoder(label: str, sizes: Sizes, position: str, length: int, seed: int) -> Decoder:
    """Return a contestant as it is drawn; of one seed all variants begin with the same numbers."""
    shape = DecoderShape(vocabulary=SYMBOLS, layers=sizes.layers, width=sizes.width, heads=sizes.heads, length=length,
                         position=POSITIONS[position], normalize=VARIANTS[label])  # fmt: skip
    return new_model(shape, seed)


def run(
    tick: Tick, place: Path, *, label: str, seed: int, quick: bool, large: bool, position: str, length: int,
    data: Sequence[str],
) -> Row:  # fmt: skip
    """Train one variant, or softmax for the seconds of another; return its nats of a byte on the test."""
    sizes = dataclasses.replace(LARGE, rows=LARGE.rows * LENGTHS[0] // length) if large else SMALL
    sizes = shorter(sizes, QUICK) if quick else sizes
    longer = label.startswith(AS_LONG)
    train, choose, test = parts(tuple(data))
    text = Text(train, choose, length=length)
    many = 8 if quick else HELD * LENGTH // length
    held = text.validation[torch.linspace(0, len(text.validation) - 1, many).long()]
    judged = Judged(text, {"tokens": held})
    make = functools.partial(decoder, PLAIN if longer else label, sizes, position, length, seed)

    def keeps(who: str) -> Path:
        return place / f"bytes-{position}-{length}-{who}.json".replace(" ", "-").replace(",", "")

    told, rates = Row(), None
    if longer:
        other = functools.partial(decoder, label.removeprefix(AS_LONG), sizes, position, length, seed)
        told["ratio"] = ratio_of_seconds(other, make, judged, sizes, tick)
        sizes = dataclasses.replace(sizes, steps=max(1, round(sizes.steps * told["ratio"])))
        rates = (json.loads(kept(keeps(PLAIN)).read_text())["rate"],)
    asked = Asked(sizes, ADAM, seed, keeps(label))
    best, found = at_its_best(asked, make, Watched(judged), tick, rates)
    if best is None:
        return told | found
    scored = Text(train, test, length=length, scored=length if quick else SCORED)
    return told | found | {"nats": scored.evaluate(best.model)["validation_loss"]}
