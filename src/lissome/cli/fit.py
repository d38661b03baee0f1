"""The verbs of tables: `lissome fit` and `lissome predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import lissome
from lissome.cli.completion import names
from lissome.cli.options import (
    Changes,
    Device,
    Dtype,
    Json,
    Network,
    Optimizer,
    Out,
    Quick,
    Resume,
    Seconds,
    Seed,
    SettingsFile,
    Steps,
    common,
    file_of,
    optimizer_of,
)
from lissome.cli.output import print_json, say
from lissome.recipes.settings import load
from lissome.recipes.table.settings import QUICK, TASKS, TableSettings


def fit(
    data: Annotated[
        str | None,
        typer.Argument(help="A .csv, .tsv, .npy or .npz file, images in idx form (MNIST) or their folder, or digits."),
    ] = None,
    out: Out = Path("runs/fit"),
    target: Annotated[
        str | None, typer.Option(help="Column to be told from the others; several with commas; the last if not given.")
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"{', '.join(TASKS)}.", autocompletion=names(TASKS))] = None,
    network: Network = None,
    optimizer: Optimizer = None,
    steps: Steps = None,
    seconds: Seconds = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Fit a function or a table of data by a KAN, a Slim KAN or an MLP; draw the page."""
    given = {"data": data, "target": target, "task": task, "network.kind": network}
    given |= {"training.optimizer": optimizer_of(optimizer)}
    given |= QUICK if quick else {}
    given |= common(steps, seconds, seed, device, dtype, quick=False)
    asked = load(TableSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    row = lissome.recipes.fit_table(asked, out, resume=resume)
    if as_json:
        return print_json(row)
    say(lissome.report.table_terminal(row), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


def predict(
    run: Annotated[Path, typer.Argument(help="Directory of a finished fit.")],
    data: Annotated[str, typer.Argument(help="New rows, in a file as fit reads it; the target may be absent.")],
    out: Out = Path("predictions.csv"),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Tell the targets of new rows by a fit, with the probabilities of classes."""
    found = lissome.recipes.predict(run, data, out, device="auto" if device is None else device)
    if as_json:
        columns, rows = found.table()
        told = [dict(zip(columns, row, strict=True)) for row in rows]
        return print_json({"out": str(out), "outside": found.outside, "predictions": told})
    if remark := found.remark():
        say(escape(remark))
    say(escape(f"{len(found.values):,} rows are told in {out}"))
