"""The verbs: each a thin face of one public function. Loads no torch before a verb runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import lissome
from lissome._errors import Interrupted, LissomeError, UsageError, unknown
from lissome._files import legal
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.settings import METHODS, AdaptSettings, SolveSettings, inherited, load, pairs

app = typer.Typer(
    help="Networks that carry structure: solve an equation once, adapt it to its family.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)
pde = typer.Typer(help="Equations and their families.", no_args_is_help=True)
app.add_typer(pde, name="pde")

Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; must not exist yet.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML with any part of the settings.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="key=value, such as training.rate=1e-3; may repeat.")]
Optimizer = Annotated[str | None, typer.Option(help="Such as adam, gauss-newton or adam+ssbroyden: one after another.")]
Steps = Annotated[int | None, typer.Option(help="Training steps.")]
Seconds = Annotated[float | None, typer.Option(help="Stop after so many seconds.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trainings at once; as many as there are cores, or 1 on a GPU, if not given.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A look in seconds: few steps, few points.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]
Constraint = Annotated[
    str | None, typer.Option(help="soft, boundary (exact boundary values) or exact (initial values too).")
]


@pde.command()
def families(as_json: Json = False) -> None:
    """List the families of equations: parameters, dimensions, targets."""
    rows = lissome.recipes.list_families()
    if as_json:
        return _print_json(rows)
    _print(lissome.report.families(rows))


@pde.command()
def solve(
    family: Annotated[str | None, typer.Argument(help="A family's name, or the path of a file that holds one.")] = None,
    out: Out = Path("runs/solve"),
    parameter: Annotated[list[str] | None, typer.Option(help="name=number; may repeat.")] = None,
    dimension: Annotated[int | None, typer.Option(help="Space dimension, where the family leaves it open.")] = None,
    constraint: Constraint = None,
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
        "parameters": _merged(parameter or []) or None,
        "dimension": dimension,
        "constraint": constraint,
        "training.optimizer": optimizer,
        **_common(steps, seconds, seed, device, dtype, quick),
    }
    asked = load(SolveSettings, file=_file(settings, out, resume), given=given, changes=changes or [])
    _tell([lissome.recipes.solve(asked, out, resume=resume)], out, as_json)


@pde.command()
def adapt(
    run: Annotated[str | None, typer.Argument(help="Directory of a solved member.")] = None,
    out: Out = Path("runs/adapt"),
    parameter: Annotated[list[str] | None, typer.Option(help="Target, such as c=0.5; repeat for more.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(METHODS)}, or auto: by a short trial; repeat for more.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the small forms.")] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="Such as adam or gauss-newton; several are compared; may repeat.")
    ] = None,
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
    """Adapt a solved member to further members of its family, by one or several methods."""
    given = {
        "run": run,
        "targets": [pairs(text) for text in parameter] if parameter else None,
        "methods": _split(method),
        "rank": rank,
        **_optimizers(optimizer),
        **_common(steps, seconds, seed, device, dtype, quick),
    }
    file = _file(settings, out, resume)
    beneath = inherited(run, file)
    asked = load(AdaptSettings, file=file, given=given, changes=changes or [], beneath=beneath)
    _tell(lissome.recipes.adapt(asked, out, resume=resume, jobs=jobs), out, as_json)


@pde.command()
def bench(
    out: Out = Path("runs/bench"),
    family: Annotated[list[str] | None, typer.Option(help="Name or file; all that name targets if not given.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="near, middle, far, or such as c=3; may repeat.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="Such as svd, svd-only or full; may repeat.")] = None,
    optimizer: Annotated[list[str] | None, typer.Option(help="Such as adam or gauss-newton; may repeat.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Networks, each with its own seed; 5 if not given.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of each run, on one thread; 10 if not given.")] = None,
    operations: Annotated[float | None, typer.Option(help="Of each run; 2e11 if not given.")] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="results.json of other runs, to stand beside.")] = None,
    engine: Annotated[str, typer.Option(help="processes, or ray: the cluster of RAY_ADDRESS, or a local one.")] = (
        "processes"
    ),
    settings: SettingsFile = None,
    changes: Changes = None,
    jobs: Jobs = None,
    resume: Resume = False,
    quick: Annotated[bool, typer.Option("--quick", help="A look in minutes: three families, small networks.")] = False,
    as_json: Json = False,
) -> None:
    """Compare adapters and optimizers on families of equations, near and far; draw the leaderboard."""
    given = {"families": _split(family), "adapters": _split(adapter), "optimizers": _split(optimizer)}
    given |= (
        {"targets": [name for text in target for name in ([text] if "=" in text else text.split(","))]}
        if target
        else {}
    )
    given |= {"seeds": seeds, "seconds": seconds, "operations": operations, "quick": quick or None}
    asked = load(BenchSettings, file=_file(settings, out, resume), given=given, changes=changes or [])
    rows = lissome.recipes.bench(asked, out, merge=merge or (), engine=engine, resume=resume, jobs=jobs)
    if as_json:
        return _print_json(rows)
    _print(lissome.report.leaderboard(rows), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run or comparison directory.")], as_json: Json = False) -> None:
    """Draw the page of a run again and print its table."""
    _tell(lissome.recipes.show(run), run, as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run or comparison directories.")],
    out: Out = Path("runs/compare"),
    as_json: Json = False,
) -> None:
    """Put several runs on one page."""
    _tell(lissome.recipes.compare(runs, out), out, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory; one that was begun is gone on with.")] = Path(
        "demo"
    ),
    seed: Seed = None,
    jobs: Jobs = None,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Solve a 10-dimensional equation, adapt it to three members of its family by four methods, draw the page."""
    rows = lissome.recipes.demo(out, seed=seed or 0, quick=quick, jobs=jobs)
    _tell(rows, out / "adapted", as_json)


