"""One layer that is to look up a key's most recent value, begun where attention is sure of the wrong pair.

Saturated: the rows of the projection that make queries and keys are multiplied by one factor, doubled until the softmax
of the scores gives one pair a weight of `SURE` in the mean over heads and answers, wherever it stands in the row. Which
pair that is, is left to chance, so it is seldom the right one. The start is the same for all variants of a seed.
Ordinary: the factor is 1.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention import softmax
from lissome.language.tasks import IGNORED
from lissome.models.decoder import Decoder
from lissome.recipes.language_contest import Asked, at_its_best, decoder, rate_file
from lissome.recipes.language_contest_data import trial
from lissome.recipes.paper import Row, Tick
from lissome.recipes.sa_softmax_gradients import LOOKS, Watched, curves, heads, turned_rows
from lissome.recipes.sa_softmax_names import (
    LOOKUP,
    MORE,
    ONE_LAYER,
    ORDINARY,
    POSITION,
    POSITIONS,
    RATES,
    VARIANTS,
)

KEYS, VALUES, LENGTHS = 2, 16, (8, 24)  # of the task
SURE = 0.99
MOST = 1 << 12  # factor


def weights(model: Decoder, tokens: Tensor) -> Tensor:
    """Return the softmax of the first layer's scores (n, H, T, T), whatever the layer makes of them."""
    found = next(model.stages(tokens))
    return softmax(found.refined, found.valid)


def sureness(model: Decoder, tokens: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the greatest weight of a pair, and the weight on those that hold the answer, means over heads and answers.

    Args:
        model: its first layer is looked at.
        tokens: (n, T) of the task, whose first tokens are pairs key * VALUES + value.
        targets: (n, T), `IGNORED` where nothing is asked.
    """
    pairs = KEYS * VALUES
    with torch.no_grad():
        found = weights(model, tokens).transpose(1, 2)  # (n, T, H, T)
    asked = targets != IGNORED  # (n, T)
    wanted = VALUES * (tokens - pairs) + targets - pairs - KEYS  # (n, T), the pair that answers
    right = tokens[:, None, :] == wanted[:, :, None]  # (n, T, T)
    held = found @ F.one_hot(tokens).to(found.dtype)[:, None]  # (n, T, H, symbols), wherever a symbol stands
    sure, on_right = held.amax(3).mean(2), (found * right[:, :, None]).sum(3).mean(2)  # (n, T)
    return float(sure[asked].mean()), float(on_right[asked].mean())


def saturate(model: Decoder, tokens: Tensor, targets: Tensor) -> float:
    """Scale what makes queries and keys until attention is sure; return the factor, at most `MOST`."""
    (first, *_), factor = heads(model), 1.0
    with torch.no_grad():
        while factor < MOST and sureness(model, tokens, targets)[0] < SURE:
            first.qkv.weight[: turned_rows(first)] *= 2
            factor *= 2
    return factor


def run(tick: Tick, place: Path, *, label: str, optimizer: str, start: str, seed: int, quick: bool) -> Row:
    """Train one variant; return its accuracy, how sure attention was at the start, and gradients on the way."""
    sizes = dataclasses.replace(ONE_LAYER, rates=RATES[optimizer])
    sizes = sizes.quick() if quick else sizes
    own, judged = trial("lookup", seed, quick, which="recent", keys=KEYS, values=VALUES, train=LENGTHS,
                        test=LENGTHS[1:])  # fmt: skip
    held = judged.held["tokens"], judged.held["targets"]
    drawn = functools.partial(decoder, sizes, own.size, seed, position=POSITIONS[POSITION], normalize=VARIANTS[label])

    def make() -> Decoder:
        model = drawn()
        if start != ORDINARY:
            saturate(model, *held)
        return model

    sure, right = sureness(make(), *held)
    asked = Asked(sizes, seed, rate_file(place, LOOKUP, start, optimizer, label), follows=seed > 0,
                  optimizer=optimizer, looks=LOOKS, more=MORE)  # fmt: skip
    best, told = at_its_best(asked, make, Watched(judged), tick)
    told |= {"sure": sure, "right": right, "chance": own.chance(LENGTHS[1])}
    if best is None:
        return told
    return told | {"accuracy": own.evaluate(best.model)[f"accuracy/{LENGTHS[1]}"],
                   "ends sure": sureness(best.model, *held)[0], "gradients": curves(best.result)}  # fmt: skip
