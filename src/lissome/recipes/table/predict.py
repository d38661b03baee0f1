"""Targets of new rows by a finished run: columns are matched by name where both sides have names, else by place."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lissome._errors import UsageError, unknown
from lissome._files import check_room, write
from lissome.optim import checkpoint
from lissome.recipes.table.arrays import matrix, numbered
from lissome.recipes.table.frame import Frame
from lissome.recipes.table.model import TableModel, rebuilt
from lissome.recipes.table.reading import read_table
from lissome.recipes.training import device_of
from lissome.report.read import TABLE, read_json

READ = ("inputs", "targets", "columns", "named", "leave")  # of what a run knows, before its model


@dataclass(frozen=True)
class Predictions:
    """What a run says of rows.

    Attributes:
        targets: names.
        values: (N, k) targets in their own units, or (N, C) probabilities of the classes.
        classes: names; none for a regression.
        outside: how many rows lie outside the range of training in one input or more.
    """

    targets: tuple[str, ...]
    values: np.ndarray
    classes: tuple[str, ...]
    outside: int

    def labels(self) -> list[str]:
        """Return the most probable class of each row."""
        return [self.classes[place] for place in self.values.argmax(1)]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return names of columns and rows: the targets, or the class and the probability of each class."""
        numbers = self.values.tolist()
        if not self.classes:
            return list(self.targets), numbers
        names = [self.targets[0], *(f"probability of {name}" for name in self.classes)]
        return names, [[label, *row] for label, row in zip(self.labels(), numbers, strict=True)]

    def remark(self) -> str:
        """Say in one line how many rows lie outside the range of training; nothing if none does."""
        if not self.outside:
            return ""
        some = f"{self.outside:,} of {len(self.values):,} rows {'lies' if self.outside == 1 else 'lie'}"
        return f"{some} outside the range of training, where nothing was learnt and a KAN's splines fall to 0"


def predict(
    run: str | Path, rows: str | Path | np.ndarray, out: str | Path | None = None, *, device: str = "auto"
) -> Predictions:
    """Return what a finished run of `fit_table` says of new rows; the target may be absent from them.

    Args:
        run: its directory.
        rows: a file or folder, as `fit_table` reads it, or an array (N, d).
        out: a .csv file to write, which must not exist yet; None writes nothing.
        device: as in settings.

    Raises:
        UsageError: there is no finished run, the device is none, a column is missing or unknown, a cell is no number,
            or `out` exists.

    Example:
        >>> import tempfile
        >>> from lissome.recipes import fit_table
        >>> from lissome.recipes.settings import load
        >>> from lissome.recipes.table.settings import TableSettings
        >>> with tempfile.TemporaryDirectory() as place:
        ...     np.save(f"{place}/line.npy", np.linspace(0, 1, 40)[:, None].repeat(2, 1))
        ...     given = {"data": f"{place}/line.npy", "training.steps": 3}
        ...     _ = fit_table(load(TableSettings, given=given), f"{place}/run", progress=False)
        ...     predict(f"{place}/run", np.zeros((5, 1))).values.shape
        (5, 1)
    """
    if out is not None:
        check_room(Path(out))
        if Path(out).exists():
            raise UsageError(f"'{out}' exists; name another file by --out")
    known = _known(Path(run))
    frame = read_table(rows) if isinstance(rows, str | Path) else _frame(np.asarray(rows))
    X = _inputs(frame, known)
    model = load_model(Path(run))
    model.network.to(device_of(device))
    outside = int(model.scale.outside(X).sum())
    found = Predictions(model.roles.targets, model(X).numpy(), model.roles.classes, outside)
    if out is not None:
        _write(Path(out), found)
    return found


def load_model(run: Path) -> TableModel:
    """Return the model of a finished run, on the CPU.

    Raises:
        UsageError: there is no finished run of `fit_table`, or a file of it is missing or damaged.
    """
    known = _known(run)
    try:
        model = rebuilt(known)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"'{run / TABLE}' is damaged ({' '.join(str(error).split())}); put it back") from error
    checkpoint.load_weights(model.network, checkpoint.read(run / "checkpoint").model, str(run / "checkpoint"))
    model.network.eval()
    return model


def _known(run: Path) -> dict[str, Any]:
    """Return what the model of a finished run knows beside its weights."""
    if not run.is_dir():
        raise UsageError(f"there is no run directory '{run}'")
    known = read_json(run / TABLE)
    if not known:
        raise UsageError(f"'{run}' is no fit of a table: it has no {TABLE}; `lissome fit DATA --out {run}` makes one")
    if lacking := [name for name in READ if name not in known]:
        raise UsageError(f"'{run / TABLE}' is damaged: it lacks '{lacking[0]}'; put it back")
    if not read_json(run / "summary.json"):
        raise UsageError(f"'{run}' has not finished; `lissome fit --resume --out {run}` goes on")
    return known


def _frame(X: np.ndarray) -> Frame:
    X = matrix("rows", X, "the array of ")
    return Frame("rows", numbered(X.shape[1]), False, X)


def _inputs(frame: Frame, known: dict[str, Any]) -> np.ndarray:
    """Return the inputs (N, d) of a frame in the order of the run."""
    inputs, targets = known["inputs"], known["targets"]
    if frame.named and known["named"]:
        legal = [*inputs, *targets, *known["leave"]]
        for column in frame.columns:
            if column not in legal:
                raise unknown(f"column of '{frame.source}'", column, legal)
        for column in inputs:
            if column not in frame.columns:
                raise UsageError(f"'{frame.source}' lacks the column '{column}', from which the run tells its targets")
        return frame.numbers(inputs)
    columns = frame.without(frame.targets) if frame.fixed else frame.columns  # what is known to be the target
    if len(columns) == len(inputs):
        return frame.numbers(columns)
    if len(columns) == len(known["columns"]) and not frame.fixed:
        return frame.numbers([columns[known["columns"].index(name)] for name in inputs])
    more = "" if frame.fixed else f", or {len(known['columns'])} with all that it was trained with"
    raise UsageError(
        f"'{frame.source}' has {len(columns)} columns; legal are {len(inputs)}, the inputs of the run "
        f"({_listed(inputs)}){more}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:6], "..."] if len(names) > 6 else names)


def _write(out: Path, found: Predictions) -> None:
    text = io.StringIO()
    names, rows = found.table()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write(out, text.getvalue())
