"""How many of the keys before them tokens of a text see, and for how many pairs attention is computed, as ways run it.

    seen       pairs that the validity allows / pairs of full causal attention, T (T + 1) / 2
    computed   pairs whose scores are computed / the same

Ways compute more than is seen: `naive`, and `sdpa` under a mask, all T^2, `compact` whole blocks of queries and lanes
of keys. Operations of scores and of mixing are in proportion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissome.attention import Attention, Frame, causal
from lissome.attention.attend import chosen
from lissome.attention.backends.plan import Plan
from lissome.attention.notation import brief
from lissome.models import Decoder

WINDOWS = 8
AT_ONCE = 256  # queries whose pairs are counted at once


def sight(model: Decoder, tokens: np.ndarray, length: int, *, rows: int = 1, windows: int = WINDOWS) -> dict[str, Any]:
    """Measure what a model sees of held-out text, in windows of its training length, evenly over the text.

    Args:
        model: on any device; its weights are not asked.
        tokens: (N,) of whole numbers.
        length: T, at most N are taken.
        rows: windows that attention is given at once, by which a way is chosen.
        windows: how many, at most.

    Returns:
        seen and computed: means over layers; layers: of each its stages, way, seen and computed; windows, length.
        `computed` is None where it is not known: of tiles, and of ways for a refinement or normalizer.
    """
    span = min(length, len(tokens))
    starts = np.linspace(0, len(tokens) - span, max(1, min(windows, len(tokens) // span))).astype(np.int64)
    held = torch.from_numpy(np.stack([tokens[start : start + span] for start in starts]).astype(np.int64))  # (W, T)
    known, layers = dict[str, dict[str, Any]](), list[dict[str, Any]]()
    for recipe in model.recipes:
        name = recipe.explain()
        if name not in known:
            known[name] = {"stages": brief(name)} | _layer(model, recipe, held, rows)
        layers.append(known[name])
    computed = [layer["computed"] for layer in layers]
    return {
        "seen": sum(layer["seen"] for layer in layers) / len(layers),
        "computed": None if None in computed else sum(computed) / len(layers),
        "layers": layers,
        "windows": len(held),
        "length": span,
    }


def _layer(model: Decoder, recipe: Attention, held: Tensor, rows: int) -> dict[str, Any]:
    """Return seen, way and computed of a layer on windows (W, T)."""
    span, shape = held.shape[1], model.shape
    every = span * (span + 1) / 2
    frames = [Frame.full(span, tokens=window[None]) for window in held]
    seen = sum(_seen(recipe, frame) for frame in frames) / len(frames) / every
    size = span, shape.width // shape.heads
    q, k = (torch.empty(rows, heads, *size, device="meta") for heads in (shape.heads, shape.groups))
    way = chosen(q, k, Frame.full(span, device="meta"), recipe, dropout=shape.dropout)
    if way == "compact":
        computed = sum(_gathered(recipe, frame, shape.heads // shape.groups) for frame in frames) / len(frames) / every
    elif way == "sdpa" and recipe.validity == causal:
        computed = 1.0
    else:
        computed = span * span / every if way in ("sdpa", "naive") else None
    return {"way": way, "seen": seen, "computed": computed}


def _seen(recipe: Attention, frame: Frame) -> int:
    ends = range(0, frame.keys.shape[1], AT_ONCE)
    return sum(int(recipe.validity(frame.rows(start, start + AT_ONCE)).sum()) for start in ends)


def _gathered(recipe: Attention, frame: Frame, share: int) -> int:
    """Return the pairs of a head for which the compact way computes a score."""
    split = recipe.validity.split
    assert split is not None
    assert split.near is not None
    none = torch.zeros_like(frame.keys, dtype=torch.bool)
    kept = none if split.kept is None else split.kept(frame)
    plan = Plan(kept[0], frame.keys.shape[1], split.near, share, torch.float32)
    return sum((band.stop - band.start) * part.width for band in plan.bands for part in plan.parts(band))
