"""The lists of families and of papers for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

TARGETS = ("near", "middle", "far")


def targets(row: Mapping[str, Any]) -> str:
    """Say the usual targets of a family's first parameter, or nothing where it has none.

    >>> targets({"near": "nu = 0.2", "middle": "nu = 1", "far": "nu = 9"})
    'targets: nu near 0.2, middle 1, far 9'
    """
    found = {label: str(row[label]).partition(" = ") for label in TARGETS if row.get(label)}
    values = ", ".join(f"{label} {value}" for label, (_, _, value) in found.items())
    return f"targets: {next(iter(found.values()))[0]} {values}" if found else ""


def families(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return families, one block each: name, equation, what can be chosen, usual targets.

    Args:
        rows: as `recipes.list_families` returns them.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        chosen = f"dimension {row['dimension']}; {row.get('parameters') or 'no parameters'}"
        table.add_row(Text(str(row["family"]), style="bold"), Text(str(row["equation"])))
        for text in (chosen, targets(row)):
            if text:
                table.add_row("", Text(text, style="dim"))
    return table


def papers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return papers, one block each: name, title, arXiv number, and how each is replicated.

    Args:
        rows: as `recipes.papers` returns them.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(Text(str(row["paper"]), style="bold"), Text(str(row["title"])))
        table.add_row("", Text(f"arXiv {row['arxiv']}; {row['replicate'] or 'not replicated yet'}", style="dim"))
    return table
