"""Several language models on one page: the course of their losses, and perplexity by length in one figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lissome._errors import UsageError
from lissome._files import write, write_json
from lissome.report.comparison import named
from lissome.report.document import details, document, figure, gallery
from lissome.report.drawing import Style, palette, themed
from lissome.report.figures import Curve, progress
from lissome.report.language import STAGES, USUAL, decimal, language_row, length_caption, texts
from lissome.report.language_curves import by_length, number
from lissome.report.language_files import Lengths, is_language, read_lengths
from lissome.report.numerals import count
from lissome.report.read import INCIDENTAL, Row, Run, finite, read_run, series

COLUMNS = ("run", "perplexity", "bits per byte", "trained numbers", "steps", "seconds")
PATHS = {"data", "start", "vocabulary"}  # which a label names by their last part
UNTOLD = INCIDENTAL | {"tokens", "checkpoint", "evaluate", "tensorboard"}


def language_comparison(runs: Iterable[str | Path], out: str | Path, title: str | None = None) -> Path:
    """Write comparison.json, figures/*.svg and index.html of several language models into out.

    A run has the same colour in all figures. Those without lengths.json are missing in the figure of lengths alone.

    Args:
        runs: directories of `lissome lm train`, finished or in progress; one given twice counts once.
        out: made if it does not exist.
        title: of the page.

    Returns:
        The path of the page.

    Raises:
        UsageError: no run, one that is none of a language model, or a broken file.
    """
    out, paths = Path(out), list({Path(run).resolve(): Path(run) for run in runs}.values())
    if not paths:
        raise UsageError("there is nothing to compare: name at least one run directory")
    for path in paths:
        if not is_language(path):
            raise UsageError(f"'{path}' is no run of a language model; these compare with each other alone")
    found = [read_run(path) for path in paths]
    lengths = [read_lengths(path) for path in paths]
    labels = labelled(found)
    title = title or f"{len(found)} language models"
    rows = [named(run, out) | language_row(run) | {"label": label} for run, label in zip(found, labels, strict=True)]
    write_json(out / "comparison.json", {"title": title, "rows": rows})
    styles = palette((label, label) for label in labels)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(judged(rows, labels, lengths))}</p>',
        _mixed(rows),
        _table(found, rows, styles),
        "<h2>In the course of training, and by length</h2>",
        gallery(_figures(out / "figures", found, labels, lengths, styles)),
        "<h2>How it was made</h2>",
        *(details(label, f"<pre>{escape(run.settings_text)}</pre>") for label, run in zip(labels, found, strict=True)),
        "<footer>Written by Lissome; the same numbers are in comparison.json, the figures in figures/.</footer>",
    ]
    return write(out / "index.html", document(title, "\n".join(part for part in body if part)))


def labelled(runs: Sequence[Run]) -> list[str]:
    """Name runs by the settings in which they differ, and where that is nothing by seed or directory."""
    flat = [_flat(run.settings) for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differ = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1]
    told = [key for key in differ if key.rpartition(".")[2] not in UNTOLD]
    shown = told or [key for key in differ if key == "seed"]
    labels = [_label(each, shown) or run.path.resolve().name for each, run in zip(flat, runs, strict=True)]
    often = Counter(labels)
    names = [f"{label} ({run.path.resolve().name})" for label, run in zip(labels, runs, strict=True)]
    again = Counter(names)
    unlike = [name if again[name] == 1 else f"{name}, {run.path}" for name, run in zip(names, runs, strict=True)]
    return [label if often[label] == 1 else name for label, name in zip(labels, unlike, strict=True)]


def judged(rows: Sequence[Row], labels: Sequence[str], lengths: Sequence[Lengths | None]) -> str:
    """Say in a sentence which model tells the text best, and which at the greatest length that all have read."""
    costs = {label: value for label, row in zip(labels, rows, strict=True) if (value := _cost(row)) is not None}
    if not costs:
        return "There is no evaluation with a finite loss yet."
    best = min(costs, key=lambda label: costs[label])
    row = rows[labels.index(best)]
    told = f"Held-out text is told best by {best}: perplexity {decimal(finite(row, 'perplexity'))}"
    read = {label: each for label, each in zip(labels, lengths, strict=True) if each is not None}
    shared = set.intersection(*(set(each.length.tolist()) for each in read.values())) if read else set()
    if len(read) > 1 and shared:
        far = max(shared)
        at = {label: float(each.perplexity[each.length == far][0]) for label, each in read.items()}
        first = min(at, key=lambda label: at[label])
        told += f"; at {count(far)} tokens by {first}: {decimal(at[first])}"
    return f"{told}."


def _figures(
    folder: Path,
    runs: Sequence[Run],
    labels: Sequence[str],
    lengths: Sequence[Lengths | None],
    styles: dict[str, Style],
) -> list[str]:
    bits = all(len(series(run.metrics, "step", "bits_per_byte")[0]) for run in runs)
    key, name = ("bits_per_byte", "bits per byte") if bits else ("validation_loss", "nats per token")
    shown = list[str]()
    for x, told in (("step", "steps"), ("seconds", "seconds")):
        curves = [Curve(label, *series(run.metrics, x, key)) for label, run in zip(labels, runs, strict=True)]
        drawn = progress(curves, x=told, y=name, styles=styles)
        if drawn is not None:
            number(drawn.axes[0])
        shown.append(figure(folder, f"loss-{told}", drawn, f"What held-out text costs, over {told}; lower is better."))
    read = [(label, each) for label, each in zip(labels, lengths, strict=True) if each is not None]
    if read:
        shown.append(figure(folder, "lengths", by_length(read, styles, broad=True), length_caption(read[0][1], None)))
    return shown


def _table(runs: Sequence[Run], rows: Sequence[Row], styles: Mapping[str, Style]) -> str:
    costs = [cost for row in rows if (cost := _cost(row)) is not None]
    head = f'<th scope="col">{COLUMNS[0]}</th>'
    head += "".join(f'<th scope="col" style="text-align:right">{name}</th>' for name in COLUMNS[1:])
    body = []
    for run, row in sorted(zip(runs, rows, strict=True), key=lambda pair: _cost(pair[1]) or float("inf")):
        label = escape(row["label"])
        if (run.path / "index.html").is_file():
            label = f'<a href="{escape(quote(row["path"] + "/index.html"), quote=True)}">{label}</a>'
        dot = f'<span class="dot" style="background:{themed(styles[row["label"]].colour)}"></span>'
        cells = "".join(f"<td>{text}</td>" for text in texts(row))
        state = ' class="best"' if len(costs) > 1 and _cost(row) == min(costs) else ""
        body.append(f'<tr{state}><td class="name">{dot}{label}</td>{cells}</tr>')
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="wide"><table class="lines">{inside}</table></div>'


def _cost(row: Row) -> float | None:
    """Return what a text costs, in bits per byte where that is known."""
    bits = finite(row, "bits_per_byte")
    return finite(row, "validation_loss") if bits is None else bits


def _mixed(rows: Sequence[Row]) -> str:
    """Warn of perplexities that do not compare."""
    sources = {row.get("data") for row in rows if row.get("data")}
    sizes = {row.get("vocabulary") for row in rows if row.get("vocabulary")}
    if len(sources) > 1:
        return '<p class="note">These runs read different texts: their numbers do not compare.</p>'
    if len(sizes) > 1:
        return '<p class="note">These runs have different vocabularies: bits per byte compare, perplexities do not.</p>'
    return ""


def _flat(settings: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in settings.items():
        found |= _flat(value, f"{start}{key}.") if isinstance(value, dict) else {f"{start}{key}": value}
    return found


def _label(flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Write the values of keys: of stages alone, of others with their name."""
    ordered = sorted(keys, key=lambda key: STAGES.index(name) if (name := key.rpartition(".")[2]) in STAGES else 9)
    words = []
    for key in ordered:
        name, value = key.rpartition(".")[2], flat.get(key)
        if value not in USUAL:
            said = Path(str(value)).name if name in PATHS else value
            words.append(str(said) if name in STAGES or name == "preset" else f"{name} {said}")
    return ", ".join(words)
