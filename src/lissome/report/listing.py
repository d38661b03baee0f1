"""The lists of families and of papers for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    told = ((row, f"dimension {row['dimension']}; {row.get('parameters') or 'no parameters'}") for row in rows)
    return _blocks((row["family"], row["equation"], (chosen, targets(row))) for row, chosen in told)


def papers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return papers, one block each: name, title, arXiv number, and how each is replicated.

    Args:
        rows: as `recipes.papers` returns them.
    """
    told = ((row, f"arXiv {row['arxiv']}; {row['replicate'] or 'not replicated yet'}") for row in rows)
    return _blocks((row["paper"], row["title"], (below,)) for row, below in told)


def _blocks(blocks: Iterable[tuple[object, object, Sequence[str]]]) -> Table:
    """Return a name in bold and a line for each block, and below them what else there is to say."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, line, below in blocks:
        table.add_row(Text(str(name), style="bold"), Text(str(line)))
        for text in filter(None, below):
            table.add_row("", Text(text, style="dim"))
    return table
