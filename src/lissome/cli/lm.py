"""The verbs of `lissome lm`: language models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

import lissome
from lissome._errors import LissomeError
from lissome.bridges.separators import listed
from lissome.cli.completion import names
from lissome.cli.options import (
    Batch,
    Changes,
    Data,
    Device,
    Json,
    Out,
    Quick,
    Resume,
    Seconds,
    Seed,
    SettingsFile,
    Steps,
    Text,
    Tokenizer,
    Tokens,
    file_of,
    only,
)
from lissome.cli.output import print_json, say
from lissome.recipes.language.settings import PRECISIONS, PRESETS, QUICK, LanguageSettings, check_kept, read_lengths
from lissome.recipes.language.stream_settings import CACHES, LAST, OWN, POSITIONS, PROTOCOLS, StreamSettings
from lissome.recipes.language.stream_settings import QUICK as QUICK_STREAM
from lissome.recipes.ranks_settings import BASES, RULES, RanksSettings
from lissome.recipes.ranks_settings import QUICK as QUICK_RANKS
from lissome.recipes.settings import load

lm = typer.Typer(help="Language models: trained, measured, asked to write; ranks for a LoRA.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="Directory of a run of `lissome lm train`.")]


@lm.callback()
def _group() -> None:
    pass


@lm.command()
def ranks(
    model: Annotated[str | None, typer.Argument(help="Local folder of a transformers model.")] = None,
    out: Out = Path("runs/ranks"),
    adapter: Annotated[str | None, typer.Option(help="Local folder of a trained LoRA of peft.")] = None,
    data: Data = None,
    budget: Annotated[int | None, typer.Option(help="Terms that stay over all layers; half if not given.")] = None,
    rule: Annotated[str | None, typer.Option(help=f"{', '.join(RULES)}.", autocompletion=names(RULES))] = None,
    basis: Annotated[str | None, typer.Option(help=f"{', '.join(BASES)}.", autocompletion=names(BASES))] = None,
    tokenizer: Tokenizer = None,
    seed: Seed = None,
    device: Device = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Choose which ranks the layers of a LoRA should have; write them, the cut adapter and a page.

    What it shall do well is --data, one file: a text, or .jsonl with lines of text (and label).
    """
    given = {
        "model": model,
        "adapter": adapter,
        "data": only("--data", data),
        "budget": budget,
        "rule": rule,
        "basis": basis,
    }
    given |= {"tokenizer": tokenizer, "seed": seed, "device": device}
    given |= QUICK_RANKS if quick else {}
    asked = load(RanksSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    found = lissome.recipes.rank(asked, out, resume=resume)
    if as_json:
        return print_json(found)
    say(lissome.report.ranks(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@lm.command()
def train(
    corpus: Annotated[
        str | None, typer.Argument(help="A file of text or a folder of them; Python's own library if not given.")
    ] = None,
    out: Out = Path("runs/lm"),
    preset: Annotated[
        str | None, typer.Option(help=f"{', '.join(PRESETS)}; its sizes by --set.", autocompletion=names(PRESETS))
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(
            help="none, rotary, alibi, kerple or fire.",
            autocompletion=names("none", "rotary", "alibi", "kerple", "fire"),
        ),
    ] = None,
    refine: Annotated[
        str | None,
        typer.Option(help="none, dape, or dape(3) for DAPE V2.", autocompletion=names("none", "dape", "dape(3)")),
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(help="softmax or self_adjust(4).", autocompletion=names("softmax", "self_adjust(4)"))
    ] = None,
    validity: Annotated[str | None, typer.Option(help="causal, or such as 'causal & window(256)'.")] = None,
    visible: Annotated[
        str | None, typer.Option(help="all, 'separators(near=64)', sinks, 'fixed(8)', or such as 'ht(separators)'.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="A run whose weights and vocabulary it begins with.")] = None,
    body: Annotated[str | None, typer.Option(help="plain, 'algoformer(6)' or 'looped(6)': layers run 6 times.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens that the model sees in training.")] = None,
    batch: Batch = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts in which a step is computed, for less memory.")] = None,
    vocabulary: Annotated[str | None, typer.Option(help="bytes, bpe, or the file of a saved one.")] = None,
    vocabulary_size: Annotated[int | None, typer.Option(help="Of bpe.")] = None,
    steps: Steps = None,
    seconds: Seconds = None,
    seed: Seed = None,
    device: Device = None,
    precision: Annotated[
        str | None, typer.Option(help=f"{', '.join(PRECISIONS)}.", autocompletion=names(PRECISIONS))
    ] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Capture loss and gradient.")] = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Train a language model on a text; draw the page."""
    given: dict[str, Any] = {"data": corpus, "vocabulary": vocabulary, "vocabulary_size": vocabulary_size}
    given |= {"model.preset": preset, "model.position": position, "model.refine": refine}
    given |= {"model.normalize": normalize, "model.validity": validity, "seed": seed, "device": device}
    given |= {"model.visible": visible, "model.body": body, "start": start}
    given |= {"precision": precision, "training.accumulate": accumulate, "training.compile": compile_}
    given |= QUICK if quick else {}
    own = {"length": length, "batch": batch, "training.steps": steps, "training.seconds": seconds}
    given |= {key: value for key, value in own.items() if value is not None}
    with _first_speaks():
        file = file_of(settings, out, resume)
        if resume:
            check_kept(out)
        asked = load(LanguageSettings, file=file, given=given, changes=changes or [])
        found = lissome.recipes.train_language(asked, out, resume=resume)
    if found is None:  # not the first of several processes
        return
    if as_json:
        return print_json(found)
    say(lissome.report.language_terminal(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@lm.command()
def evaluate(
    run: Run,
    lengths: Annotated[
        str | None, typer.Option(help="Such as 128,256,512; up to 4 times its own if not given.")
    ] = None,
    data: Data = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Places in the text, at most; 64 if not given.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Tell the perplexity of a trained model by the length that it reads; draw its page again.

    It reads the text that was held out, or that of --data.
    """
    wanted = None if lengths is None else read_lengths(lengths)
    more = {} if windows is None else {"windows": windows}
    found = lissome.recipes.evaluate_language(
        run, wanted, data=only("--data", data), device="auto" if device is None else device, **more
    )
    if as_json:
        return print_json(found)
    say(_table(found), f"page: [bold]{escape(str(run / 'index.html'))}[/bold]")


@lm.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="What to go on with.")] = "",
    tokens: Tokens = None,
    temperature: Annotated[float, typer.Option(help="Of the draws; 0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many of the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest of this probability together.")] = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Let a trained model write on, 200 tokens if --tokens says nothing else."""
    asked: dict[str, Any] = {
        "tokens": 200 if tokens is None else tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    asked |= {"seed": 0 if seed is None else seed, "device": "auto" if device is None else device}
    if as_json:
        return print_json(lissome.recipes.generate_text(run, prompt, **asked))
    waiting = [prompt]  # so that nothing is printed before the run is read

    def show(piece: str) -> bool:
        return _stream("".join(waiting) + piece, waiting)

    found = lissome.recipes.generate_text(run, prompt, on_piece=show, **asked)
    _stream("".join(waiting) + "\n", waiting)
    if sys.stderr.isatty():
        rate = found["tokens"] / max(found["seconds"], 1e-9)
        typer.echo(f"{found['tokens']:,} tokens, {rate:,.0f} a second", err=True)


@lm.command()
def export(run: Run, out: Out, as_json: Json = False) -> None:
    """Write a trained model as a folder of transformers, with its tokenizer."""
    found = lissome.recipes.export_language(run, out)
    if as_json:
        return print_json(found)
    say(f"{found['class']} of {found['numbers']:,} numbers, with its tokenizer: [bold]{escape(str(out))}[/bold]")


@lm.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Local folder of a transformers model.")],
    out: Out,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Make a run of a model of transformers, to be evaluated and to write."""
    found = lissome.recipes.import_language(folder, out, tokens=tokenizer)
    if as_json:
        return print_json(found)
    say(lissome.report.language_terminal(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@lm.command()
def stream(
    model: Annotated[
        str | None, typer.Argument(help="Run of `lissome lm train`, or local folder of a transformers model.")
    ] = None,
    out: Out = Path("runs/stream"),
    text: Text = None,
    cache: Annotated[str | None, typer.Option(help=f"{', '.join(CACHES)}.", autocompletion=names(CACHES))] = None,
    initial: Annotated[int | None, typer.Option(help="First tokens that stay.")] = None,
    separators_kept: Annotated[int | None, typer.Option(help="Newest separators that stay.")] = None,
    local: Annotated[int | None, typer.Option(help="Newest tokens that stay.")] = None,
    capacity: Annotated[int | None, typer.Option(help="The most tokens that are held.")] = None,
    every: Annotated[int | None, typer.Option(help="Of cache fixed: which tokens stay in place of separators.")] = None,
    positions: Annotated[
        str | None, typer.Option(help=f"{', '.join(POSITIONS)}.", autocompletion=names(POSITIONS))
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help=f"{', '.join(PROTOCOLS)}.", autocompletion=names(PROTOCOLS))
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Tokens of a forward.")] = None,
    tokens: Tokens = None,
    tokenizer: Tokenizer = None,
    device: Device = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Read a long text as one stream through a bounded cache; draw perplexity, speed and memory along it."""
    given: dict[str, Any] = {"model": model, "text": text, "cache": cache, "initial": initial, "local": local}
    given |= {"separators_kept": separators_kept, "capacity": capacity, "every": every, "positions": positions}
    given |= {"protocol": protocol, "chunk": chunk, "tokenizer": tokenizer, "device": device}
    given |= QUICK_STREAM if quick else {}
    given |= {} if tokens is None else {"tokens": tokens}
    file = file_of(settings, out, resume)
    if resume:
        check_kept(out, StreamSettings, verb="stream", own=OWN, last=LAST)
    asked = load(StreamSettings, file=file, given=given, changes=changes or [])
    found = lissome.recipes.stream_language(asked, out, resume=resume)
    if as_json:
        return print_json(found)
    say(lissome.report.stream_terminal(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")


@lm.command()
def separators(
    tokenizer: Annotated[Path, typer.Argument(help="File tokenizer.json, a folder that holds one, or a run.")],
    text: Text = None,
    as_json: Json = False,
) -> None:
    """List the tokens that end a segment, which SepLLM keeps in its cache; count them in a --text, one file."""
    found = listed(tokenizer, None if text is None else Path(text))
    if as_json:
        return print_json(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("id", "text", *(("count",) if text else ())):
        table.add_column(name, justify="left" if name == "text" else "right")
    for row in found["separators"]:
        counted = (f"{row['count']:,}",) if text else ()
        table.add_row(str(row["id"]), escape(repr(row["text"])), *counted)
    share = f", {100 * found['share']:.1f}% of {found['tokens']:,} tokens" if text else ""
    say(table, f"{len(found['separators'])} of {found['size']:,} ids{share}")


def _stream(text: str, waiting: list[str]) -> bool:
    """Print text at once; True if nobody reads it any more."""
    waiting.clear()
    if sys.stdout.isatty():  # what a model of bytes writes could move the cursor
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@contextlib.contextmanager
def _first_speaks() -> Iterator[None]:
    """Of several processes, let the first alone say what went wrong; the others end with the same code."""
    try:
        yield
    except LissomeError as error:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(error.exit_code) from error
        raise


def _table(found: Mapping[str, Any]) -> Table:
    """Return the rows of an evaluation."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=f"{found['data']}", title_justify="left")
    for name in ("length", "perplexity", "nats a token", "±", "windows"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in found["rows"]:
        error = "–" if row["error"] is None or row["error"] != row["error"] else f"{row['error']:.4f}"
        figures = (f"{row['length']:,}", f"{row['perplexity']:.4g}", f"{row['nats']:.4f}", error, f"{row['windows']:,}")
        table.add_row(*figures, "as trained" if row["length"] == found["trained"] else "")
    return table
