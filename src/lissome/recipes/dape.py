r"""DAPE (CAPE, arXiv 2405.14722): a small network corrects biased scores across heads, pair by pair.

    Z = S + P + f([S; P]),   S = q k^T / sqrt(D), P a static bias such as Kerple's, f: R^(2H) -> R^H at each (i, j)

A static bias treats every text alike: one that falls with distance cannot prefer the earliest of several matches; DAPE,
which reads the scores, can. The value of a key's earliest or most recent occurrence in one layer; and bytes of a text
at up to sixteen times the length of training, at equal steps and at equal seconds.

Differs from the paper: models of one and two layers, and other texts; the tables of Arxiv and Books3 are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissome.recipes import dape_bytes, dape_tasks
from lissome.recipes.dape_claims import adaptive_claims
from lissome.recipes.dape_names import AS_LONG, BYTES, CHOMSKY, DAPE, EARLIEST, LENGTH, RECENT, STATIC, V2
from lissome.recipes.dape_report import drawings, tables
from lissome.recipes.language_contest_data import check
from lissome.recipes.language_contest_seeds import cell, seeds
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick

LOOKUP = ("rotary", STATIC, DAPE, V2)
TEXT = ("rotary", STATIC, DAPE, V2, f"{AS_LONG}{DAPE}")
LARGE = ("FIRE", "FIRE + DAPE", "Kerple + V2, k=5", "Kerple + V2, published")  # beside these, of a large look
STRINGS = ("rotary", STATIC, DAPE, V2)


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, part by part: look-up, bytes; in a large look the strings of the Chomsky hierarchy too.

    Raises:
        UsageError: more than one text, or one that cannot be read or is too short.
    """
    check(settings.data)
    found = [cell for part in (EARLIEST, RECENT) for cell in task_cells(part, LOOKUP, settings)]
    found += text_cells((*TEXT, *(LARGE if settings.scale else ())), settings)
    return found + [cell for part in CHOMSKY if settings.scale for cell in task_cells(part, STRINGS, settings)]


def task_cells(part: str, labels: Sequence[str], settings: ReplicateSettings) -> list[Cell]:
    """Return the cells of a task."""
    return [cell(part, part=part, label=label, seed=seed, quick=settings.quick)
            for seed in seeds(settings) for label in labels]  # fmt: skip


def text_cells(labels: Sequence[str], settings: ReplicateSettings) -> list[Cell]:
    """Return the cells of a text."""
    shared: dict[str, Any] = {"part": BYTES, "quick": settings.quick, "scale": settings.scale,
                              "data": list(settings.data)}  # fmt: skip
    return [cell(BYTES, **shared, label=label, seed=seed) for seed in seeds(settings) for label in labels]


def run(tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool, **more: Any) -> Row:
    """Run one cell: a contestant at a task, or at a text."""
    own = {"part": part, "label": label, "seed": seed, "quick": quick, "failed": None, "scale": False}
    if part == BYTES:
        return own | more | dape_bytes.run(tick, place, label=label, seed=seed, quick=quick, **more)
    return own | dape_tasks.run(tick, place, part=part, label=label, seed=seed, quick=quick)


NOTES = (
    "Decoders of Lissome: RMSNorm, SwiGLU, tied embedding, 4 heads, float32. Matrices start with variance "
    "2 / (5 width): from GPT-2's 0.02, meant for widths of hundreds, narrow models learn too slowly to compare.",
    "Adam, betas 0.9 and 0.95, a rate that rises for 5% of the steps and falls as a cosine to a tenth, gradients "
    "clipped at 1, 32 rows a step. Each contestant has the best of a few rates by its loss on rows that neither "
    "training nor the tests see, chosen at the first seed and kept for the others.",
    "Tasks: all lengths of training are drawn alike; 256 rows of each test length, others for each seed.",
    f"Bytes: {dape_bytes.SIZES.layers} layers of width {dape_bytes.SIZES.width}, {dape_bytes.SIZES.steps:,} steps at "
    f"{LENGTH} bytes; without a file, of the source of Python's standard library. Nine tenths are trained on; rates "
    "are chosen on the next twentieth and lengths are measured on the last one: the same "
    f"{dape_bytes.SCORED} bytes at the end of {dape_bytes.WINDOWS} windows at every length.",
    "Equal seconds: Kerple's step and the other's are timed in turns, and Kerple is given as many more steps.",
    "A quick look is of few steps: its cells are in the tables and count for no claim.",
)
PAPER = Paper(
    arxiv="2405.14722",
    title="DAPE: position encoding that depends on the data",
    symbols={
        "A = X W_Q (X W_K)^T": "scores, scaled",
        "B": "bias, Kerple unless another is named",
        "f": "attention.Dape(heads): 2H -> 32 -> H at each pair",
        "DAPE-Kerple": "attention(..., position='kerple', refine='dape')",
    },
    cells=cells,
    run=run,
    claims=adaptive_claims,
    tables=tables,
    drawings=drawings,
    notes=NOTES,
    scales=True,
)
