r"""SA-Softmax (arXiv 2502.18277): the softmax times an image of the score itself, against gradients that vanish.

    V1  z p     V2  (z - m) p     V3  (z - m) / (M - m) p     V4  (z - min(m, 0)) / (max(M, 0) - min(m, 0)) p

with p = softmax(z), m = min z, M = max z over visible keys. Where the softmax is sure of a key its gradient is gone.
One row of scores that is sure of the wrong key; a layer that is; bytes of a text, each variant at its own best rate, at
equal steps and at equal seconds. Variants 3 and 4 are looked at with m and M held constant in the gradient too.

Differs from the paper: models of one and two layers, other texts and one of them; each variant has rates of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome.recipes import sa_softmax_bytes, sa_softmax_lookup, sa_softmax_row
from lissome.recipes.language_contest_data import check
from lissome.recipes.language_contest_seeds import cell, seeds
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick
from lissome.recipes.sa_softmax_claims import claims
from lissome.recipes.sa_softmax_names import (
    ADAM,
    AS_LONG,
    BEST,
    BYTES,
    LARGE,
    LENGTH,
    LENGTHS,
    LOOKUP,
    ONE_LAYER,
    ORDINARY,
    PLAIN,
    POSITION,
    POSITIONS,
    ROW,
    SATURATED,
    SGD,
    SMALL,
    VARIANTS,
)
from lissome.recipes.sa_softmax_report import drawings, tables

LONGER = tuple(f"{AS_LONG}{label}" for label in VARIANTS if label != PLAIN)
COMPARED = (PLAIN, BEST, f"{AS_LONG}{BEST}")  # in a large look


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, seed by seed: one row, look-up, bytes; in a large look more positions and lengths of bytes.

    Raises:
        UsageError: more than one text, or one that cannot be read or is too short.
    """
    check(settings.data)
    found = list[Cell]()
    for seed in seeds(settings):
        shared: dict[str, Any] = {"seed": seed, "quick": settings.quick}
        found += [Cell(f"{ROW}, {label}, seed {seed}", shared | {"part": ROW, "label": label}) for label in VARIANTS]
        for start, labels in ((SATURATED, tuple(VARIANTS)), (ORDINARY, (PLAIN, BEST))):
            for optimizer in (SGD, ADAM):
                found += [_lookup(label, optimizer, start, shared) for label in labels]
        found += [_bytes(label, POSITION, LENGTH, False, settings, shared) for label in (*VARIANTS, *LONGER)]
        for length in LENGTHS if settings.scale else ():
            for position in POSITIONS:
                found += [_bytes(label, position, length, True, settings, shared) for label in COMPARED]
    return found


def _lookup(label: str, optimizer: str, start: str, shared: dict[str, Any]) -> Cell:
    return cell(f"{LOOKUP}, {start}, {optimizer}", part=LOOKUP, label=label, optimizer=optimizer, start=start, **shared)


def _bytes(
    label: str, position: str, length: int, large: bool, settings: ReplicateSettings, shared: dict[str, Any]
) -> Cell:
    return cell(f"{BYTES}, {position}, {length}", part=BYTES, label=label, position=position, length=length,
                large=large, data=list(settings.data), **shared)  # fmt: skip


def run(tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool, **more: Any) -> Row:
    """Run one cell: a variant on rows, at the look-up, or at a text."""
    asked = {"label": label, "seed": seed, "quick": quick}
    own = {"part": part, "failed": None} | asked | more
    if part == ROW:
        return own | sa_softmax_row.run(tick, **asked)
    if part == LOOKUP:
        return own | sa_softmax_lookup.run(tick, place, **asked, **more)
    return own | sa_softmax_bytes.run(tick, place, **asked, **more)


NOTES = (
    f"One row: {sa_softmax_row.KEYS} scores in float64, a wrong key at c and the others drawn with a deviation of "
    f"{sa_softmax_row.NOISE:g}; the cross-entropy reads {sa_softmax_row.GAIN:g} times the weights as logits, as if "
    f"values were {sa_softmax_row.GAIN:g} times the columns of the identity. {sa_softmax_row.STARTS} starts for each c "
    "and seed, the same for all variants. SGD has rate 1, Adam 0.1.",
    "Decoders of Lissome: RMSNorm, SwiGLU, tied embedding, 4 heads, Kerple, float32. A rate that rises for 5% of the "
    "steps and falls as a cosine to a tenth, gradients clipped at 1, 32 rows a step; Adam's betas are 0.9 and 0.95, "
    "SGD has no momentum. Each variant has the best of a few rates by its loss on rows that neither training nor the "
    "tests see, chosen at the first seed and kept for the others; a best rate at an end is gone beyond by a factor of "
    "3, twice at most. Norms are those of the gradient on rows held out, before any clip.",
    f"Look-up: one layer of width {ONE_LAYER.width}, {ONE_LAYER.steps} steps; the most recent value of one of two "
    "keys, 8 to 24 pairs, tested at 24. Saturated: what makes queries and keys is doubled until the softmax has a "
    f"greatest weight of {sa_softmax_lookup.SURE:g} in the mean.",
    f"Bytes: {SMALL.layers} layers of width {SMALL.width}, {SMALL.steps} steps at {LENGTH} bytes; without a file, of "
    "the source of Python's standard library. Nine tenths are trained on; rates are chosen on the next twentieth, and "
    f"{sa_softmax_bytes.SCORED:,} bytes of the last one are scored. t is that of differences to softmax, seed by seed.",
    "Equal seconds: steps of softmax and of the variant are timed in turns, and softmax is given as many more.",
    f"A large look has {LARGE.layers} layers of width {LARGE.width}, {LARGE.steps:,} steps of "
    f"{LARGE.rows * LENGTHS[0]:,} bytes, lengths {', '.join(map(str, LENGTHS))} and more positions, beside what is "
    "always run.",
    "A quick look is of few steps: its cells are in the tables and count for no claim.",
)
PAPER = Paper(
    arxiv="2502.18277",
    title="Self-adjusting softmax: gradients that do not vanish",
    symbols={
        "z, p": "scores after bias, softmax of them",
        "SA-Softmax, z p": "attention.SelfAdjust(1)",
        "normalised, eq. 9": "attention.SelfAdjust(4)",
        "m and M held constant": "attention.SelfAdjust(4, detach_extrema=True)",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=NOTES,
    scales=True,
)
