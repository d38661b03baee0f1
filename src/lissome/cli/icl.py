"""The verbs of `lissome icl`: learning in context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

import lissome
from lissome.cli.completion import names
from lissome.cli.options import (
    Changes,
    Device,
    Json,
    Out,
    Quick,
    Resume,
    Seconds,
    Seed,
    SettingsFile,
    Steps,
    file_of,
    split,
)
from lissome.cli.output import print_json, say
from lissome.recipes.incontext.settings import MODELS, QUICK, SHIFTS, TASKS, IncontextSettings, read_loops
from lissome.recipes.settings import load

icl = typer.Typer(help="Learning in context: looped transformers as algorithms (AlgoFormer).", no_args_is_help=True)


@icl.callback()
def _group() -> None:
    pass


@icl.command()
def train(
    task: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(TASKS)}; representation if not given.", autocompletion=names(TASKS)),
    ] = None,
    out: Out = Path("runs/icl"),
    model: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(MODELS)}; its sizes by --set.", autocompletion=names(MODELS)),
    ] = None,
    steps: Steps = None,
    seconds: Seconds = None,
    seed: Seed = None,
    device: Device = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Train a model to learn functions from examples in its prompt; draw the page."""
    given: dict[str, Any] = {"task": task, "model.kind": model, "seed": seed, "device": device}
    given |= QUICK if quick else {}
    own = {"training.steps": steps, "training.seconds": seconds}
    given |= {key: value for key, value in own.items() if value is not None}
    asked = load(IncontextSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    found = lissome.recipes.train_incontext(asked, out, resume=resume)
    if as_json:
        return print_json(found)
    say(lissome.report.incontext_terminal(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@icl.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Directory of a run of `lissome icl train`.")],
    loops: Annotated[
        str | None,
        typer.Option(help="Iterations such as 1,5,10,20; errors are drawn to 4 times the trained in any case."),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(SHIFTS)}, of the prompts' law; all if not given; may repeat.",
            autocompletion=names(SHIFTS),
        ),
    ] = None,
    most: Annotated[int | None, typer.Option(help="Iterations of early exit; up to the trained.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Fresh ones to measure on.")] = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Tell the errors of a trained model by iterations and under shifts of its prompts; draw its page again."""
    wanted = [] if loops is None else read_loops(loops)
    found = lissome.recipes.evaluate_incontext(
        run,
        loops=wanted,
        shifts=split(shift),
        most=most,
        prompts=prompts,
        seed=seed or 0,
        device="auto" if device is None else device,
    )
    if as_json:
        return print_json(found)
    say(_iterations(found, wanted))
    for kind in split(shift) or found["shifts"]:
        say(_shift(kind, found["shifts"][kind]))
    say(f"page: [bold]{escape(str(run / 'index.html'))}[/bold]")


def _iterations(found: Mapping[str, Any], wanted: list[int]) -> Table:
    """Return errors by iterations: of those asked for, else of the trained number and its multiples."""
    own = found["iterations"]
    trained, errors = own["trained"], own["error"]
    shown = wanted or [times * trained for times in (1, 2, 4) if times * trained <= len(errors)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title="error of the last place", title_justify="left")
    for name in ("iterations", "error"):
        table.add_column(name, justify="right")
    table.add_column("")
    for loops in shown:
        table.add_row(f"{loops:,}", _number(errors[loops - 1]), "as trained" if loops == trained else "")
    return table


def _shift(kind: str, own: Mapping[str, Any]) -> Table:
    """Return errors by the strength of a shift."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=f"shift: {kind}", title_justify="left")
    for name in ("strength", "model", *own["oracles"]):
        table.add_column(name, justify="right")
    for i, strength in enumerate(own["strength"]):
        told = [own["model"][i], *(each[i] for each in own["oracles"].values())]
        table.add_row(f"{strength:g}", *map(_number, told))
    return table


def _number(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.4g}"
