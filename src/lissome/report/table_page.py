"""The page of a fitted table: how well the held-out rows are told, and what was learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lissome.report.document import details, figure, gallery, pairs
from lissome.report.drawing import COLOURS, INK, blank, legend, logarithmic, plain, whole
from lissome.report.edges import edges
from lissome.report.figures import Curve, thin
from lissome.report.numerals import ABSENT, count, quantity, seconds
from lissome.report.read import TABLE, Row, Run, finite, read_json, read_run, series
from lissome.report.run_page import run_page

NETWORKS = {"kan": "a KAN", "slim-kan": "a Slim KAN", "mlp": "an MLP"}
COUNTED = 20  # classes whose counts are written into the cells
TICKS = 40  # classes that are named at the edge
PANELS = 6  # targets that are drawn
TOLD = {"kind", "trained", "total", "seconds", "steps", "loss", "fresh", "error", "r2", "accuracy", "rmse", "right"}


def percent(part: float | None) -> str:
    """Write a share of rows.

    >>> percent(0.9417), percent(None)
    ('94.2%', '–')
    """
    return ABSENT if part is None else f"{100 * part:.1f}%"


def measured(row: Row) -> str:
    """Say of which rows the figures are."""
    held = finite(row, "test")
    return f"of {count(held)} rows held out" if held else f"of the {count(finite(row, 'train'))} rows of training"


def r2(row: Row) -> str:
    """Write R², which falls without bound and never exceeds 1."""
    value = finite(row, "r2")
    return ABSENT if value is None else f"{value:.4f}".replace("-", "−") if value > -10 else quantity(value)


def lead(row: Row) -> str:
    """Say in one sentence what came out."""
    if finite(row, "error") is None:
        return "There is no evaluation with a finite error yet."
    who = NETWORKS.get(str(row.get("method")), "A network")
    who = f"{who[0].upper()}{who[1:]} of {count(finite(row, 'trained'))} numbers"
    took = f"after {count(finite(row, 'steps'))} steps and {seconds(finite(row, 'seconds'))} s"
    took += "" if row.get("outcome") else ", and is not finished"
    if row.get("task") == "classification":
        return f"{who} tells the class rightly for {percent(finite(row, 'accuracy'))} {measured(row)}, {took}."
    return f"{who} tells {_targets(row)} with R² {r2(row)} {measured(row).replace('of', 'on', 1)}, {took}."


def loss(run: Run) -> Figure | None:
    """Draw the loss of training and on the rows held out against steps."""
    looks = (("rows of a step", "loss", "-", COLOURS["svd"]), ("rows held out", "fresh", "--", COLOURS["full"]))
    curves = [(thin(Curve(name, *series(run.metrics, "step", key))), dash, ink) for name, key, dash, ink in looks]
    if not any(len(curve.x) for curve, _, _ in curves):
        return None
    drawn, axes = blank()
    for curve, dash, ink in curves:
        axes.plot(curve.x, curve.y, dash, color=ink, label=curve.label, linewidth=1.8)
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="steps", ylabel="loss")
    legend(drawn, axes)
    return drawn


def against(true: np.ndarray, told: np.ndarray, name: str) -> Figure:
    """Draw predicted against true, a dot for each row."""
    drawn, axes = blank()
    low, high = min(true.min(), told.min()), max(true.max(), told.max())
    axes.plot([low, high], [low, high], color=INK, alpha=0.4, linewidth=1)
    alpha = max(0.15, min(0.8, 60 / len(true)))
    axes.plot(true, told, "o", color=COLOURS["svd"], markersize=4, markeredgewidth=0, alpha=alpha)
    axes.set(xlabel=f"{plain(name)}, true", ylabel=f"{plain(name)}, predicted")
    return drawn


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a table of counts (C, C): true classes in rows, predicted ones in columns, coloured by the part of a row."""
    size = len(classes)
    every = max(1, -(-size // TICKS))
    names = [plain(name if len(name) <= 16 else f"{name[:15]}…") for name in classes[::every]]
    longest = max(map(len, names))
    flat = size * longest < 40
    side, edge = max(2.6, min(0.42 * size, 8.0)), 0.4 + 0.085 * longest
    drawn, axes = blank(side + edge, side + (0.5 if flat else edge))
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    axes.grid(False)
    places = range(0, size, every)
    axes.set_yticks(places, names)
    axes.set_xticks(places, names, rotation=0 if flat else 90)
    if size <= COUNTED:
        for (row, column), value in np.ndenumerate(counts):
            if value:
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="#101010")
    axes.set(xlabel="predicted", ylabel="true")
    return drawn


def line(curves: Mapping[str, np.ndarray], names: Sequence[str], input_name: str, classes: bool) -> Figure | None:
    """Draw what was learnt of a single input: the targets with rows of training, or the classes' probabilities."""
    if "line/x" not in curves:
        return None
    drawn, axes = blank(9.3, 3.4)
    colours = [COLOURS[name] for name in ("svd", "full", "lora-xs", "pissa", "lora", "lotra")]
    for place, name in enumerate(names[:PANELS]):
        ink = colours[place]
        if f"rows/{place}" in curves:
            axes.plot(
                curves["rows/x"], curves[f"rows/{place}"], "o", color=ink, markersize=4, markeredgewidth=0, alpha=0.3
            )
        label = f"probability of {name}" if classes else name
        axes.plot(curves["line/x"], curves[f"line/{place}"], color=ink, linewidth=1.8, label=plain(label))
    axes.set(xlabel=plain(input_name))
    legend(drawn, axes)
    return drawn


def drawings(run: Run, known: Mapping[str, Any]) -> str:
    """Draw and write every figure for which the run has data."""
    folder, curves = run.path / "figures", run.curves
    targets, classes = known.get("targets") or [], known.get("classes") or []
    shown = [figure(folder, "loss", loss(run), "Loss of training and on the rows held out")]
    for place, name in enumerate(targets[:PANELS]):
        if f"true/{place}" in curves:
            drawn = against(curves[f"true/{place}"], curves[f"told/{place}"], name)
            shown.append(figure(folder, f"predicted-{place}", drawn, f"Predicted against true: {name}"))
    if "confusion" in curves:
        drawn = confusion(curves["confusion"].reshape(len(classes), -1), classes)
        shown.append(figure(folder, "confusion", drawn, "Rows by true and predicted class"))
    names = classes or targets
    along = line(curves, names, (known.get("inputs") or [""])[0], bool(classes))
    shown.append(figure(folder, "curve", along, "The fitted curve, with rows of training" if targets else ""))
    shown += edges(folder, curves, known.get("inputs"), list(names), COLOURS["svd"])
    return gallery(shown) or "<p>No evaluations yet, so there are no figures.</p>"


def table_page(directory: str | Path) -> Path:
    """Write figures/*.svg and index.html of a fitted table, finished or in progress; return the path of the page.

    Raises:
        UsageError: the directory is no run, or one of its files is broken.
    """
    run = read_run(directory)
    known, row = read_json(run.path / TABLE), table_row(run)
    title = f"Fitting {Path(str(row['data'])).name}"
    classify = row.get("task") == "classification"
    first = ("accuracy", percent(finite(row, "accuracy"))) if classify else ("R²", r2(row))
    error = ("wrong", percent(finite(row, "error"))) if classify else ("test error", quantity(finite(row, "error")))
    numbers = [
        (*first, measured(row)),
        (*error, "" if classify else "in standard deviations"),
        ("trained numbers", count(finite(row, "trained")), ""),
        ("seconds", seconds(finite(row, "seconds")), f"{count(finite(row, 'steps'))} steps"),
        ("train loss", quantity(finite(row, "loss")), ""),
        ("test loss", quantity(finite(row, "fresh")), ""),
    ]
    about = f"{str(row.get('task')).capitalize()}: {row.get('why')}. {_some(len(known.get('inputs') or []), 'input')}, "
    about += f"{_some(known.get('train') or 0, 'row')} of training."
    shown = [f"<p>{escape(about)}</p>", drawings(run, known), _each(row)]
    return run_page(run, row, title, lead(row), numbers, shown=shown, told=TOLD)


def table_row(run: Run) -> Row:
    """Return the summary of a fit, or what its settings and latest evaluation tell while it is in progress."""
    if run.finished:
        return run.row()
    known = read_json(run.path / TABLE)
    told = {key: known[key] for key in ("task", "why", "targets", "train", "test") if key in known}
    network = run.settings.get("network") or {}
    told |= {"kind": "fit", "data": run.settings.get("data"), "method": network.get("kind")}
    return {key: value for key, value in run.row().items() if key != "parameters"} | told


def table_terminal(row: Row) -> Group:
    """Return what the terminal shows of a fit: the sentence of the page, and each target or class."""
    name, values, write_one = _figures(row)
    if not values:
        return Group(Text(lead(row)))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("class" if name == "right" else "target")
    table.add_column(name, justify="right")
    for key, value in list(values.items())[:TICKS]:
        table.add_row(Text(key), write_one(value))
    return Group(table, Text(lead(row)))


def _figures(row: Row) -> tuple[str, dict[str, float | None], Callable[[float | None], str]]:
    """Return the name of what is told of each target or class, its values, and how they are written."""
    name, write_one = ("right", percent) if row.get("task") == "classification" else ("rmse", quantity)
    values = row.get(name)  # of a run in progress one number, or nothing
    return name, values if isinstance(values, dict) else {}, write_one


def _each(row: Row) -> str:
    name, values, write_one = _figures(row)
    lines = {key: write_one(value) for key, value in values.items()}
    what = "Rows rightly told of each class" if name == "right" else "Root mean square error, in each target's own unit"
    return details(what, pairs(lines), paper=True) if lines else ""


def _some(number: int, what: str) -> str:
    return f"{count(number)} {what}" if number == 1 else f"{count(number)} {what}s"


def _targets(row: Row) -> str:
    names = row.get("targets") or ["the target"]
    return ", ".join(names[:PANELS]) + (", ..." if len(names) > PANELS else "")
