"""The verbs of `lissome pde`: equations and their families."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import lissome
from lissome.cli.completion import FAMILIES, names
from lissome.cli.options import (
    Batch,
    Changes,
    Constraint,
    Device,
    Dimension,
    Dtype,
    Jobs,
    Json,
    Network,
    Optimizer,
    Out,
    Parameter,
    Quick,
    Resume,
    Seconds,
    Seed,
    Seeds,
    SettingsFile,
    Steps,
    common,
    file_of,
    merged,
    optimizer_of,
    optimizers,
    split,
)
from lissome.cli.output import print_json, say, tell
from lissome.recipes.bench_settings import ADAPTERS, PLACES, BenchSettings
from lissome.recipes.diagnosis_settings import DiagnoseSettings, subject
from lissome.recipes.settings import AUTO, METHODS, AdaptSettings, SolveSettings, inherited, load, pairs

pde = typer.Typer(help="Equations and their families.", no_args_is_help=True)


@pde.command()
def families(as_json: Json = False) -> None:
    """List the families of equations: parameters, dimensions, targets."""
    rows = lissome.recipes.list_families()
    if as_json:
        return print_json(rows)
    say(lissome.report.families(rows))


@pde.command()
def solve(
    family: Annotated[
        str | None,
        typer.Argument(help="A family's name, or the path of a file that holds one.", autocompletion=names(FAMILIES)),
    ] = None,
    out: Out = Path("runs/solve"),
    parameter: Parameter = None,
    dimension: Dimension = None,
    constraint: Constraint = None,
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
    """Solve one member of a family from scratch, and keep the network."""
    given = {
        "family": family,
        "parameters": merged(parameter or []) or None,
        "dimension": dimension,
        "constraint": constraint,
        "network.kind": network,
        "training.optimizer": optimizer_of(optimizer),
        **common(steps, seconds, seed, device, dtype, quick),
    }
    asked = load(SolveSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    tell([lissome.recipes.solve(asked, out, resume=resume)], out, as_json)


@pde.command()
def adapt(
    run: Annotated[str | None, typer.Argument(help="Directory of a solved member.")] = None,
    out: Out = Path("runs/adapt"),
    parameter: Parameter = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(METHODS)}, or auto: by a short trial; may repeat.", autocompletion=names(METHODS, AUTO)
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the small forms.")] = None,
    ranks: Annotated[str | None, typer.Option(help="Of lotra: outputs, basis, inputs, such as 4,4,4.")] = None,
    optimizer: Optimizer = None,
    steps: Steps = None,
    seconds: Seconds = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    jobs: Jobs = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Adapt a solved member to further members of its family, one of each --parameter, by one or several methods."""
    given = {
        "run": run,
        "targets": [pairs(text) for text in parameter] if parameter else None,
        "methods": split(method),
        "rank": rank,
        "ranks": None if ranks is None else ranks.split(","),
        **optimizers(optimizer),
        **common(steps, seconds, seed, device, dtype, quick),
    }
    file = file_of(settings, out, resume)
    beneath = inherited(run, file)
    asked = load(AdaptSettings, file=file, given=given, changes=changes or [], beneath=beneath)
    tell(lissome.recipes.adapt(asked, out, resume=resume, jobs=jobs), out, as_json)


@pde.command()
def bench(
    out: Out = Path("runs/bench"),
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or file; all that name targets if not given; may repeat.", autocompletion=names(FAMILIES)
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="near, middle, far, or such as c=3; may repeat.", autocompletion=names(PLACES)),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Such as svd, svd-only or full; may repeat.", autocompletion=names(ADAPTERS)),
    ] = None,
    optimizer: Optimizer = None,
    operations: Annotated[float | None, typer.Option(help="Stop each training after so many.")] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="results.json of other runs, to stand beside; may repeat.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="processes, or ray: the cluster of RAY_ADDRESS, or a local one.",
            autocompletion=names("processes", "ray"),
        ),
    ] = "processes",
    seconds: Seconds = None,
    seeds: Seeds = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    jobs: Jobs = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Compare adapters and optimizers on families of equations, near and far; draw the leaderboard.

    Unless told otherwise each training stops after 10 seconds on one thread, and after 2e11 operations, for 5 networks.
    """
    given = {"families": split(family), "adapters": split(adapter), "optimizers": split(optimizer)}
    given |= (
        {"targets": [name for text in target for name in ([text] if "=" in text else text.split(","))]}
        if target
        else {}
    )
    given |= {"seeds": seeds, "seconds": seconds, "operations": operations, "quick": quick or None}
    asked = load(BenchSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    rows = lissome.recipes.bench(asked, out, merge=merge or (), engine=engine, resume=resume, jobs=jobs)
    if as_json:
        return print_json(rows)
    say(lissome.report.leaderboard(rows), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@pde.command()
def diagnose(
    what: Annotated[
        str | None,
        typer.Argument(
            help="Directory of a run, a .yaml file of settings of solve, or a family's name or file.",
            autocompletion=names(FAMILIES),
        ),
    ] = None,
    out: Out = Path("runs/diagnose"),
    parameter: Parameter = None,
    dimension: Dimension = None,
    constraint: Constraint = None,
    network: Network = None,
    points: Annotated[int | None, typer.Option(help="Points in all, the kernel's rows; 300 if not given.")] = None,
    widths: Annotated[str | None, typer.Option(help="Of networks to compare, such as 16,64,256, or none.")] = None,
    batch: Batch = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Say whether a network will train, how fast, with which step and weights, from its tangent kernel.

    It is held against 100 steps of gradient descent, by --steps others; SGD is told for 32 rows, by --batch others.
    """
    beside = {"parameters": merged(parameter or []) or None, "dimension": dimension, "constraint": constraint}
    beneath, given = subject(what, beside | {"network.kind": network, "seed": seed})
    given |= {"points": 100, "steps": 20, "widths": []} if quick else {}
    own = {"points": points, "steps": steps, "batch": batch, "seed": seed, "device": device}
    own |= {"widths": None if widths is None else [] if widths == "none" else widths.split(",")}
    given |= {key: value for key, value in own.items() if value is not None}
    file = file_of(settings, out, resume)
    asked = load(DiagnoseSettings, file=file, given=given, changes=changes or [], beneath=beneath)
    found = lissome.recipes.diagnose(asked, out, resume=resume)
    if as_json:
        return print_json(found)
    say(lissome.report.diagnosis(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")
