"""Fit a table, and keep the network with all that it needs to tell the targets of new rows."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissome import report
from lissome._errors import Interrupted, UsageError
from lissome.optim import Result, checkpoint, keep_memory
from lissome.recipes import directory
from lissome.recipes.edges import learned
from lissome.recipes.table.frame import Frame
from lissome.recipes.table.model import TableModel, kept, new_model
from lissome.recipes.table.reading import lasting, read_table
from lissome.recipes.table.roles import Roles, places, roles
from lissome.recipes.table.scale import scale_of
from lissome.recipes.table.settings import TableSettings
from lissome.recipes.table.split import split
from lissome.recipes.table.training import objective_of, train
from lissome.recipes.training import count, device_of
from lissome.report.read import TABLE, read_json

DRAWN = 2000  # rows of the test that a figure shows
POINTS = 401  # of the curve of a single input

Part = tuple[np.ndarray, np.ndarray]  # inputs (N, d), and targets (N, k) or places of classes (N,)


def fit_table(
    settings: TableSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train a network to tell the targets of a table from its inputs, and write its run directory.

    Args:
        settings: the table, its targets, and how to train; the path of the data is kept in full.
        out: directory, not there yet; with `resume` the one to go on with.
        resume: go on from the checkpoint in `out`.
        progress: show a bar.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UsageError: data that cannot be read or fitted, a directory that exists, or data that has changed since.
        RunError: the loss became NaN, or a file could not be written.
        Interrupted: Ctrl-C; a checkpoint is left.
    """
    out = Path(out)
    settings = settings.model_copy(update={"data": lasting(settings.data)})
    device = device_of(settings.device)
    frame = _drawn(read_table(settings.data), settings)
    known, y = roles(frame, settings)
    learnt, held = _parts(frame, known, y, settings)
    scale = scale_of(learnt[0], None if known.classes else learnt[1])
    model = new_model(known, scale, settings.network, settings.dtype, settings.seed)
    model.network.to(device)
    objective = objective_of(model, *learnt, held)
    facts = kept(model, settings.network, settings.dtype) | _told(frame, settings, learnt, held)
    keep_memory()
    try:
        with directory.claimed(out, settings, resume=resume):
            with _known(out / TABLE, facts, resume):
                go_on = resume and checkpoint.exists(out / "checkpoint")
                result = train(model, objective, settings, out, resume=go_on, progress=progress)
            return _finish(out, model, result, settings, facts, learnt, held or learnt)
    except Interrupted as error:
        raise Interrupted(f"{error}: `lissome fit --resume --out {out}`") from error


def _drawn(frame: Frame, settings: TableSettings) -> Frame:
    """Return at most so many rows as are asked for."""
    if settings.rows is None:
        return frame
    test = None if frame.test is None else frame.test.some(settings.rows, settings.seed)
    return frame.some(settings.rows, settings.seed, test)


def _parts(frame: Frame, known: Roles, y: np.ndarray, settings: TableSettings) -> tuple[Part, Part | None]:
    """Return the rows to learn from and those that are held out, if any are."""
    X = frame.numbers(known.inputs)
    if frame.test is not None and settings.test:
        return (X, y), (frame.test.numbers(known.inputs), places(frame.test, known))
    chosen = split(len(frame), settings.test, settings.seed, y if known.classes else None)
    learn, test = (each.numpy() for each in chosen)
    return (X[learn], y[learn]), (X[test], y[test]) if len(test) else None


def _told(frame: Frame, settings: TableSettings, learnt: Part, held: Part | None) -> dict[str, Any]:
    """Return what is kept of the table beside the model."""
    digest = hashlib.sha256()
    for part in (learnt, held or ()):
        for each in part:
            digest.update(np.ascontiguousarray(each).tobytes())
    return {
        "columns": list(frame.columns),
        "named": frame.named,
        "leave": settings.leave,
        "train": len(learnt[0]),
        "test": len(held[0]) if held else 0,
        "digest": digest.hexdigest(),
    }


