"""Contestants at the bytes of a text: trained at one length, their loss at up to many times that."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lissome._errors import UsageError
from lissome.language import Text, perplexity_by_length, read_corpus, split_tokens
from lissome.models.decoder import Decoder
from lissome.recipes.dape_names import AS_LONG, FAR, LENGTH, LENGTHS, STATIC, Sizes
from lissome.recipes.dape_training import Asked, Judged, at_its_best, chosen_rates, decoder, shorter, train
from lissome.recipes.paper import Row, Tick

SIZES = Sizes(layers=2, width=48, steps=1200, rates=(6e-3, 1.2e-2))
LARGE = Sizes(layers=6, width=128, steps=6000, rates=(1e-3, 2e-3))
QUICK = 6  # steps
MOST, LEAST = 2_000_000, 200_000  # bytes of a text that are read, and that it has to have
WINDOWS, FEW = 48, 12  # that are evaluated; few of long texts and by a quick look
SCORED, HELD = 64, 128  # bytes scored in each; rows by which a rate is chosen
TOGETHER = 1 << 11  # bytes that are evaluated at once
STEPS, TURNS = 10, 5  # by which the seconds of two contestants are compared
SYMBOLS = 256


def check(data: Sequence[str]) -> None:
    """Refuse more than one text, and one that cannot be read or is too short.

    Raises:
        UsageError: one of these.
    """
    if len(data) > 1:
        raise UsageError(f"this replication reads one text, and {len(data)} came; give --data once")
    if data:
        parts(tuple(data))


@functools.cache
def parts(data: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bytes to train on, to choose rates by, and to test on: nine tenths, and twice a half of the last.

    Raises:
        UsageError: a text that cannot be read or is too short.
    """
    pieces, length = list[bytes](), 0
    corpus = read_corpus(data[0] if data else None)
    for text in corpus.texts():
        pieces.append(text.encode())
        length += len(pieces[-1])
        if length >= MOST:
            break
    if length < LEAST:
        raise UsageError(f"{corpus.name} has {length:,} bytes; legal are texts of at least {LEAST:,}")
    whole = np.frombuffer(b"".join(pieces), np.uint8)[:MOST]
    train, held = split_tokens(whole)
    return train, held[: len(held) // 2], held[len(held) // 2 :]


def run(tick: Tick, place: Path, *, label: str, seed: int, quick: bool, scale: bool, data: Sequence[str]) -> Row:
    """Train one contestant, or Kerple for the seconds of another; return its nats at each length."""
    sizes = LARGE if scale else SIZES
    sizes = shorter(sizes, QUICK) if quick else sizes
    longer = label.startswith(AS_LONG)
    who = STATIC if longer else label
    train, choose, test = parts(tuple(data))
    text = Text(train, choose, length=LENGTH)
    rows = text.validation[torch.linspace(0, len(text.validation) - 1, 8 if quick else HELD).long()]
    asked, rates = Asked(label, sizes, seed, place, f"bytes-{label}".replace(" ", "-")), None
    make = functools.partial(decoder, who, sizes, SYMBOLS, seed, LENGTH)
    objective = Judged(text, {"tokens": rows})
    if longer:
        other = functools.partial(decoder, label.removeprefix(AS_LONG), sizes, SYMBOLS, seed, LENGTH)
        ratio = ratio_of_seconds(other, make, objective, sizes, tick)
        asked = asked._replace(sizes=dataclasses.replace(sizes, steps=max(1, round(sizes.steps * ratio))))
        rates = chosen_rates(place / f"bytes-{STATIC}.json", sizes)
    best, told = at_its_best(asked, make, objective, tick, rates)
    if best is None:
        return told
    lengths = LENGTHS[:3] if quick else (*LENGTHS, *(FAR if scale else ()))
    windows = FEW if quick or scale else WINDOWS
    return told | measured(best.model, test, lengths, windows, tick)


def measured(model: Decoder, test: np.ndarray, lengths: Sequence[int], windows: int, tick: Tick) -> Row:
    """Return nats per byte at each length, and each window's."""
    found = perplexity_by_length(model, test, lengths, scored=SCORED, windows=windows, tokens_at_once=TOGETHER,
                                 tick=lambda _: tick())  # fmt: skip
    return {
        "nats": {str(each.length): each.nats for each in found},
        "each window": {str(each.length): [round(nats, 5) for nats in each.each] for each in found},
    }


def ratio_of_seconds(
    one: Callable[[], Decoder], other: Callable[[], Decoder], objective: Judged, sizes: Sizes, tick: Tick
) -> float:
    """Return how much longer a step of one takes than one of the other, measured in turns; the median of them."""
    short, found = dataclasses.replace(sizes, steps=STEPS), list[float]()
    for _ in range(TURNS):
        mine, theirs = (train(make(), objective, sizes.rates[0], short, 0, tick)[1] for make in (one, other))
        found.append(mine / theirs)
    return statistics.median(found)
