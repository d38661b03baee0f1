"""The verbs of `lissome lm`: language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import lissome
from lissome.cli.options import Changes, Device, Json, Out, Resume, Seed, SettingsFile, file_of
from lissome.cli.output import print_json, say
from lissome.recipes.ranks_settings import BASES, RULES, RanksSettings
from lissome.recipes.settings import load

lm = typer.Typer(help="Language models of transformers and peft.", no_args_is_help=True)


@lm.callback()
def _group() -> None:
    pass


@lm.command()
def ranks(
    model: Annotated[str | None, typer.Argument(help="Local folder of a transformers model.")] = None,
    out: Out = Path("runs/ranks"),
    adapter: Annotated[str | None, typer.Option(help="Local folder of a trained LoRA of peft.")] = None,
    data: Annotated[str | None, typer.Option(help="Text, or .jsonl with text (and label), that it shall do well.")] = (
        None
    ),
    budget: Annotated[int | None, typer.Option(help="Terms that stay over all layers; half if not given.")] = None,
    rule: Annotated[str | None, typer.Option(help=f"{', '.join(RULES)}.")] = None,
    basis: Annotated[str | None, typer.Option(help=f"{', '.join(BASES)}.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or file, if not beside model or adapter.")] = None,
    seed: Seed = None,
    device: Device = None,
    settings: SettingsFile = None,
    changes: Changes = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Choose which ranks the layers of a LoRA should have; write them, the cut adapter and a page."""
    given = {"model": model, "adapter": adapter, "data": data, "budget": budget, "rule": rule, "basis": basis}
    given |= {"tokenizer": tokenizer, "seed": seed, "device": device}
    asked = load(RanksSettings, file=file_of(settings, out, resume), given=given, changes=changes or [])
    found = lissome.recipes.rank(asked, out, resume=resume)
    if as_json:
        return print_json(found)
    say(lissome.report.ranks(found), f"page: [bold]{escape(str(out / 'index.html'))}[/bold]")
