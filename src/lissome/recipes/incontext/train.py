"""Train a model of in-context learning in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome import report
from lissome._errors import Interrupted
from lissome._files import write_json
from lissome.optim import Budget, Result, checkpoint, fit, keep_memory
from lissome.recipes import directory
from lissome.recipes.incontext.measure import measure
from lissome.recipes.incontext.network import method_of, new_model, task_of
from lissome.recipes.incontext.objective import Curriculum, InContext
from lissome.recipes.incontext.settings import FREE, IncontextSettings
from lissome.recipes.training import count, device_of, trained_of
from lissome.report.incontext_files import EVALUATION, TASK
from lissome.report.language_files import kept_step


def train_incontext(
    settings: IncontextSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train a model to learn functions from examples in its prompt, measure it, and write its run directory.

    Args:
        settings: the task, the model, and how to train.
        out: directory, not there yet; with `resume` the one to go on with.
        resume: go on from the checkpoint in `out`, to the last bit on the same machine, also within the curriculum.
        progress: show a bar.

    Returns:
        The summary, as in `summary.json`: above all `error`, of the last place of whole prompts, `mean`, over all
        numbers of examples, and `oracles`, the same of each; squared errors, divided by the mean square of what is to
        be told. Iterations may blow up a prompt in a thousand, and with it the mean, which is None where it is not
        finite: `lost` prompts have errors above 100, `kept` is the mean over the others, `median` that over all.

    Raises:
        UsageError: a task, setting or size that is none, or a directory that exists.
        RunError: a hundred steps in a row were not finite, or a file could not be written.
        Interrupted: Ctrl-C; a checkpoint is left.

    Example:
        >>> from lissome.recipes.incontext.settings import QUICK
        >>> from lissome.recipes.settings import load
        >>> told = train_incontext(load(IncontextSettings, given=QUICK), "run", progress=False)
        >>> told["kind"], told["task"], told["steps"], sorted(told["oracles"])
        ('icl', 'representation', 30, ['affine ridge on x', 'ridge on phi(x)'])
    """
    out = Path(out)
    task, device = task_of(settings), device_of(settings.device)
    model = new_model(settings)
    step = kept_step(out) if resume else None
    curriculum = Curriculum(settings, max((step or 0) - 1, 0))  # of the batch in use, which a resumed run draws again
    objective = InContext(task, curriculum, settings)
    keep_memory()
    training = settings.training
    try:
        with directory.claimed(out, settings, resume=resume, free=FREE):
            write_json(out / TASK, {"name": task.name, "what": task.what})
            model.to(device)
            result = fit(
                model,
                objective,
                method_of(settings),
                Budget(steps=training.steps, seconds=training.seconds),
                parameters=trained_of(model),
                seed=settings.seed,
                directory=out,
                evaluate_every=training.evaluate,
                checkpoint_every=training.checkpoint,
                resume=resume and checkpoint.exists(out / "checkpoint"),
                progress=progress,
                on_step=curriculum,
            )
            found = measure(task, model, rows=settings.prompts)
            write_json(out / EVALUATION, found)
            summary = _summary(settings, task.what, found, result) | {"total": count(model)}
            write_json(out / "summary.json", summary)
            report.incontext_page(out)
            return summary
    except Interrupted as error:
        raise Interrupted(f"{error}: `lissome icl train --resume --out {out}`") from error


def _summary(settings: IncontextSettings, what: str, found: dict[str, Any], result: Result) -> dict[str, Any]:
    examples, iterations = found["examples"], found["iterations"]
    return {
        "kind": "icl",
        "task": settings.task,
        "what": what,
        "model": settings.model.kind,
        "dimension": settings.dimension,
        "pairs": settings.pairs,
        "iterations": settings.loops,
        "seed": settings.seed,
        "trained": result.trained,
        "steps": result.steps,
        "seconds": result.seconds,
        "outcome": result.outcome.value,
        "skipped": result.metrics.get("skipped", 0),
        "loss": result.loss,
        "error": examples["model"][-1],
        **{name: found["last"][name] for name in ("median", "kept", "lost")},
        "mean": mean(examples["model"]),
        "oracles": {name: {"error": each[-1], "mean": mean(each)} for name, each in examples["oracles"].items()},
        "broken": iterations["broken"],
        "furthest": iterations["error"][-1],
    }


def mean(values: list[float | None]) -> float | None:
    """Return the mean of numbers; None where one of them is not finite.

    >>> mean([1.0, 2.0]), mean([1.0, None])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
