"""The page of the command line, from its own parser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docs._ext.docstrings import FLAG
from docs._ext.links import GENERATED
from docs._ext.papers import anchor, cell
from typer.main import get_command

from lissome.cli import app

PLACE = GENERATED / "reference" / "commands.md"


def pages() -> dict[Path, str]:
    """Return the page: place and text."""
    head = (
        "# The command line\n\n`--help` behind a verb says the same. Options that belong to the settings are written "
        "down in `settings.yaml` of the run; `--set key=value` reaches all others."
    )
    return {PLACE: "\n\n".join([head, *(section for verb in verbs().items() for section in _verb(*verb))]) + "\n"}


def verbs(group: Any = None, before: str = "") -> dict[str, Any]:
    """Return all verbs by what is typed behind `lissome`."""
    found: dict[str, Any] = {}
    for name, verb in sorted((group or get_command(app)).commands.items()):
        found |= verbs(verb, f"{before}{name} ") if hasattr(verb, "commands") else {f"{before}{name}": verb}
    return found


def _verb(name: str, verb: Any) -> list[str]:
    rows = [_option(option) for option in verb.params if option.name != "help"]
    table = "\n".join(["| option | |", "| :--- | :--- |", *rows])
    return [f"({anchor(name)})=\n## lissome {name}", _text(verb.help or ""), table if rows else ""]


def _option(option: Any) -> str:
    names = (*option.opts, *option.secondary_opts) if option.param_type_name == "option" else (option.name.upper(),)
    return f"| {', '.join(f'`{name}`' for name in names)} | {cell(_text(getattr(option, 'help', None) or ''))} |"


def _text(told: str) -> str:
    """Return a help text without the marks of the terminal."""
    return FLAG.sub(r"`\g<0>`", re.sub(r"\[/?[a-z ]+\]", "", told).replace("\n", " ").strip())
