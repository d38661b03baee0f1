"""The verbs: each a thin face of one public function. Loads no torch before a verb runs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.markup import escape

    import lissome
    from lissome._errors import Interrupted, LissomeError, UsageError, is_out_of_memory, unknown
    from lissome.cli.completion import PAPERS, Install, Show, named, names
    from lissome.cli.fit import fit, predict
    from lissome.cli.icl import icl
    from lissome.cli.lm import lm
    from lissome.cli.options import Data, Device, Jobs, Json, Out, Quick, Resume, Seed, Seeds
    from lissome.cli.output import print_json, say, tell
    from lissome.cli.pde import pde
except KeyboardInterrupt:  # the script that calls `main` imports it unguarded
    print("lissome: stopped before anything was begun", file=sys.stderr)
    raise SystemExit(130) from None

app = typer.Typer(
    help="Networks that carry structure: solve an equation once, adapt it to its family.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,  # the parser's own takes no name of a shell
)
app.add_typer(pde, name="pde")
app.add_typer(lm, name="lm")
app.add_typer(icl, name="icl")
app.command()(fit)
app.command()(predict)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run or comparison, or a directory that holds runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Draw the page of a run again and print its table; of a directory that holds runs, list them on a page."""
    if lissome.recipes.holds_runs(run):
        found = lissome.recipes.list_runs(run)
        if as_json:
            return print_json([entry.told() for entry in found])
        table, told = lissome.report.inventory_terminal(found), lissome.report.tally(found)
        return say(table, told, f"page: [bold]{escape(str(run / 'index.html'))}[/bold]")
    tell(lissome.recipes.show(run), run, as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run or comparison directories.")],
    out: Out = Path("runs/compare"),
    as_json: Json = False,
) -> None:
    """Put several runs on one page."""
    tell(lissome.recipes.compare(runs, out), out, as_json)


@app.command()
def demo(
    out: Out = Path("demo"),
    seed: Seed = None,
    device: Device = None,
    jobs: Jobs = None,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Solve a 10-dimensional equation, adapt it to three members of its family by four methods, draw the page.

    One that was broken off is gone on with.
    """
    rows = lissome.recipes.demo(
        out, seed=seed or 0, device="auto" if device is None else device, quick=quick, jobs=jobs
    )
    tell(rows, out / "adapted", as_json)


@app.command()
def papers(as_json: Json = False) -> None:
    """List the ten papers whose methods live here, and how each is replicated."""
    rows = lissome.recipes.papers()
    if as_json:
        return print_json(rows)
    say(lissome.report.papers(rows))


@app.command()
def replicate(
    paper: Annotated[
        str | None, typer.Argument(help="A paper's name, such as arcm.", autocompletion=names(PAPERS))
    ] = None,
    out: Out = Path("runs/replicate"),
    data: Data = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="Larger models and longer inputs, for hours, where a paper has such a look.")
    ] = False,
    seeds: Seeds = None,
    jobs: Jobs = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Run a paper's experiments again and say which of its claims show; `lissome papers` lists them.

    Of --data, arcm takes LIBSVM files, sublora two texts, slim-kan the files of MNIST, each by an option of its own,
    and those of language models one text.
    """
    rows = lissome.recipes.replicate(
        paper, out, data=data, seeds=seeds, quick=quick, scale=scale, resume=resume, jobs=jobs
    )
    if as_json:
        return print_json(rows)
    told = [row for row in rows if row["verdict"] != "not measured"]
    for row in told:
        say(escape(f"{row['verdict']}: {row['says']} ({row['source']}); {row['evidence']}"))
    if left := len(rows) - len(told):
        say(f"{left} of {len(rows)} claims were not measured{' by so quick a look' if quick else ''}")
    say(f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


def _version(wanted: bool) -> None:
    if wanted:
        print(lissome.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    install_completion: Install = None,
    show_completion: Show = None,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every expected failure is one sentence and an exit code."""
    words = named(sys.argv[1:] if arguments is None else list(arguments))
    sys.exit(_guarded(lambda: app(args=words, standalone_mode=False)))


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
        code = UsageError.exit_code if error.errno == errno.ENAMETOOLONG else 1
        return _complain(f"the system refused{where}: {error.strerror or error}", code)
    except Exception as error:
        message = getattr(error, "format_message", None)
        if is_out_of_memory(error):
            return _complain("there is not enough memory for what was asked; smaller sizes need less", 1)
        if message is None or not hasattr(error, "exit_code"):
            raise
        text = _completed(message(), error)  # empty where the help was printed instead
        return _complain(text, UsageError.exit_code) if text else UsageError.exit_code


def _completed(text: str, error: Exception) -> str:
    """Name what came where the parser's own sentence does not, and the legal verbs where it knows none of that name."""
    told: Any = getattr(error.__cause__, "errors", None)  # of the library that reads numbers for the parser
    if text.startswith("Invalid value for ") and told is not None and (came := repr(told()[0]["input"])) not in text:
        return text.replace(": ", f": {came}: ", 1)
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
