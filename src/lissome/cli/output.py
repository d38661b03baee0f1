"""What the verbs print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

import lissome
from lissome._files import legal


def tell(rows: Sequence[dict[str, Any]], directory: Path, as_json: bool) -> None:
    """Print the rows of a run or comparison and where its page is."""
    if as_json:
        return print_json(list(rows))
    own = lissome.report.TERMINALS.get(str(rows[0].get("kind"))) if rows else None
    shown = lissome.report.terminal(list(rows)) if own is None else own(*rows)
    say(shown, f"page: [bold]{escape(str(directory / 'index.html'))}[/bold]")


def say(*parts: Any) -> None:
    """Print for people: text, which is not cut, and tables."""
    console = Console()
    with console.capture() as caught:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    _write(caught.get())


def print_json(value: Any) -> None:
    """Print for scripts."""
    _write(json.dumps(legal(value), indent=2) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
