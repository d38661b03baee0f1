"""Decoders of one seed, each trained on the text with the mask of one reader, at as many visible keys."""

from __future__ import annotations

from pathlib import Path

from lissome.language import Text
from lissome.models import save_decoder
from lissome.recipes.language_contest import Asked, Judged, at_its_best, decoder, rate_file
from lissome.recipes.paper import Row, Tick
from lissome.recipes.sepllm_names import FULL, TRAINING, Look
from lissome.recipes.sepllm_read import by_mask, trained_at
from lissome.recipes.sepllm_rules import mask, matched_mask
from lissome.recipes.sepllm_text import read

HELD = 32  # windows of the training text's end whose loss says how training ended


def run(tick: Tick, place: Path, *, label: str, seed: int, look: Look) -> Row:
    """Train one decoder with its mask and read windows with it; that of full attention is kept for later cells."""
    source = read(place)
    marked, rows = source.marked(seed), source.windows(look)
    sees, used, wanted = matched_mask(label, marked, look.mask, rows[:, :-1], look.scored)
    cut = len(source.train) - HELD * look.length - 1
    text = Text(source.train[:cut], source.train[cut:], length=look.length, scored=HELD * look.length)

    def make():
        return decoder(look.sizes, source.vocabulary.size, seed, validity=mask(label, marked, sees).name)

    asked = Asked(look.sizes, seed, rate_file(place, TRAINING, label, seed), follows=False)
    best, told = at_its_best(asked, make, Judged(text, {"tokens": text.validation}), tick)
    if best is None:
        return told
    if label == FULL:
        save_decoder(best.model, trained_at(place, seed))
    nats = by_mask(best.model, rows, look.scored, tick)
    whole = look.length - (look.scored - 1) / 2
    return told | {"window": None if label == FULL else sees.near, "used": used, "wanted": wanted,
                   "share": used / whole, "nats": float(nats.mean()), "scored": nats.numel()}  # fmt: skip