@app.command()
def papers(as_json: Json = False) -> None:
    """List the ten papers whose methods live here, and which can be replicated so far."""
    rows = lissome.recipes.papers()
    if as_json:
        return _print_json(rows)
    _print(lissome.report.papers(rows))


@app.command()
def replicate(
    paper: Annotated[str | None, typer.Argument(help="A paper's name, such as arcm.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="LIBSVM file, may end in .gz or .bz2; may repeat.")] = None,
    out: Out = Path("runs/replicate"),
    seeds: Annotated[int | None, typer.Option(help="Repetitions; the paper's own, 5 or 3, if not given.")] = None,
    jobs: Jobs = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Run a paper's experiments again and say which of its claims show; `lissome papers` lists them."""
    rows = lissome.recipes.replicate(paper, out, data=data, seeds=seeds, quick=quick, resume=resume, jobs=jobs)
    if as_json:
        return _print_json(rows)
    told = [row for row in rows if row["verdict"] != "not measured"]
    for row in told:
        _print(escape(f"{row['verdict']}: {row['says']} ({row['source']}); {row['evidence']}"))
    if left := len(rows) - len(told):
        _print(f"{left} of {len(rows)} claims were not measured{' by so quick a look' if quick else ''}")
    _print(f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


def _version(wanted: bool) -> None:
    if wanted:
        print(lissome.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _merged(texts: Sequence[str]) -> dict[str, float]:
    """Read the parameters of one member; one value for each."""
    values: dict[str, float] = {}
    for text in texts:
        more = pairs(text)
        if twice := sorted(values.keys() & more.keys()):
            raise UsageError(f"parameter '{twice[0]}' is given twice; legal is one value, one member is solved")
        values |= more
    return values


def _file(settings: Path | None, out: Path, resume: bool) -> Path | None:
    """Return the file of settings to read; a run that is gone on with brings its own."""
    kept = out / "settings.yaml"
    if resume and not kept.is_file():
        raise UsageError(f"'{out}' cannot be resumed: it holds no settings.yaml; leave out --resume to begin there")
    return kept if settings is None and resume else settings


def _common(
    steps: int | None, seconds: float | None, seed: int | None, device: str | None, dtype: str | None, quick: bool
) -> dict[str, Any]:
    given: dict[str, Any] = {"seed": seed, "device": device, "dtype": dtype}
    if quick:
        small = {"steps": 50, "evaluate": 10, "checkpoint": 25, "compile": False}
        given |= {f"training.{key}": value for key, value in small.items()}
        given |= {"points.interior": 256, "points.boundary": 64, "points.initial": 64}
    if steps is not None:
        given["training.steps"] = steps
    if seconds is not None:
        given["training.seconds"] = seconds
    return given


def _split(texts: list[str] | None) -> list[str] | None:
    return [name for text in texts for name in text.split(",")] if texts else None


def _optimizers(texts: list[str] | None) -> dict[str, Any]:
    names = _split(texts) or []
    return {"optimizers": names} if len(names) > 1 else {"training.optimizer": names[0] if names else None}


def _tell(rows: Sequence[dict[str, Any]], directory: Path, as_json: bool) -> None:
    if as_json:
        return _print_json(list(rows))
    _print(lissome.report.terminal(list(rows)), f"page: [bold]{escape(str(directory / 'index.html'))}[/bold]")


def _print(*parts: Any) -> None:
    console = Console()
    with console.capture() as caught:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    _write(caught.get())


def _print_json(value: Any) -> None:
    _write(json.dumps(legal(value), indent=2) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every expected failure is one sentence and an exit code."""
    sys.exit(_guarded(lambda: app(args=arguments, standalone_mode=False)))


def _guarded(run: Callable[[], Any]) -> int:
    try:
        code = run()
        if code == Interrupted.exit_code:
            raise KeyboardInterrupt  # the parser of the command line made a number of it
        return code if isinstance(code, int) else 0
    except LissomeError as error:
        return _complain(str(error), error.exit_code)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped; nothing further was written", Interrupted.exit_code)
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        return _complain(f"the system refused{where}: {error.strerror or error}", 1)
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None or not hasattr(error, "exit_code"):
            raise
        text = _completed(message(), error)  # empty where the help was printed instead
        return _complain(text, UsageError.exit_code) if text else UsageError.exit_code


def _completed(text: str, error: Exception) -> str:
    """Name the legal verbs where the parser knows none of that name."""
    verbs = getattr(getattr(getattr(error, "ctx", None), "command", None), "commands", None)
    if not verbs or not text.startswith("No such command '"):
        return text
    return str(unknown("command", text.split("'")[1], verbs))


def _complain(sentence: str, code: int) -> int:
    Console(stderr=True).print(
        f"lissome: {sentence}",
        style="red" if code != Interrupted.exit_code else "yellow",
        markup=False,
        soft_wrap=True,
        highlight=False,
    )
    return code


if __name__ == "__main__":
    main()
