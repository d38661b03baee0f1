"""Will this network train, how fast, with which step, and which weights: told from its tangent kernel.

What is shown in arXiv 2410.08041 of wide two-layer KANs, made a look at any network of a run: `calculus.tangent` holds
the formulas, `diagnosis_kernel` the residual they are asked of, `diagnosis_advice` the words.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lissome._errors import Interrupted, RunError, UsageError
from lissome._files import write_json
from lissome._types import Batch
from lissome.recipes import directory
from lissome.recipes.diagnosis_advice import REASONABLE, advise, smoothness
from lissome.recipes.diagnosis_kernel import (
    Descent,
    Kernel,
    System,
    descent,
    elsewhere,
    kernel,
    parts_of,
    still,
    system,
)
from lissome.recipes.diagnosis_settings import DiagnoseSettings
from lissome.recipes.diagnosis_subject import Subject, networks, subject_of
from lissome.recipes.progress import Bar
from lissome.recipes.settings import NetworkSettings, dump
from lissome.recipes.solution import lasting
from lissome.report.diagnosis import page

FRACTIONS = (0.1, 0.01, 0.001)  # of the loss, to which steps are counted
BATCH = 32
TIMED = 5  # steps by which an epoch is timed


def diagnose(
    settings: DiagnoseSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Look at the tangent kernel of a network on its problem, hold it against gradient descent, and give advice.

    `out` gets `diagnosis.json` (all figures) and the page. All is done in float64.

    Args:
        settings: what is diagnosed, and how; paths are kept in full.
        out: directory, not there yet.
        resume: begin again in a directory where an earlier call was stopped.
        progress: show a bar if the error stream is a terminal.

    Returns:
        spectrum, steps, forecast, course, widths, weights, advice and more, as in `diagnosis.json`.

    Raises:
        UsageError: anything asked wrongly; a run that cannot be read, has not finished, or is a comparison.
        RunError: the residual is not finite at the start, or 0, or no step changes it.
        Interrupted: Ctrl-C.
    """
    out, settings = Path(out), _lasting(settings)
    subject = subject_of(settings)
    try:
        with directory.claimed(out, settings, resume=resume, free=()), Bar(progress) as bar:
            found = _found(subject, settings, bar)
            write_json(out / "diagnosis.json", found)
            page(out, found, dump(settings), directory.environment())
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; `lissome pde diagnose --resume --out {out}` begins again") from None
    return found


def _lasting(settings: DiagnoseSettings) -> DiagnoseSettings:
    """Return settings whose paths hold wherever one stands.

    Raises:
        UsageError: nothing to diagnose is named, or two things are.
    """
    if (settings.run is None) == (settings.solve is None):
        raise UsageError("name one thing to diagnose: a run's directory, a .yaml file of settings, or a family")
    if settings.solve is None:
        return settings.model_copy(update={"run": os.path.realpath(str(settings.run))})
    solve = settings.solve.model_copy(update={"family": lasting(settings.solve.family)})
    return settings.model_copy(update={"solve": solve})


def _found(subject: Subject, settings: DiagnoseSettings, bar: Bar) -> dict[str, Any]:
    """Measure all that is told."""
    began, problem = time.perf_counter(), subject.problem
    drawn = torch.Generator().manual_seed(settings.seed)
    batch, others = (_to(problem.sample(drawn, settings.points), problem.device) for _ in range(2))
    main = system(problem, subject.model, batch)
    size = min(BATCH, main.rows) if settings.batch is None else settings.batch
    if size > main.rows:
        raise UsageError(
            f"batch is {size}; legal are 1 to {main.rows}, the rows of the residual at {settings.points} points"
        )
    started = settings.run is None
    beside = networks(subject, settings)
    apart = [each for each in beside if not (started and each == subject.network)]
    bar.expect(settings.steps * (1 + len(apart)))
    _check_start(main)
    at, seconds = _timed(lambda: _kernel(main, settings, bar))
    step = settings.rate * at.step
    course, spent = _timed(lambda: _descent(main, at, step, settings, bar))
    beyond = elsewhere(main, at, system(problem, subject.model, others), step, REASONABLE)
    own = _told(subject.network, main, at, course) | {"diagnosed": True, "trained": not started}
    made, widths = _timed(lambda: [_row(subject, each, batch, settings, bar) for each in apart])
    rows = list(made)
    rows.insert(beside.index(subject.network) if len(apart) < len(beside) else 0, own)
    found = {
        **_who(subject, settings, main),
        "loss": 0.5 * float(at.coordinates.square().sum()),
        "spectrum": _spectrum(at, settings),
        **_pace(at, step, size),
        "elsewhere": None if beyond is None else {"here": beyond[0], "there": beyond[1]},
        "course": {
            "predicted": course.predicted.tolist(),
            "measured": course.measured.tolist(),
            "bound": course.bound.tolist(),
            "error": course.error,
            "drift": course.drift,
            "diverged": course.diverged,
        },
        "widths": rows,
        "weights": _weighed(subject, main, at),
        "smooth": smoothness(problem, subject.model),
        "seconds": {"kernel": seconds, "descent": spent, "widths": widths, "epoch": _epoch(subject, settings, size)},
    }
    found["advice"] = advise(found)
    found["seconds"]["total"] = time.perf_counter() - began
    return found


