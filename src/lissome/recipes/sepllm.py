"""SepLLM (arXiv 2412.12094): first tokens, separators and neighbours in place of the whole context.

    key j is seen by query i >= j if    j < a,    or j is a separator,    or i - j < n

StreamingLLM has no separators, FixLLM every k-th token in their place; ids drawn at random, as frequent as separators
are, stand beside both. Each baseline gets the window at which its keys, as measured, are as many as SepLLM's within a
hundredth. A model of each seed is trained here; it is read by mask, by a cache that drops, and as a stream far beyond
the length of training with positions in the cache; models are trained with each mask; facts are asked for from afar.

Differs from the paper: small models, other texts, and the random ids; positions of a stream are those of the cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome.recipes import sepllm_needle, sepllm_read, sepllm_text, sepllm_train
from lissome.recipes.language_contest_data import check
from lissome.recipes.language_contest_seeds import seeds
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick
from lissome.recipes.sepllm_claims import claims
from lissome.recipes.sepllm_names import (
    CACHE,
    DEFAULT,
    FREE,
    FULL,
    MASK,
    NEEDLE,
    PUBLISHED_CACHE,
    PUBLISHED_MASK,
    READERS,
    STREAM,
    TEXT,
    TRAINED,
    TRAINING,
    look_of,
)
from lissome.recipes.sepllm_report import drawings, tables


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells: the text; seed by seed facts, models with masks of their own, and how the full one is read.

    Raises:
        UsageError: more than one text, or one that cannot be read or is too short.
    """
    check(settings.data)
    same: dict[str, Any] = {"quick": settings.quick, "scale": settings.scale}
    found = [Cell(TEXT, {"part": TEXT, "label": TEXT, "seed": 0, "data": list(settings.data)} | same)]
    for seed in seeds(settings):
        model = f"{TRAINING}, {FULL}, seed {seed}"
        asked: list[tuple[str, dict[str, str]]] = [(NEEDLE, {"label": label}) for label in TRAINED]
        asked += [(TRAINING, {"label": label}) for label in TRAINED]
        asked += [(FREE, {"label": label, "mode": mode}) for mode in (MASK, CACHE) for label in READERS
                  if (mode, label) != (CACHE, FULL)]  # fmt: skip
        asked += [(STREAM, {"label": label}) for label in READERS]
        for part, own in asked:
            name = ", ".join([part, *([own["mode"]] if "mode" in own else []), own["label"], f"seed {seed}"])
            after = "" if part == NEEDLE else TEXT if part == TRAINING else model
            found.append(Cell(name, {"part": part, "seed": seed} | own | same, after))
    return found


def run(tick: Tick, place: Path, *, part: str, label: str, seed: int, quick: bool, scale: bool, **more: Any) -> Row:
    """Run one cell."""
    look, own = look_of(quick, scale), {"part": part, "label": label, "seed": seed, "quick": quick, "failed": None}
    if part == TEXT:
        return own | sepllm_text.prepare(place, more["data"], look)
    if part == NEEDLE:
        return own | sepllm_needle.run(tick, place, label=label, seed=seed, quick=quick)
    asked = {"label": label, "seed": seed, "look": look}
    if part == TRAINING:
        return own | sepllm_train.run(tick, place, **asked)
    return own | more | (sepllm_read.free if part == FREE else sepllm_read.streamed)(tick, place, **asked, **more)


_SIZES, _NEEDLE = DEFAULT.sizes, sepllm_needle
NOTES = (
    f"Decoders of Lissome: {_SIZES.layers} layers of width {_SIZES.width}, 4 heads, RMSNorm, SwiGLU, tied embedding, "
    f"rotary, float32; {_SIZES.steps} steps of Adam, {_SIZES.rows} rows of {DEFAULT.length} tokens, betas 0.9 and "
    f"0.95, rate {_SIZES.rates[0]:g} that rises for 5% of the steps and falls as a cosine to a tenth, gradients "
    "clipped at 1. One rate for all: none was sought for any.",
    f"Text: {DEFAULT.vocabulary:,} byte pairs, learnt on what is trained on; without a file, of the source of Python's "
    f"standard library. The last {sepllm_text.HELD:.0%} are held out: windows are spread over them, the stream is "
    "their beginning. Separators are the ids made only of . , ? ! ; : newline, tab and spaces.",
    "At equal use: windows are sought at which the keys that are seen (mask), or held after a forward (cache), are "
    "as many as SepLLM's in the mean over what is scored, counted on the very tokens. A reader whose keys lie farther "
    "off than a hundredth counts for no claim. Caches have the same capacity and drop when it is reached.",
    f"Mask: a = {DEFAULT.mask.initial}, n = {DEFAULT.mask.near}; the second half of each window is scored. Cache: a, "
    f"s, w, c = {DEFAULT.short.initial}, {DEFAULT.short.separators}, {DEFAULT.short.local}, {DEFAULT.short.capacity}, "
    f"positions in the text, {sepllm_read.CHUNK} tokens a forward. Stream: {DEFAULT.long.initial}, "
    f"{DEFAULT.long.separators}, {DEFAULT.long.local}, {DEFAULT.long.capacity}, positions in the cache, "
    f"{sepllm_read.STREAM_CHUNK} tokens a forward. Published: n = {PUBLISHED_MASK.near} with a = "
    f"{PUBLISHED_MASK.initial}, and {PUBLISHED_CACHE.initial}, {PUBLISHED_CACHE.separators}, {PUBLISHED_CACHE.local}, "
    f"{PUBLISHED_CACHE.capacity}, which a large look takes.",
    "Random ids are drawn by the seed among those that are no separators until their share of the text that is "
    "trained on is that of the separators. Full attention beside a stream reads windows of the trained length.",
    f"Needle: {_NEEDLE.FACTS} facts, each one token with a separator behind it, {_NEEDLE.GAP[0]} to "
    f"{_NEEDLE.GAP[1]} words of filler, then each fact asked for; {_NEEDLE.SIZES.layers} layers of width "
    f"{_NEEDLE.SIZES.width}, {_NEEDLE.SIZES.steps:,} steps of 32 rows, rate "
    f"{_NEEDLE.SIZES.rates[0]:g}; the gap is wider than windows reach over all layers. "
    "512 rows are tested. Few keys are seen: uses there may lie three hundredths apart.",
    "t is that of differences of nats seed by seed. Seconds are of one thread and disturbed by what else ran.",
    "A quick look is of few steps: its cells are in the tables and count for no claim.",
)
PAPER = Paper(
    arxiv="2412.12094",
    title="SepLLM: separators, first tokens and neighbours in place of the whole context",
    symbols={
        "a, n": "attention.separated(ids, initial=a, near=n), the fundamental design",
        "a, s, w, c": "SeparatorCache(initial, separators_kept, local, capacity), the tailored design",
        "separators": "bridges.separators.separator_ids(vocabulary)",
        "StreamingLLM": "causal & (sinks(a) | window(n))",
        "FixLLM": "causal & (sinks(a) | every_kth(k) | window(n))",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=NOTES,
    scales=True,
)
