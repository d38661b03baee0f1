"""What a trained language model pays at lengths that it was and was not trained for."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lissome import report
from lissome._errors import UsageError
from lissome._files import write_json
from lissome.attention import Attention, Frame
from lissome.attention.attend import chosen
from lissome.attention.backends.tiled import queries_at_once
from lissome.language import perplexity_by_length, read_corpus, split_tokens, write_tokens
from lissome.language.perplexity import SCORED, WINDOWS
from lissome.models import Decoder, DecoderShape
from lissome.recipes.language.archive import Trained, load_trained
from lissome.recipes.language.source import Source, opened
from lissome.recipes.training import device_of
from lissome.report.language_files import LENGTHS, read_gradients, read_maps, read_shares
from lissome.report.read import read_run

TIMES = (1, 2, 4)  # the training length, where no lengths are given
HELD, HELD_WIDE = 5, 3  # arrays of all pairs, per head and per channel of a refinement, that are there at once


def evaluate_language(
    run: str | Path,
    lengths: Sequence[int] | None = None,
    *,
    data: str | Path | None = None,
    windows: int = WINDOWS,
    scored: int = SCORED,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure perplexity by length, write `lengths.json` into the run and draw its page again.

    Args:
        run: directory of `lissome lm train`, finished or not.
        lengths: in tokens; None is the training length, twice and four times it.
        data: a file or folder of text; None is the run's own held-out text.
        windows: how many, at most.
        scored: tokens scored at the end of each window, at most.
        device: as in settings.

    Returns:
        What `lengths.json` says: run, steps, data, trained (the training length), rows of one length each.

    Raises:
        UsageError: no such run or no checkpoint, a text that cannot be read or is too short, a length that does not
            fit into memory.
    """
    trained = load_trained(run, device_of(device))
    wanted = [times * trained.settings.length for times in TIMES] if lengths is None else list(dict.fromkeys(lengths))
    for read in (read_run, read_gradients, read_maps, read_shares):  # what is damaged is told before it is measured
        read(trained.path)
    begun = time.perf_counter()
    if data is None:
        tokens = split_tokens(_own(trained).tokens.ids, trained.settings.held)[1]
        found = _measured(trained, tokens, wanted, windows, scored)
    else:
        corpus = read_corpus(data)
        with tempfile.TemporaryDirectory() as place:
            kept = write_tokens(Path(place) / "tokens.bin", corpus.documents(), trained.vocabulary)
            found = _measured(trained, np.array(kept.ids), wanted, windows, scored)
    told = {
        "kind": "lengths",
        "run": str(trained.path),
        "steps": trained.steps,
        "data": f"held-out part of {trained.text['name']}" if data is None else corpus.name,
        "trained": trained.settings.length,
        "seconds": time.perf_counter() - begun,
        "rows": found,
    }
    write_json(trained.path / LENGTHS, told)
    report.language_page(trained.path)
    return told


def _own(trained: Trained) -> Source:
    """Return the text of a run; where it is gone, say that another may be given."""
    try:
        return opened(trained.path)
    except UsageError as error:
        raise UsageError(f"{error}; or --data names another text to measure on") from error


def bytes_of(model: Decoder, length: int, scored: int) -> float:
    """Return about how many bytes a model takes to read one window.

    Pairs are held whole, in tiles, or by ways of their own that hold next to none, as `attend` chooses; where layers
    differ, the one that holds most counts.

    >>> from lissome.models import DecoderShape
    >>> model = Decoder(DecoderShape(vocabulary=256, layers=1, width=32, heads=4, position="kerple"))
    >>> bytes_of(model, 2048, 1) / bytes_of(model, 1024, 1) > 3
    True
    """
    return max(_bytes_with(recipe, model.shape, length, scored) for recipe in model.recipes)


def _bytes_with(recipe: Attention, shape: DecoderShape, length: int, scored: int) -> float:
    pairs = length * length
    q = torch.empty(1, shape.heads, length, shape.width // shape.heads, device="meta")
    way = chosen(q, q, Frame.full(length, device="meta"), recipe)
    if way == "tiled":
        pairs = 2 * length * queries_at_once(shape.heads, length)  # of a tile, and of the one before it
    elif way != "naive":
        pairs = 0
    wide = 0 if recipe.refine is None else max((len(p) for p in recipe.refine.parameters() if p.ndim), default=0)
    states = length * (6 * shape.width + 3 * shape.hidden)
    logits = 3 * min(scored, length) * shape.vocabulary
    return 4.0 * ((HELD * shape.heads + HELD_WIDE * wide) * pairs + states + logits)


def _measured(
    trained: Trained, tokens: np.ndarray, lengths: list[int], windows: int, scored: int
) -> list[dict[str, Any]]:
    found = perplexity_by_length(
        trained.model,
        tokens,
        lengths,
        windows=windows,
        scored=scored,
        widths=trained.vocabulary.widths,
        bytes_of=lambda length: bytes_of(trained.model, length, scored),
    )
    return [dataclasses.asdict(each) for each in found]