def _check_start(found: System) -> None:
    """Refuse a residual that nothing can be told of."""
    with torch.no_grad():
        norm = float(found.function(found.start).norm())
    if not math.isfinite(norm):
        raise RunError("the residual is not finite at the start: there is nothing to foretell")
    if not norm:
        raise RunError("the residual is 0 at all points: there is nothing left to train")


def _who(subject: Subject, settings: DiagnoseSettings, found: System) -> dict[str, Any]:
    """Return what is looked at."""
    family, inside = subject.problem.family, found.parts[0][2]
    return {
        "family": family.name,
        "dimension": family.dimension,
        "parameters": family.values,
        "constraint": subject.problem.constraint,
        "run": settings.run,
        "network": subject.network.model_dump(mode="json"),
        "numbers": found.size,
        "rows": {"inside": inside, "outside": found.rows - inside},
    }


def _pace(at: Kernel, step: float, batch: int) -> dict[str, Any]:
    """Return the stable steps, and how many it takes to parts of the loss."""
    tangent, r, n = at.tangent, at.coordinates, len(at.tangent.diagonal)
    return {
        "steps": {
            "largest": at.step,
            "taken": step,
            "plain": at.step * 2 / n,  # the rows of a mean square carry sqrt(2 / n)
            "batch": batch,
            "stochastic": at.stochastic_step(batch),
        },
        "forecast": [{"fraction": each, "steps": tangent.steps_to(r, step, each**0.5)} for each in FRACTIONS],
        "plateau": {"steps": REASONABLE, "share": still(at, step, REASONABLE)},
    }


def _kernel(found: System, settings: DiagnoseSettings, bar: Bar) -> Kernel:
    bar.say(f"kernel of {found.rows} rows")
    generator = torch.Generator().manual_seed(settings.seed)
    at = kernel(found, found.start, limit=settings.limit, products=settings.products, generator=generator)
    if not at.largest > 0:
        raise RunError(
            f"nothing moves at this start: no step of the network's {found.size} numbers changes the residual, so no "
            "gradient descent trains it; take another seed or network"
        )
    return at


def _descent(found: System, at: Kernel, step: float, settings: DiagnoseSettings, bar: Bar) -> Descent:
    bar.say(f"{settings.steps} steps of {found.size} numbers")
    generator = torch.Generator().manual_seed(settings.seed)
    how = {"limit": settings.limit, "products": settings.products}
    told = bar.counting(settings.steps)
    try:
        return descent(found, at, step=step, steps=settings.steps, generator=generator, tick=told.tick, **how)
    finally:
        told.done()


def _row(
    subject: Subject, network: NetworkSettings, batch: Batch, settings: DiagnoseSettings, bar: Bar
) -> dict[str, Any]:
    """Return a line of the table of networks: each at its start, on the same points."""
    found = system(subject.problem, subject.of(network), batch)
    at = _kernel(found, settings, bar)
    course = _descent(found, at, settings.rate * at.step, settings, bar)
    return _told(network, found, at, course) | {"diagnosed": False, "trained": False}


def _told(network: NetworkSettings, found: System, at: Kernel, course: Descent) -> dict[str, Any]:
    return {
        "kind": network.kind,
        "width": network.width,
        "numbers": found.size,
        "smallest": at.smallest,
        "largest": at.largest,
        "drift": course.drift,
        "error": course.error,
        "diverged": course.diverged,
    }


def _spectrum(at: Kernel, settings: DiagnoseSettings) -> dict[str, Any]:
    """Return the eigenvalues, or the Ritz values, and what is at rounding."""
    rounding = len(at.tangent.diagonal) * torch.finfo(torch.float64).eps * at.largest
    values = at.tangent.eigenvalues
    return {
        "whole": at.whole,
        "limit": settings.limit,
        "smallest": at.smallest,
        "largest": at.largest,
        "smallest_bound": at.smallest_bound,
        "largest_bound": at.largest_bound,
        "condition": at.largest / at.smallest if at.smallest > 0 else math.inf,
        "rounding": rounding,
        "at_rounding": int((values <= rounding).sum()) if at.whole else None,
        "eigenvalues": values.tolist(),
        "shares": parts_of(at).tolist(),
    }


def _weighed(subject: Subject, found: System, at: Kernel) -> dict[str, Any] | None:
    """Return the weight of what is outside as it is, and as it would be balanced."""
    balanced = found.balanced(at.tangent.diagonal)
    if balanced is None:
        return None
    (_, inner, m), (_, outer, _) = found.parts[:2]
    rest = found.rows - m
    return {"follows": subject.problem.balanced, "now": (outer / inner) ** 2 * rest / m, "balanced": balanced}


def _epoch(subject: Subject, settings: DiagnoseSettings, batch: int) -> float:
    """Return the seconds of one epoch of training: all points once, in batches."""
    problem, model = subject.problem, subject.model
    generator = torch.Generator().manual_seed(settings.seed)
    points = _to(problem.sample(generator, batch), problem.device)
    trained = [p for p in model.parameters() if p.requires_grad]

    def step(times: int) -> None:
        for _ in range(times):
            torch.autograd.grad(problem.loss(model, points), trained)

    step(1)
    return _timed(lambda: step(TIMED))[1] / TIMED * math.ceil(settings.points / batch)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) for name, value in batch.items()}


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start
