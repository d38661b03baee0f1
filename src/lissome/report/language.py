"""The page of a language model: how well it tells the next token, at which lengths, and what its attention does."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lissome.report.document import BROAD, details, figure, gallery, pairs
from lissome.report.drawing import palette
from lissome.report.language_curves import by_length, decays, gradients, losses, parts, separators
from lissome.report.language_files import (
    START,
    TEXT,
    Lengths,
    Maps,
    Shares,
    kept_step,
    read_gradients,
    read_lengths,
    read_maps,
    read_shares,
)
from lissome.report.language_maps import drawings, sentence
from lissome.report.language_sight import begun, layers, seen
from lissome.report.numerals import count, quantity, seconds, share
from lissome.report.read import Row, Run, finite, read_json, read_run
from lissome.report.run_page import run_page

STAGES = ("body", "visible", "validity", "position", "refine", "normalize")
USUAL = {"none", "all", None}
TOLD = {
    "kind",
    "trained",
    "seconds",
    "steps",
    "loss",
    "validation_loss",
    "perplexity",
    "bits_per_byte",
    "tokens_per_second",
    "sight",
    "start",
    "checkpoint",
    "finished",
}


def language_page(directory: str | Path) -> Path:
    """Write figures/*.svg and index.html of a run of a language model, finished or in progress.

    Only files of the directory are read; what of lengths.json, gradients.jsonl, maps.safetensors, sentence.json and
    separators.json is missing is left out.

    Returns:
        The path of the page.

    Raises:
        UsageError: the directory is no run, or one of its files is broken.
    """
    run = read_run(directory)
    row, lengths, norms = language_row(run), read_lengths(run.path), read_gradients(run.path)
    maps, shares = read_maps(run.path), read_shares(run.path)
    numbers = [
        ("perplexity", decimal(finite(row, "perplexity")), "of held-out text"),
        ("bits per byte", decimal(finite(row, "bits_per_byte")), ""),
        ("held-out loss", decimal(finite(row, "validation_loss")), "nats per token"),
        *(seen(row) or _learnt(row)),
        ("seconds", seconds(finite(row, "seconds")), _pace(row)),
    ]
    shown = [_training(run, lengths, norms), _attention(run.path / "figures", maps, shares)]
    return run_page(
        run, row, heading(row), lead(row), numbers, shown=shown, made=[_table(lengths), layers(row)], told=TOLD
    )


def language_row(run: Run) -> Row:
    """Return the summary of a run, or what its settings and latest evaluation tell while it is in progress."""
    row = run.row()
    if run.finished:
        return row
    text = read_json(run.path / TEXT)
    model = run.settings.get("model")
    told = {name: run.settings[name] for name in ("length", "batch") if name in run.settings}
    if (kept := kept_step(run.path)) is not None and kept > (row.get("steps") or 0):
        told["checkpoint"] = kept
    if start := read_json(run.path / START):
        told["start"] = start | {"loss": run.metrics[0].get("validation_loss") if run.metrics else None}
    told |= {"kind": "lm", "data": text.get("name"), "stages": stages(model if isinstance(model, dict) else {})}
    return {key: value for key, value in row.items() if key not in ("parameters", "family", "method")} | told


def language_terminal(*rows: Row) -> Group:
    """Return what the terminal shows: of one run the sentence of its page, of several a table."""
    if len(rows) == 1:
        return Group(Text(heading(rows[0])), Text(lead(rows[0])))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("run")
    for name in ("perplexity", "bits per byte", "trained", "steps", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(Text(str(row.get("label") or row.get("path"))), *texts(row))
    return Group(table)


def texts(row: Row) -> list[str]:
    """Write perplexity, bits per byte, trained numbers, steps and seconds of a run."""
    numbers = [decimal(finite(row, key)) for key in ("perplexity", "bits_per_byte")]
    return [*numbers, count(finite(row, "trained")), count(finite(row, "steps")), seconds(finite(row, "seconds"))]


def stages(model: Mapping[str, Any]) -> str:
    """Say in words which body and stages the settings of a model name.

    >>> stages({"validity": "causal", "position": "kerple", "refine": "none", "normalize": "softmax"})
    'causal; kerple; softmax'
    >>> stages({"body": "looped(6)", "validity": "causal", "normalize": "softmax"})
    'looped(6); causal; softmax'
    """
    return "; ".join(str(model[name]) for name in STAGES if model.get(name) not in USUAL | {"plain"})


def heading(row: Row) -> str:
    """Name a run in one line."""
    return f"Language model: {row.get('stages') or 'attention'}"


def lead(row: Row) -> str:
    """Say in one sentence what came out."""
    nats = finite(row, "validation_loss")
    kept = finite(row, "checkpoint")
    later = "" if kept is None else f" The last checkpoint is of step {count(kept)}, which is not evaluated yet."
    if nats is None:
        return f"There is no evaluation with a finite loss yet.{later}"
    bits = finite(row, "bits_per_byte")
    told = "" if bits is None else f" ({decimal(bits)} bits per byte)"
    text = f" of {row['data']}" if row.get("data") else ""
    took = f"after {count(finite(row, 'steps'))} steps and {seconds(finite(row, 'seconds'))} s"
    numbers = finite(row, "trained")
    with_ = "" if numbers is None else f", with {count(numbers)} trained numbers"
    found = f"Perplexity {decimal(finite(row, 'perplexity'))}{told} on the held-out part{text}, {took}{with_}."
    return f"{found}{begun(row)}{later}"


def decimal(value: float | None) -> str:
    """Write a loss or perplexity with three significant digits.

    >>> [decimal(x) for x in (1.2345, 23.456, 345.6, 12345.0, 0.01234, None)]
    ['1.23', '23.5', '346', '1.2e4', '0.0123', '–']
    """
    if value is None or not 1e-3 < abs(value) < 1e4:
        return quantity(value)
    return f"{value:#.3g}".rstrip(".")


def _learnt(row: Row) -> list[tuple[str, str, str]]:
    return [
        ("train loss", decimal(finite(row, "loss")), ""),
        ("trained numbers", count(finite(row, "trained")), ""),
    ]


def _pace(row: Row) -> str:
    pace = finite(row, "tokens_per_second")
    return f"{count(finite(row, 'steps'))} steps" + ("" if pace is None else f", {count(pace)} tokens a second")


def _training(run: Run, lengths: Lengths | None, norms: Mapping[str, np.ndarray]) -> str:
    """Draw loss, gradients and perplexity by length."""
    folder, styles = run.path / "figures", palette([("run", "svd")])
    read = "how well it tells the next token of what it learns from, and of text that it never learnt from"
    shown = [
        figure(folder, "loss-steps", losses(run.metrics, "step"), f"Loss over steps: {read}; lower is better."),
        figure(
            folder,
            "loss-seconds",
            losses(run.metrics, "seconds"),
            "The same over seconds: what the waiting buys; runs of other models compare by it.",
        ),
    ]
    told = (
        "Norms of the gradient as the optimizer was given it, after clipping: a layer whose curve falls away from the "
        "others learns little, one that leaps up unsettles the training."
    )
    drawn = gradients(norms)
    beside = drawn is not None and drawn.get_figwidth() < BROAD
    shown.append(figure(folder, "gradients", drawn, told))
    if lengths is not None:
        drawn = by_length([("run", lengths)], styles, broad=not beside)  # no hole is left in the row
        shown.append(figure(folder, "lengths", drawn, length_caption(lengths, run.summary.get("steps"))))
    return gallery(shown) or "<p>No evaluations yet, so there are no figures.</p>"


def length_caption(lengths: Lengths, steps: object) -> str:
    """Say what is seen of perplexity by length."""
    told = "Perplexity of the same last tokens, read with more and more before them, with two standard errors"
    if lengths.trained is not None:
        told += "; a curve that rises beyond the training length says that the model cannot use a longer text"
    late = f" Measured after {count(lengths.steps)} steps." if lengths.steps and steps != lengths.steps else ""
    return f"{told}.{late}"


def _attention(folder: Path, maps: Maps | None, shares: Shares | None) -> str:
    """Draw what attention does, of one sentence and of the held-out text."""
    first = [*([] if maps is None else [_decay(folder, maps)]), *([] if shares is None else _shares(folder, shares))]
    blocks = [gallery(first)]
    if maps is not None:
        blocks += [f"<p>{escape(sentence(maps))}</p>", drawings(folder, maps)]
    inside = "\n".join(block for block in blocks if block)
    return f"<h2>Attention</h2>\n{inside}" if inside else ""


def _decay(folder: Path, maps: Maps) -> str:
    near = any("near" in own for own in maps.layers.values())
    told = "What each head adds to a score for the distance alone: the lower, the less a key so far back counts"
    told += "; the dashed line is the training length" if maps.told.get("length") else ""
    if near:
        told += (
            "; solid, of a query four times that far into a text, dotted, of one at it: the bias depends on that too"
        )
    return figure(folder, "bias", decays(maps), f"{told}.")


def _shares(folder: Path, shares: Shares) -> list[str]:
    even, got = shares.keys["separators"], float(shares.attention["separators"].mean())
    sums = shares.sums
    normal = np.allclose(sums, 1, atol=1e-3)
    rows = (
        "" if normal else f" Rows of weights sum to {decimal(float(sums.mean()))} in the mean; shares are of that sum."
    )
    stacked = (
        "Where attention falls, as the mean over the heads of each layer and over held-out text, above what it would "
        f"be if all keys got the same.{rows}"
    )
    told = (
        f"Share of attention on separators (. , ? ! ; : and ends of lines), per layer and head: {share(got, 1)} in the "
        f"mean, and {share(even, 1)} of the keys are such tokens; what is far above that collects its segment there."
    )
    return [
        figure(folder, "attention-parts", parts(shares), stacked),
        figure(folder, "attention-separators", separators(shares), told),
    ]


def _table(lengths: Lengths | None) -> str:
    """Return perplexity by length as a table."""
    if lengths is None:
        return ""
    columns = zip(lengths.length, lengths.perplexity, lengths.low, lengths.high, strict=True)
    rows = {count(n): f"{decimal(p)} ({decimal(a)} to {decimal(b)})" for n, p, a, b in columns}
    return details("Perplexity by length, with two standard errors", pairs(rows), paper=True)
