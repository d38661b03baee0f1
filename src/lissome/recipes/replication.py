"""Replicate a paper: run its cells, keep each as one line, print its claims as shown or not, draw its page.

A directory holds `cells.jsonl`, a line per cell; `tables.md`, `results.json`, `figures/` and `index.html` are made from
it. A run that was stopped or killed loses the cells under way alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lissome._errors import Interrupted, RunError, UsageError, unknown
from lissome._files import write, write_json
from lissome.optim.journal import Journal
from lissome.optim.machine import Stop, stoppable
from lissome.recipes import (
    algoformer,
    arcm,
    dape,
    dape_v2,
    directory,
    kan_convergence,
    lotra,
    sa_softmax,
    sepllm,
    slim_kan,
    sublora,
    svd_pinns,
)
from lissome.recipes.engine import Task
from lissome.recipes.grid import run_grid
from lissome.recipes.paper import Cell, Claim, Paper, ReplicateSettings, Row, Tick
from lissome.recipes.settings import load
from lissome.recipes.worker import cores
from lissome.report.document import details, document, figure, gallery, pairs

PAPERS: dict[str, Paper] = {
    "svd-pinns": svd_pinns.PAPER,
    "arcm": arcm.PAPER,
    "sublora": sublora.PAPER,
    "lotra": lotra.PAPER,
    "kan-convergence": kan_convergence.PAPER,
    "dape": dape.PAPER,
    "dape-v2": dape_v2.PAPER,
    "sa-softmax": sa_softmax.PAPER,
    "sepllm": sepllm.PAPER,
    "algoformer": algoformer.PAPER,
}
BESIDE: dict[str, Paper] = {"slim-kan": slim_kan.PAPER}  # further replications of papers that are there
KNOWN = PAPERS | BESIDE


def replicate(
    paper: str | None,
    out: str | Path,
    *,
    data: Sequence[str | Path] | None = None,
    seeds: int | None = None,
    quick: bool | None = None,
    scale: bool | None = None,
    resume: bool = False,
    progress: bool = True,
    jobs: int | None = 1,
) -> list[Row]:
    """Run what a paper claims and say of each claim whether it is shown.

    Args:
        paper: a name in `KNOWN`; may be left out with `resume`, as all that follows.
        out: directory, not there yet; with `resume`, cells that are done are kept.
        data: files; None takes what the paper's recipe has without files.
        seeds: repetitions; if not given the paper's own, 5 starts of each kind for arcm, 3 networks for svd-pinns.
        quick: a look in less than a minute.
        scale: larger models, longer inputs and more contestants, for hours; of papers that have such a look.
        resume: go on where an earlier call stopped.
        progress: show a bar.
        jobs: cells at once, each on one thread; None is one per core.

    Returns:
        One row per claim: says, source, verdict, what was measured.

    Raises:
        UsageError: an unknown paper, data that cannot be read, a directory that exists or was begun otherwise.
        Interrupted: Ctrl-C; what was done is kept.
        RunError: a cell failed, or its worker was killed again and again; what was done is kept.
    """
    out = Path(out)
    kept = out / "settings.yaml"
    if resume and not kept.is_file():
        raise UsageError(f"'{out}' cannot be resumed: it holds no settings.yaml; leave out --resume to begin there")
    files = [os.path.realpath(path) for path in data] if data else None
    given = {"paper": paper, "data": files, "seeds": seeds, "quick": quick or None, "scale": scale or None}
    settings = load(ReplicateSettings, file=kept if resume else None, given=given)
    if settings.paper not in KNOWN:
        raise unknown("paper", settings.paper, KNOWN)
    _check_scale(settings)
    found = KNOWN[settings.paper].cells(settings)
    with directory.claimed(out, settings, resume=resume):
        journal = Journal(out / "cells.jsonl")
        journal.start(upto=len(found))
        done = {row["cell"] for row in journal.rows}
        todo = [(step, cell) for step, cell in enumerate(found) if cell.name not in done]
        try:
            with stoppable() as stop:
                _run(settings.paper, todo, journal, out / "runs", stop, progress, jobs or cores())
        except (Interrupted, RunError) as error:
            _draw(settings, _asked(journal.rows, found), out, len(found))
            said = "stopped" if isinstance(error, Interrupted) else str(error)
            raise type(error)(
                f"{said}; the cells that were done are kept: `lissome replicate --resume --out {out}`"
            ) from error
        rows = _asked(journal.rows, found)
        _draw(settings, rows, out, len(found))
    return [claim.told() | {"evidence": claim.evidence} for claim in KNOWN[settings.paper].claims(rows)]


def _check_scale(settings: ReplicateSettings) -> None:
    if settings.scale and settings.quick:
        raise UsageError("quick and scale were both asked for; take one of them")
    if settings.scale and not KNOWN[settings.paper].scales:
        large = ", ".join(name for name, paper in KNOWN.items() if paper.scales)
        raise UsageError(f"{settings.paper} has no larger look; leave out scale, which is known to: {large}")


def _asked(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Row]:
    """Leave out rows of cells that an earlier version ran and this one does not ask for."""
    names = {cell.name for cell in cells}
    return [row for row in rows if row["cell"] in names]


def _run(
    paper: str,
    todo: Sequence[tuple[int, Cell]],
    journal: Journal,
    place: Path,
    stop: Stop,
    progress: bool,
    jobs: int,
) -> None:
    steps = {cell.name: step for step, cell in todo}
    asked = functools.partial(dict, paper=paper, place=place)
    tasks = [Task(cell.name, _cell, functools.partial(asked, asked=cell.arguments), cell.after) for _, cell in todo]

    def keep(task: Task, row: Row) -> str:
        journal.append({"step": steps[task.name], "cell": task.name, **row})
        return task.name

    run_grid(tasks, keep, stop=stop, progress=progress, jobs=jobs)


def _draw(settings: ReplicateSettings, rows: Sequence[Row], out: Path, cells: int) -> None:
    """Write tables, JSON, figures and the page of what is known."""
    paper = KNOWN[settings.paper]
    rows = sorted(rows, key=lambda row: row["step"])
    claims, sheets = paper.claims(rows), paper.tables(rows)
    whole = {"paper": settings.paper, "arxiv": paper.arxiv, "cells": cells, "done": len(rows)}
    told = {"claims": [claim.told() for claim in claims], "tables": [sheet.told() for sheet in sheets]}
    write_json(out / "results.json", whole | told)
    verdicts = "".join(f"- **{claim.verdict}** ({claim.source}): {claim.says}. {claim.evidence}.\n" for claim in claims)
    text = f"# {paper.title} (arXiv {paper.arxiv})\n\n{verdicts}\n" + "\n".join(sheet.markdown() for sheet in sheets)
    write(out / "tables.md", text)
    drawn = [figure(out / "figures", item.name, item.figure, item.caption) for item in paper.drawings(rows)]
    missing = cells - len(rows)
    note = f'<p class="note">{missing} of {cells} cells are not done yet; --resume goes on.</p>' if missing else ""
    body = [
        f"<h1>{escape(paper.title)}</h1>",
        f'<p class="lead">Replication of arXiv {paper.arxiv}: {len(rows)} of {cells} runs.</p>',
        note,
        _verdicts(settings, claims),
        gallery(drawn),
        *(f"<h2>{escape(sheet.title)}</h2>\n{sheet.html()}" for sheet in sheets),
        "<h2>How it was made</h2>",
        "".join(f"<p>{escape(note)}</p>" for note in paper.notes),
        details("Symbols of the paper", pairs(dict(paper.symbols)), paper=True),
        details("Settings", pairs(settings.model_dump()), paper=True),
        details("Environment", pairs(directory.environment()), paper=True),
        "<footer>Written by Lissome; the same numbers are in results.json, tables.md and cells.jsonl.</footer>",
    ]
    write(out / "index.html", document(paper.title, "\n".join(part for part in body if part)))


def _verdicts(settings: ReplicateSettings, claims: Sequence[Claim]) -> str:
    """List the claims; those that were not measured are folded below one line that says what measures them."""
    left = [claim for claim in claims if claim.verdict == "not measured"]
    told = "".join(_verdict(claim) for claim in claims if claim not in left)
    body = [f'<ul class="verdicts">{told}</ul>'] if told else []
    if left:
        quick = " by so quick a look" if settings.quick else ""
        command = f"lissome replicate {settings.paper}"
        cure = f"; <code>{command} --out DIR</code> measures them" if quick else ""
        body.append(f'<p class="note">{len(left)} of {len(claims)} claims were not measured{quick}{cure}.</p>')
        body.append(details("Claims not measured", f'<ul class="verdicts">{"".join(map(_verdict, left))}</ul>'))
    return "\n".join(body)


def _verdict(claim: Claim) -> str:
    colour = {"shown": "var(--accent)", "not shown": "#E69F00"}.get(claim.verdict, "var(--rule)")
    said = f"<strong>{claim.verdict}</strong>: {escape(claim.says)} ({escape(claim.source)}). {escape(claim.evidence)}."
    return f'<li style="border-color:{colour}">{said}</li>'


def _cell(tick: Tick, *, paper: str, place: Path, asked: Mapping[str, Any]) -> Row:
    """Run one cell, perhaps in a worker."""
    return KNOWN[paper].run(tick, place, **asked)