@contextlib.contextmanager
def _known(place: Path, facts: dict[str, Any], resume: bool) -> Iterator[None]:
    """Keep what the model knows; a new run that was asked wrongly leaves nothing of it.

    Raises:
        UsageError: a run that is gone on with was begun with other rows.
    """
    before = read_json(place) if resume else {}
    if before and before.get("digest") != facts["digest"]:
        raise UsageError("the data has changed since the run was begun; put it back, or begin another run by --out")
    directory.write_json(place, facts)
    try:
        yield
    except UsageError:
        if not resume:
            place.unlink()
        raise


def _finish(
    out: Path,
    model: TableModel,
    result: Result,
    settings: TableSettings,
    facts: dict[str, Any],
    learnt: Part,
    shown: Part,
) -> dict[str, Any]:
    """Write what is left of a run directory, curves, summary and page; return the summary."""
    known = model.roles
    figures = {key: value for key, value in result.metrics.items() if key not in ("step", "phase", "lr")}
    told, curves = _against(model, *shown)
    summary = {
        "kind": "fit",
        "data": settings.data,
        "task": known.task,
        "why": known.why,
        "method": settings.network.kind,
        "inputs": len(known.inputs),
        "targets": list(known.targets),
        "classes": len(known.classes),
        "train": facts["train"],
        "test": facts["test"],
        "seed": settings.seed,
        "trained": result.trained,
        "total": count(model.network),
        "steps": result.steps,
        "seconds": result.seconds,
        "outcome": result.outcome.value,
        "compiled": result.capture,
        **{key: value for key, value in figures.items() if not key.startswith("lr/")},
        **told,
    }
    directory.write_tensors(out / "curves.safetensors", curves | _line(model, *learnt) | _functions(model, learnt[0]))
    directory.write_json(out / "summary.json", summary)
    report.table_page(out)
    return summary


def _against(model: TableModel, X: np.ndarray, y: np.ndarray) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return figures of each target or class, and predicted against true: some rows, or a table of counts."""
    known, found = model.roles, model(X)
    if known.classes:
        size = len(known.classes)
        both = torch.from_numpy(y) * size + found.argmax(1)
        counts = torch.bincount(both, minlength=size * size).view(size, size)  # rows: true; columns: told
        pairs = zip(counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
        right = [hits / rows if rows else None for hits, rows in pairs]  # none of a class of which there are no rows
        return {"right": dict(zip(known.classes, right, strict=True))}, {"confusion": counts.double()}
    each = (found - torch.from_numpy(y)).square().mean(0).sqrt().tolist()
    curves = {}
    for place in range(len(known.targets)):
        curves |= {f"true/{place}": torch.from_numpy(y[:DRAWN, place].copy()), f"told/{place}": found[:DRAWN, place]}
    return {"rmse": dict(zip(known.targets, each, strict=True))}, curves


def _functions(model: TableModel, X: np.ndarray) -> dict[str, Tensor]:
    """Return the learned functions of a KAN to draw, those of the first layer in the units of the columns."""
    first, scale = next(model.network.parameters()), model.scale
    tensors = learned(model.network, scale.inside(X[:DRAWN], first.dtype).to(first.device))
    if tensors:
        half, p = (scale.high - scale.low) / 2, tensors["edges/0/from"]
        for name in ("x", "ends"):
            tensors[f"edges/0/{name}"] = scale.low[p, None] + half[p, None] * (1 + tensors[f"edges/0/{name}"])
    return tensors


def _line(model: TableModel, X: np.ndarray, y: np.ndarray) -> dict[str, Tensor]:
    """Return the fitted curve of a single input, and rows of training beside it."""
    if X.shape[1] != 1:
        return {}
    x = np.linspace(float(X.min()), float(X.max()), POINTS)[:, None]
    found, curves = model(x), {"line/x": torch.from_numpy(x[:, 0])}
    for place in range(found.shape[1]):
        curves[f"line/{place}"] = found[:, place].contiguous()
    if not model.roles.classes:
        curves["rows/x"] = torch.from_numpy(X[:DRAWN, 0].astype(np.float64))
        curves |= {f"rows/{place}": torch.from_numpy(y[:DRAWN, place].copy()) for place in range(y.shape[1])}
    return curves
