"""Adapt a solved member of a family to further members, by one or several methods.

SVD-PINNs (arXiv 2211.08760) is the method `svd`: singular values of the large matrices and all small
parameters. The others are its baselines, behind the same interface.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lissome import report
from lissome._errors import Interrupted, LissomeError, RunError
from lissome._files import write_json
from lissome.recipes import directory
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import Cell, cells
from lissome.recipes.choice import choose, opened
from lissome.recipes.crew import side_by_side
from lissome.recipes.following import follow
from lissome.recipes.settings import AdaptSettings
from lissome.recipes.tally import tally
from lissome.recipes.together import note, train_together
from lissome.recipes.training import device_of
from lissome.recipes.worker import cores
from lissome.report.read import read_json

Summary = dict[str, Any]


def adapt(
    settings: AdaptSettings,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    jobs: int | None = 1,
) -> list[Summary]:
    """Adapt a run to each target by each method; write a run directory for each and a page for all.

    The method `auto` is the one that a short trial finds best for the target, see `choice`; `choices.json` keeps why.
    With several jobs, cells are trained in processes of their own. These read the calling program again, so a script
    calls this below `if __name__ == "__main__":`; where no process can be started, one after another is done here.
    Each cell has its own seed: the order in which cells are done changes nothing. Cells that differ in the target alone
    are trained at once, in this process, where a short trial finds that faster, see `together`.

    Args:
        settings: the solved or adapted run, targets, methods, and how to train; the run's path is kept in full.
        out: directory of the comparison, not there yet; with `resume`, finished cells are kept.
        resume: go on where an earlier call stopped; cells that failed are tried again.
        progress: show bars.
        jobs: how many cells at once; None is as many as this process may use cores, and 1 on a GPU.

    Returns:
        One summary per cell, targets in the outer order.

    Raises:
        UsageError: the run cannot be read, or an unknown parameter or method; before anything is written.
        RunError: cells failed; the others are done and kept. Or `auto` finds no method that can be trained.
        Interrupted: Ctrl-C; checkpoints are left.
    """
    out = Path(out)
    settings = settings.model_copy(update={"run": os.path.realpath(settings.run)})
    base = load_solution(Path(settings.run))
    found, told = cells(opened(settings, base), base), dict[str, str]()
    device = device_of(settings.device)
    with directory.claimed(out, settings, resume=resume):
        try:
            found, told = choose(found, settings, out, progress=progress)
            if jobs is None:
                jobs = cores() if device.type == "cpu" else 1
            train_together(found, out, jobs=jobs, progress=progress)
            todo = [cell for cell in found if not cell.finished(out)]
            jobs = min(jobs, len(todo))
            if not (jobs > 1 and _several(todo, out, jobs, progress)):
                for cell in todo:
                    cell.train(out, progress=progress)
        except LissomeError as error:
            with contextlib.suppress(LissomeError):  # the first error is the one to tell
                _compare(found, out, told)
            if isinstance(error, Interrupted):
                raise Interrupted(f"{error}: `lissome pde adapt --resume --out {out}`") from error
            raise
    _compare(found, out, told)
    summaries = [read_json(out / cell.name / "summary.json") for cell in found]
    pairs = zip(found, summaries, strict=True)
    failed = [f"{cell.name} ({summary['failed']})" for cell, summary in pairs if summary.get("failed")]
    if failed:
        others = "the others are done, " if len(failed) < len(found) else ""
        raise RunError(
            f"{len(failed)} of {len(found)} cells failed: {'; '.join(failed)}; "
            f"{others}see {out / 'index.html'}, and --resume tries these again"
        )
    return summaries


def _several(todo: Sequence[Cell], out: Path, jobs: int, progress: bool) -> bool:
    """Train cells in processes, below one bar; say whether there could be any."""
    bar = tally(progress)
    task = bar.add_task("", total=len(todo), last="")

    def done(cell: Cell, summary: Summary) -> None:
        error = summary.get("error")
        said = "failed" if summary.get("failed") else f"error {error:.2e}" if error is not None else "done"
        bar.update(task, advance=1, last=f"{cell.name} {said}")

    with bar:
        return side_by_side(todo, out, jobs, done, bar.refresh)


def _compare(found: Sequence[Cell], out: Path, told: Mapping[str, str]) -> None:
    """Draw the page of those cells that have begun, with what each form could follow of training all weights.

    The summaries of cells that `auto` chose say why.
    """
    note(found, out)
    for name, why in told.items():
        if summary := read_json(out / name / "summary.json"):
            write_json(out / name / "summary.json", summary | {"choice": why})
    for whole in found:
        others = [
            each
            for each in found
            if each.target == whole.target and each.settings.optimizers == whole.settings.optimizers
        ]
        if whole.method == "full" and whole.finished(out):
            follow(whole, [each for each in others if each.finished(out)], out)
    places = [out / cell.name for cell in found if directory.holds(out / cell.name)]
    if places:
        report.compare(places, out)
