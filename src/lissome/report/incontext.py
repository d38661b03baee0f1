"""The page of in-context learning: how well functions are learnt from a prompt, beside what statistics makes of it."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.text import Text

from lissome.report.document import figure, gallery
from lissome.report.drawing import COLOURS, blank, legend, logarithmic, whole
from lissome.report.figures import Curve, thin
from lissome.report.incontext_figures import CEILING, FLOOR, by_examples, by_iterations, by_shift, kept
from lissome.report.incontext_files import TASK, Evaluation, read_evaluation
from lissome.report.language import decimal
from lissome.report.numerals import ABSENT, count, seconds
from lissome.report.read import Row, Run, finite, read_json, read_run, series
from lissome.report.run_page import run_page

NAMES = {"algoformer": "AlgoFormer", "looped": "Looped transformer", "plain": "Plain transformer"}
TOLD = {
    "kind",
    "what",
    "trained",
    "seconds",
    "steps",
    "loss",
    "error",
    "kept",
    "lost",
    "mean",
    "oracles",
    "broken",
    "furthest",
    "finished",
    "parameters",
}


def incontext_page(directory: str | Path) -> Path:
    """Write figures/*.svg and index.html of a run of `lissome icl train`, finished or in progress; return its path.

    Raises:
        UsageError: the directory is no run, or one of its files is broken.
    """
    run = read_run(directory)
    row, found = incontext_row(run), read_evaluation(run.path)
    numbers = [
        ("squared error", decimal(finite(row, "kept") or finite(row, "error")), _counted(row)),
        ("mean error", decimal(finite(row, "mean")), "over all numbers of examples"),
        ("trained numbers", count(finite(row, "trained")), ""),
        ("iterations", count(finite(row, "iterations")), ""),
        ("seconds", seconds(finite(row, "seconds")), f"{count(finite(row, 'steps'))} steps"),
        ("steps left out", count(finite(row, "skipped")), "whose gradient was not finite"),
    ]
    shown = [_drawn(run, found), "" if found is None else _table(found)]
    return run_page(run, row, heading(row), lead(row, found), numbers, shown=shown, told=TOLD)


def incontext_row(run: Run) -> Row:
    """Return the summary of a run, or what its settings and latest evaluation tell while it is in progress."""
    row = run.row()
    if run.finished:
        return row
    model = run.settings.get("model")
    kind = model.get("kind") if isinstance(model, dict) else None
    told = {name: run.settings[name] for name in ("task", "dimension", "pairs") if name in run.settings}
    return row | told | {"kind": "icl", "model": kind, "what": read_json(run.path / TASK).get("what")}


def incontext_terminal(row: Row) -> Group:
    """Return what the terminal shows of a run: the sentences of its page, and the oracles."""
    oracles = row.get("oracles")
    beside = [
        f"{name}: {decimal(finite(each, 'error'))} at the last place, {decimal(finite(each, 'mean'))} in the mean"
        for name, each in (oracles if isinstance(oracles, dict) else {}).items()
    ]
    return Group(Text(heading(row)), Text(lead(row, None)), *(Text(f"  {line}") for line in beside))


def heading(row: Row) -> str:
    """Name a run in one line."""
    size = ""
    if {"dimension", "pairs"} <= row.keys():
        size = f", d = {row['dimension']}, {row['pairs']} example{'' if row['pairs'] == 1 else 's'}"
    return f"{NAMES.get(str(row.get('model')), 'A model')} on {row.get('task') or 'a task'}{size}"


def lead(row: Row, found: Evaluation | None) -> str:
    """Say in a few sentences what came out."""
    error = finite(row, "kept") or finite(row, "error")
    if error is None and finite(row, "lost"):
        return "The iterations blew up all prompts: no error is finite or below 100."
    if error is None:
        return "There is no evaluation with a finite error yet."
    what = f"In these prompts {row['what']} " if row.get("what") else ""
    took = f"after {count(finite(row, 'steps'))} steps and {seconds(finite(row, 'seconds'))} s"
    told = f"{what}Of the mean square of what is to be told, {decimal(error)} is wrong at the last place, {took}."
    if lost := finite(row, "lost"):
        told += f" Left out: {prompts(lost)} that the iterations blew up."
    if found is not None:
        told += f" {drift(found)}"
    return told


def _counted(row: Row) -> str:
    lost = finite(row, "lost")
    return f"of the last place, without {prompts(lost)} that were blown up" if lost else "of the last place"


def prompts(number: float) -> str:
    """Write a number of prompts.

    >>> prompts(1), prompts(1200)
    ('1 prompt', '1,200 prompts')
    """
    return f"{count(number)} prompt{'' if number == 1 else 's'}"


def drift(found: Evaluation) -> str:
    """Say what more iterations than were trained do."""
    errors, trained = found.iterations, found.trained
    if len(errors) < 2:
        return "The model has no loop."
    if found.broken is not None:
        return f"From {found.broken} iterations on its numbers are no longer finite (trained: {trained})."
    own, far = errors[trained - 1], errors[-1]
    times = far / own if own > 0 else float("inf")
    return (
        f"At {len(errors)} iterations, trained {trained}, the error is {decimal(float(times))} times that as trained."
    )


def overflowed(found: Evaluation) -> str:
    """Say under which shifts the model's numbers are not finite; nothing where they all are.

    Only errors of all prompts together are known: one that overflows makes their mean infinite.
    """
    told = [
        f"{kind} {', '.join(f'{strength:g}' for strength in each.strength[~np.isfinite(each.model)])}"
        for kind, each in found.shifts.items()
        if not np.isfinite(each.model).all()
    ]
    return f"Crosses: the model's error is not finite at {'; '.join(told)}." if told else ""


def _drawn(run: Run, found: Evaluation | None) -> str:
    folder = run.path / "figures"
    course = (
        "In the course of training: the loss of a step, on prompts and iterations of its stage, and the error of the "
        "last place of whole prompts after all iterations."
    )
    shown = [figure(folder, "error-steps", _course(run), course)]
    if found is not None:
        edge = f" Errors below {FLOOR:g} or above {CEILING:,.0f} are drawn at the edge."
        shown = [
            figure(
                folder,
                "error-examples",
                by_examples(found),
                f"Squared error by examples in context, mean over {found.prompts:,} fresh prompts, beside what "
                f"statistics makes of the same examples.{edge}",
            ),
            figure(
                folder,
                "error-iterations",
                by_iterations(found) if len(found.iterations) > 1 else None,
                f"Squared error of the last place by iterations, beyond the trained number too. {drift(found)}",
            ),
            figure(
                folder,
                "error-shifts",
                by_shift(found),
                "Prompts of another law than those of training: error of the last place, as part of the mean square of "
                f"what is to be told; the dashed line changes nothing.{edge} {overflowed(found)}",
            ),
            *shown,
        ]
    return gallery(shown) or "<p>No evaluations yet, so there are no figures.</p>"


def _course(run: Run) -> Figure | None:
    looks = (("loss", "loss of a step", "--", COLOURS["last"]), ("error", "last place", "-", COLOURS["svd"]))
    curves = [(thin(Curve(name, *series(run.metrics, "step", key))), dash, ink) for key, name, dash, ink in looks]
    if not any(len(curve.x) for curve, _, _ in curves):
        return None
    drawn, axes = blank(9.3)
    for curve, dash, ink in curves:
        axes.plot(curve.x, kept(curve.y), dash, color=ink, label=curve.label, linewidth=1.8)
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="steps", ylabel="squared error")
    legend(drawn, axes)
    return drawn


def _table(found: Evaluation) -> str:
    """Return errors of model and oracles, in the mean over numbers of examples and at the last place."""
    rows = [("model", found.model), *found.oracles.items()]
    cells = [(name, _value(float(np.mean(each))), _value(float(each[-1]))) for name, each in rows]
    if found.settled is not None:
        left = f"model, left early: {found.settled['iterations']:.1f} of {found.trained} iterations in the mean"
        cells.insert(1, (left, ABSENT, _value(found.settled["error"])))
    names = ("", "mean over numbers of examples", "last place")
    head = "".join(f'<th scope="col" style="text-align:right">{name}</th>' for name in names)
    body = "".join(f'<tr><td class="name">{escape(a)}</td><td>{b}</td><td>{c}</td></tr>' for a, b, c in cells)
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<h2>Beside statistics</h2>\n<div class="wide"><table class="lines">{inside}</table></div>'


def _value(error: float) -> str:
    return decimal(error) if np.isfinite(error) else "not finite"
