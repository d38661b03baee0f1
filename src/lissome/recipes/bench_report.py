"""The leaderboard of a benchmark as rows, JSON, Markdown and a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lissome._files import write, write_json
from lissome.recipes.bench_board import BUDGETS, Board, lines, scattered
from lissome.recipes.bench_results import Results
from lissome.recipes.bench_tables import abreast, folded, sheets, starts
from lissome.recipes.standings import errors
from lissome.report.document import details, document, figure, gallery, pairs
from lissome.report.drawing import INK, blank, palette, plain
from lissome.report.figures import Curve, progress

Row = dict[str, Any]
NAMED = 3  # in the sentence, of those that are level with the first
NOTES = (
    "Errors are relative L2 errors on test points, where the budget ended. A row's place is its mean rank over the "
    "members, the best of a member being 1; an error is the geometric mean over seeds.",
    "Operations are those of matrix products, by count: the same on every machine, and so is the row of a seed on one "
    "machine. Seconds are of one thread, evaluations included.",
    "Two contestants whose mean ranks differ by less than the critical difference (Nemenyi, 5%) are not told apart; "
    "the test takes each member as a case of its own, also those of one family.",
    "A run in seconds ends with the step during which its time is over: the column says how long it took. Seconds are "
    "those of the clock, so they want a quiet machine and one job; operations do not mind.",
    "Adam and L-BFGS run in float32, what is of second order in float64, as `lissome pde adapt` does; points are new "
    "in each step of Adam and Gauss-Newton, every 5 of L-BFGS, every 100 of a quasi-Newton method.",
)


def draw(results: Results, out: Path, cells: int, done: int) -> list[Row]:
    """Write results.json, leaderboard.md, figures and index.html; return the leaderboard's rows.

    Args:
        results: what is known, others' rows among them.
        out: the directory.
        cells: how many there are to be of our own.
        done: how many of these there are.
    """
    runs = [row | {"name": contestant(row)} for row in results.rows if row["kind"] == "run"]
    under = {budget: [row for row in runs if row["budget"] == budget] for budget in BUDGETS}
    boards = [Board.of(budget, rows) for budget, rows in under.items() if rows]
    rows = [lines(board) for board in boards]
    leaderboard = [line for each in rows for line in each]
    spread = [line for board in boards for line in scattered(board)]
    known = {"cells": cells, "done": done, "leaderboard": leaderboard, "spread": spread}
    write_json(out / "results.json", results.told() | known)
    tables = [(sheets(board, own), folded(board)) for board, own in zip(boards, rows, strict=True)]
    begun = starts([row for row in results.rows if row["kind"] == "start" and not row.get("made_by")])
    stacked = abreast([row for row in results.rows if row["kind"] == "abreast" and not row.get("made_by")])
    every = [sheet.markdown() for each, _ in tables for sheet in each] + [begun.markdown(), stacked.markdown()]
    every += [sheet.markdown(folded=True) for _, each in tables for sheet in each]
    notes = "".join(f"- {note}\n" for note in NOTES)
    title, verdicts = _title(runs), [_verdict(board) for board in boards]
    said = "".join(f"- {verdict}\n" for verdict in verdicts)
    text = f"# {title}\n\n{said}\n" + "\n".join(every) + f"\n{notes}"
    write(out / "leaderboard.md", text)
    missing = cells - done
    left = f'<p class="note">{missing} of {cells} cells are not done yet; --resume goes on.</p>' if missing else ""
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{_lead(runs, results)}</p>',
        left,
        '<ul class="verdicts">',
        *(f'<li style="border-color:var(--accent)">{escape(verdict)}</li>' for verdict in verdicts),
        "</ul>",
    ]
    for board, (own, more) in zip(boards, tables, strict=True):
        body.append(f"<h2>{escape(BUDGETS[board.budget].capitalize())}</h2>")
        body.append(gallery([figure(out / "figures", f"ranks-{board.budget}", _ranks(board), _caption(board))]))
        body += [f"<h3>{escape(sheet.title)}</h3>\n{sheet.html()}" for sheet in own]
        body += [details(sheet.title, sheet.html()) for sheet in more]
    body += ["<h2>Error against seconds</h2>", gallery(_curves(boards[0], out / "figures") if boards else [])]
    body += [f"<h2>{escape(sheet.title)}</h2>\n{sheet.html()}" for sheet in (begun, stacked)]
    body.append("<h2>How it was made</h2>")
    body += [f"<p>{escape(note)}</p>" for note in NOTES]
    body += [
        details("Settings", pairs(dict(results.settings)), paper=True),
        details("Environment", pairs(dict(results.environment)), paper=True),
        "<footer>Written by Lissome; the same numbers are in results.json and leaderboard.md, curves in cells.jsonl."
        "</footer>",
    ]
    write(out / "index.html", document(title, "\n".join(part for part in body if part)))
    return leaderboard


def slug(name: str) -> str:
    """Return a name as part of a file's name.

    >>> slug("heat, seed 0, start"), slug("../a b, c=3")
    ('heat-seed-0-start', 'a-b-c=3')
    """
    return re.sub(r"[^\w=+.]+", "-", name.replace("..", "")).strip("-.")


def contestant(row: Row) -> str:
    """Return the name of a row's contestant: adapter, optimizer, and who measured it where that is another maker."""
    return ", ".join(filter(None, [row["adapter"], row["optimizer"], row.get("made_by")]))


