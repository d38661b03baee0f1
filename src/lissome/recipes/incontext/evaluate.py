"""What a trained model of in-context learning makes of other loops and other prompts than it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lissome import report
from lissome._checks import check_kind, check_path, check_whole
from lissome._errors import UsageError
from lissome._files import write_json
from lissome.language.incontext import Prompts
from lissome.models import Continuation, Regressor
from lissome.optim import checkpoint
from lissome.recipes.incontext.measure import measure
from lissome.recipes.incontext.network import new_model, task_of
from lissome.recipes.incontext.settings import LARGEST, MOST, ROWS, IncontextSettings
from lissome.recipes.language.archive import read_weights
from lissome.recipes.settings import load
from lissome.recipes.training import device_of
from lissome.report.incontext_files import EVALUATION, TASK, is_incontext
from lissome.report.read import read_json, read_run


@dataclass(frozen=True)
class TrainedInContext:
    """What a run has come to: its directory, settings, task, and the model of its last checkpoint."""

    path: Path
    settings: IncontextSettings
    task: Prompts
    model: Regressor | Continuation


def load_incontext(run: str | Path, device: str = "auto") -> TrainedInContext:
    """Return the model of a run of `lissome icl train`, finished or not, ready to evaluate.

    Raises:
        UsageError: the directory holds no such run, no checkpoint yet, or a damaged file.
    """
    run = check_path("run", run)
    if not run.is_dir():
        raise UsageError(f"there is no run directory '{run}'")
    if not is_incontext(run):
        raise UsageError(f"'{run}' is no run of `lissome icl train`: it holds no {TASK}")
    settings = load(IncontextSettings, file=run / "settings.yaml", given={})
    place = run / "checkpoint"
    if not checkpoint.exists(place):
        raise UsageError(f"'{run}' holds no checkpoint; `lissome icl train --resume --out {run}` goes on to one")
    model = new_model(settings)
    checkpoint.load_weights(model, read_weights(place / checkpoint.MODEL), str(place))
    return TrainedInContext(run, settings, task_of(settings), model.to(device_of(device)).eval())


def evaluate_incontext(
    run: str | Path,
    *,
    loops: Sequence[int] = (),
    shifts: Sequence[str] | None = None,
    most: int | None = None,
    prompts: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure a model again, write `evaluation.json` into its run and draw its page again.

    Args:
        run: directory of `lissome icl train`, finished or not.
        loops: counts of iterations that are told by themselves; errors are drawn at least to four times the trained.
        shifts: kinds of shift of the prompts: scale, skew, noise; None is all that the task has.
        most: iterations of early exit, up to the trained number.
        prompts: fresh ones; None is as the run was asked.
        seed: by which they are drawn; 0 draws those that the run was measured on when it ended.
        device: as in settings.

    Returns:
        What `evaluation.json` says.

    Raises:
        UsageError: no such run or no checkpoint, an unknown shift, loops that are no whole numbers of at least 1 or of
            a model that has no loop, or early exit beyond the trained iterations.
    """
    check_kind("loops", loops, (list, tuple), "is a list such as [1, 5, 10]")
    for count in loops:
        check_whole("loops", count, 1, MOST)
    if prompts is not None:
        check_whole("prompts", prompts, 1, ROWS)
    check_whole("seed", seed, 0, LARGEST)
    trained = load_incontext(run, device)
    if not trained.model.body.shape.loop and any(count > 1 for count in loops):
        raise UsageError(f"'{run}' is a plain model without a loop; legal for loops is 1")
    rows = trained.settings.prompts if prompts is None else prompts
    read_run(trained.path)  # its page shows it: what is damaged is told before anything is measured
    found = measure(trained.task, trained.model, loops=loops, shifts=shifts, most=most, rows=rows, seed=seed)
    kept = read_json(trained.path / EVALUATION)
    if shifts is not None and kept:  # what was seen of others stays on the page
        found["shifts"] = {**kept.get("shifts", {}), **found["shifts"]}
    write_json(trained.path / EVALUATION, found)
    report.incontext_page(trained.path)
    return found
