"""AlgoFormer (arXiv 2402.13572): layers that prepare, a block that is iterated with the same weights, layers that tell.

    h_0 = pre(x);   h_{t+1} = loop(h_t [+ h_0]),  t = 0 .. T - 1;   y = post(h_T)

Beside it a plain stack of as many weights, one of as many layers as it runs, one that is trained for as many seconds,
and the looped transformer (arXiv 2311.12424), which is the loop alone. Two tasks of learning in context, a hidden
representation by linear attention and linear regression by softmax; iterations to four times the trained number, and
fewer; a gradient that is cut as the looped one's is; bytes of a text.

Differs from the paper: sizes and steps are small, y has a coordinate of its own beside x, RMSNorm, and the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissome.recipes import algoformer_bytes, algoformer_incontext
from lissome.recipes.algoformer_claims import claims
from lissome.recipes.algoformer_names import BYTES, LARGE_STEPS, LINEAR, READERS, READING, REPRESENTATION, TRIALS
from lissome.recipes.algoformer_report import drawings, tables
from lissome.recipes.incontext.settings import IncontextTraining
from lissome.recipes.language_contest_data import check
from lissome.recipes.language_contest_seeds import seeds
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, part by part: both tasks, then the bytes; none waits for another.

    Raises:
        UsageError: more than one text, or one that cannot be read or is too short.
    """
    check(settings.data)
    same: dict[str, Any] = {"quick": settings.quick, "scale": settings.scale}
    text, count = same | {"data": list(settings.data)}, seeds(settings)
    tasks = [_cell(part, label, seed, same) for part, trial in TRIALS.items() for seed in count
             for label in trial.contestants]  # fmt: skip
    return tasks + [_cell(BYTES, label, seed, text) for seed in count for label in READERS]


def _cell(part: str, label: str, seed: int, more: dict[str, Any]) -> Cell:
    return Cell(f"{part}, {label}, seed {seed}", {"part": part, "label": label, "seed": seed} | more)


def run(
    tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool, scale: bool, data: Sequence[str] = ()
) -> Row:
    """Run one cell: a contestant at a task, or at a text."""
    asked: dict[str, Any] = {"label": label, "seed": seed, "quick": quick, "scale": scale}
    own = {"part": part, "failed": None} | asked
    if part == BYTES:
        return own | algoformer_bytes.run(tick, place, data=data, **asked)
    return own | algoformer_incontext.run(tick, part=part, **asked)


_ROWS, _PAIRS, _USUAL = READING.sizes, {part: trial.settings for part, trial in TRIALS.items()}, IncontextTraining()
_OWN = _PAIRS[LINEAR]
NOTES = (
    f"A hidden representation: y = w^T phi(x) + noise, d = {_PAIRS[REPRESENTATION]['dimension']}, "
    f"{_PAIRS[REPRESENTATION]['pairs']} pairs, one token each, phi a layer of ReLUs that all prompts share; linear "
    "attention without norms, width 32, one head; T rises from 2 to 8 over the first 40% of "
    f"{TRIALS[REPRESENTATION].steps:,} steps.",
    f"Linear regression: d = {_OWN['dimension']}, {_OWN['pairs']} pairs, x and y tokens of their own, all y are told; "
    f"softmax, RMSNorm, rotary, width 32, one head; T = 6 from the start, the last {_OWN['training.window']} are "
    f"supervised; prompts grow from d = {_OWN['curriculum.dimension']['first']} and "
    f"{_OWN['curriculum.pairs']['first']} pairs over the first 40% of {TRIALS[LINEAR].steps:,} steps: as many as keep "
    "the whole at some twenty minutes on two cores.",
    f"Adam, rate {_USUAL.rate:g}, {_USUAL.schedule}, gradients clipped at {_USUAL.clip:g}, 64 prompts a step: the "
    f"defaults of `lissome icl train`; for linear regression {_OWN['training.rate']:g}, clipped at "
    f"{_OWN['training.clip']:g}. The same for all models. Steps that are not finite are left out and counted.",
    "Weights: AlgoFormer and the plain model have three layers, the looped one a single one. As many layers: a plain "
    "model of T + 2. As many seconds: steps of both are timed in turns, and the plain model is given as many more.",
    f"Bytes: decoders of {_ROWS.layers} layers of width {_ROWS.width}, {_ROWS.steps:,} steps of {_ROWS.rows} rows of "
    f"{algoformer_bytes.LENGTH} bytes, rate {_ROWS.rates[0]:g} that rises and falls as a cosine, one for all; "
    f"AlgoFormer runs its middle layer {READING.iterations} times, with injection. Without a file, of the source of "
    "Python's standard library; the second half of each window is scored.",
    f"A large look has width 256, 8 heads, d = 20, 41 pairs and T = 20, {LARGE_STEPS:,} steps at a constant 1e-4.",
    "A quick look is of few steps: its cells are in the tables and count for no claim.",
)
PAPER = Paper(
    arxiv="2402.13572",
    title="AlgoFormer: pre-process, iterate, post-process",
    symbols={
        "TF_pre, TF_loop, TF_post": "models.LoopedShape(pre=1, loop=1, post=1), models.BODIES['algoformer']",
        "T": "LoopedShape(iterations=8); a call takes another number",
        "looped transformer": "models.BODIES['looped']: from 0, h_0 added, a norm in the loop",
        "input injection": "LoopedShape(inject='add')",
        "in-context regression": "language.incontext.prompts('representation'), models.Regressor",
        "as a language model": "models.DecoderShape(body='algoformer(4)')",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=NOTES,
    scales=True,
)
