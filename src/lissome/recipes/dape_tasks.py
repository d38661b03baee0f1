"""Contestants at tasks that are drawn on the fly: trained at short lengths, their answers counted at longer ones."""

from __future__ import annotations

import functools
from pathlib import Path

from lissome.recipes.dape_names import CONTESTANTS, TRIALS
from lissome.recipes.language_contest import Asked, at_its_best, decoder, rate_file
from lissome.recipes.language_contest_data import trial
from lissome.recipes.paper import Row, Tick


def run(tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool) -> Row:
    """Train one contestant at one task; return its accuracy at each test length."""
    tried = TRIALS[part]
    sizes = tried.sizes.quick() if quick else tried.sizes
    own, judged = trial(tried.task, seed, quick, **tried.settings)
    make = functools.partial(decoder, sizes, own.size, seed, length=judged.held["tokens"].shape[1],
                             **CONTESTANTS[label])  # fmt: skip
    asked = Asked(sizes, seed, rate_file(place, part, label), follows=seed > 0)
    best, told = at_its_best(asked, make, judged, tick)
    if best is None:
        return told
    found = own.evaluate(best.model)
    return told | {
        "accuracy": {str(n): found[f"accuracy/{n}"] for n in own.test},
        "chance": {str(n): own.chance(n) for n in own.test},
        "trained at": list(own.train),
    }
