"""Contestants at tasks that are drawn on the fly: trained at short lengths, their answers counted at longer ones."""

from __future__ import annotations

from pathlib import Path

import torch

from lissome.language import task
from lissome.recipes.dape_names import TRIALS
from lissome.recipes.dape_training import Asked, Judged, at_its_best, decoder, shorter
from lissome.recipes.paper import Row, Tick

ROWS, HELD = 256, 128  # of each test length, and of those by which a rate is chosen
APART = 7_919  # the seed of these
QUICK = 6  # steps


def run(tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool) -> Row:
    """Train one contestant at one task; return its accuracy at each test length."""
    trial = TRIALS[part]
    sizes = shorter(trial.sizes, QUICK) if quick else trial.sizes
    own = task(trial.task, rows=8 if quick else ROWS, seed=seed, **trial.settings)
    longest = own.train[1]
    tokens, targets = own.draw(torch.Generator().manual_seed(APART + seed), 8 if quick else HELD, longest)
    objective = Judged(own, {"tokens": tokens, "targets": targets})
    asked = Asked(label, sizes, seed, place, f"{part}-{label}".replace(" ", "-"))
    best, told = at_its_best(asked, lambda: decoder(label, sizes, own.size, seed, tokens.shape[1]), objective, tick)
    if best is None:
        return told
    found = own.evaluate(best.model)
    return told | {
        "accuracy": {str(n): found[f"accuracy/{n}"] for n in own.test},
        "chance": {str(n): own.chance(n) for n in own.test},
        "trained at": list(own.train),
    }
