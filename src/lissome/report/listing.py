"""The lists of families, of papers and of contestants for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lissome.report.numerals import quantity

TARGETS = ("near", "middle", "far")
FIRST = 10  # contestants that are shown


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
    return blocks((row["family"], row["equation"], (chosen, targets(row))) for row, chosen in told)


def papers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return papers, one block each: name, title, arXiv number, and how each is replicated.

    Args:
        rows: as `recipes.papers` returns them.
    """
    told = ((row, f"arXiv {row['arxiv']}; {row['replicate'] or 'not replicated yet'}") for row in rows)
    return blocks((row["paper"], row["title"], (below,)) for row, below in told)


def leaderboard(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Return the first contestants of a benchmark, a table for each budget.

    Args:
        rows: as `recipes.bench` returns them.
    """
    tables = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        own = [row for row in rows if row["budget"] == budget]
        table = Table(title=f"the same {budget}", box=box.SIMPLE_HEAD, show_edge=False, title_justify="left")
        table.add_column("")
        table.add_column("adapter, optimizer")
        for head in ("rank", "best", "times the best", "seeds", "trained"):
            table.add_column(head, justify="right", no_wrap=True)
        for row in own[:FIRST]:
            best, trained = f"{row['wins']} of {row['members']}", f"{row['trained_share']:.0%}"
            told = str(row["place"]), row["contestant"], f"{row['rank']:.1f}", best, quantity(row["factor"])
            table.add_row(*told, seeded(row), trained)
        more = len(own) - FIRST
        below = [fewer(own), f"and {more} more on the page" if more > 0 else ""]
        tables += [table, Text("\n".join(filter(None, below)), style="dim")]
    return Group(*tables)


def seeded(row: Mapping[str, Any]) -> str:
    """Return a contestant's seeds, with a mark where the board has contestants with more.

    >>> seeded({"seeds": 5, "fewer_seeds": False}), seeded({"seeds": 1, "fewer_seeds": True})
    ('5', '1 *')
    """
    return f"{row['seeds']} *" if row["fewer_seeds"] else str(row["seeds"])


def fewer(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence that says what the mark of `seeded` means, or nothing where no row of a board has it."""
    if not any(row["fewer_seeds"] for row in rows):
        return ""
    most = max(row["seeds"] for row in rows)
    return f"* Fewer seeds than the {most} of others, in one member at least: error and place are less sure."


def blocks(blocks: Iterable[tuple[object, object, Sequence[str]]]) -> Table:
    """Return a name in bold and a line for each block, and below them what else there is to say."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, line, below in blocks:
        table.add_row(Text(str(name), style="bold"), Text(str(line)))
        for text in filter(None, below):
            table.add_row("", Text(text, style="dim"))
    return table