def _title(runs: Sequence[Row]) -> str:
    families = len({row["family"] for row in runs})
    contestants = len({row["name"] for row in runs})
    return (
        f"{contestants} ways to adapt a network, on {families} {'families' if families != 1 else 'family'} of equations"
    )


def _lead(runs: Sequence[Row], results: Results) -> str:
    members, seeds = len({(row["family"], row["target"]) for row in runs}), len({row["seed"] for row in runs})
    budgets = [f"{results.settings['seconds']:g} s on one thread"] if results.settings["seconds"] else []
    budgets += [f"{results.settings['operations']:.2g} operations"] if results.settings["operations"] else []
    others = f" Beside them rows of {', '.join(results.origin)}." if results.origin else ""
    return escape(
        f"{len(runs)} runs: {members} members, {seeds} {'seeds' if seeds > 1 else 'seed'}, {' or '.join(budgets)} each."
        f"{others}"
    )


def _verdict(board: Board) -> str:
    """Say in one sentence who leads, and of whom that cannot be told apart."""
    found, tested = board.found, board.apart
    first = found[0]
    text = f"In {BUDGETS[board.budget]} {first.name} leads: mean rank {first.rank:.1f} of {len(found)}"
    text += f", best on {first.wins} of {first.blocks} members"
    text += f", with {first.seeds} of {board.seeds} seeds" if first.seeds < board.seeds else ""
    if tested is None:
        return f"{text}; a test needs three contestants, and two members that all of them have met."
    level = [each.name for each in found[1:] if each.rank - first.rank <= tested.difference]
    if not level:
        return f"{text}; it is told apart from all others (critical difference {tested.difference:.1f})."
    named = " / ".join(level[:NAMED]) + (f" and {len(level) - NAMED} more" if len(level) > NAMED else "")
    return f"{text}; not told apart from it: {named} (critical difference {tested.difference:.1f})."


def _caption(board: Board) -> str:
    tested = board.apart
    band = "" if tested is None else (
        f"; the band is the critical difference, {tested.difference:.1f}, from the best; Friedman's p {tested.p:.1g}"
    )  # fmt: skip
    where = BUDGETS[board.budget]
    return f"Mean rank in {where}, 1 is the best; lines reach from the least to the greatest over seeds{band}"


def _ranks(board: Board) -> Figure:
    """Draw the mean ranks, one line of the figure for each contestant."""
    found, tested = board.found, board.apart
    styles = palette(board.adapters.items())
    drawn, axes = blank(7.4, 0.9 + 0.23 * len(found))
    if tested is not None:
        axes.axvspan(found[0].rank, found[0].rank + tested.difference, color=INK, alpha=0.08, linewidth=0)
    for y, each in enumerate(found):
        style = styles[each.name]
        axes.plot([each.low, each.high], [y, y], color=style.colour, linewidth=1.4)
        axes.plot([each.rank], [y], marker=style.marker, color=style.colour, markersize=6, linestyle="none")
    axes.set_yticks(range(len(found)), [plain(each.name) for each in found])
    axes.invert_yaxis()
    axes.set(xlabel="mean rank")
    return drawn


def _curves(board: Board, folder: Path) -> list[str]:
    """Draw, for each member, each adapter by its best optimizer: the seed whose error is the median."""
    drawn = []
    with_curve = [row for row in board.rows if row["error"] and row.get("curve")]  # those of other makers have none
    for (family, target), own in errors(with_curve).items():
        names = board.best(own).values()
        styles = palette((name, board.adapters[name]) for name in names)
        curves = []
        for name in names:
            seeds = [r for r in with_curve if (r["name"], r["family"], r["target"]) == (name, family, target)]
            curve = sorted(seeds, key=lambda row: row["error"])[len(seeds) // 2]["curve"]
            known = [(t, e) for t, e in zip(curve["seconds"], curve["error"], strict=True) if e]
            curves.append(Curve(name, *np.array(known).T))
        picture = progress(curves, x="seconds", styles=styles)
        caption = f"{family}, {target}: each adapter with its best optimizer, the median seed"
        drawn.append(figure(folder, slug(f"{family}-{target}").replace("=", "-"), picture, caption))
    return drawn
