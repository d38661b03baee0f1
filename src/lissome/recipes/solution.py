"""Solve one member of a family of equations, and keep the network with all that it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lissome._errors import Interrupted
from lissome.pde import families
from lissome.recipes import directory
from lissome.recipes.archive import build, made_of, member
from lissome.recipes.settings import SolveSettings
from lissome.recipes.training import DTYPES, count, device_of, finish, problem_of, run, trained_of


def solve(settings: SolveSettings, out: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train a network on one member of a family and write its run directory.

    Args:
        settings: what to solve, and how; the path of a person's own family is kept in full.
        out: directory, not there yet; with `resume` the one to go on with.
        resume: go on from the checkpoint in `out`.
        progress: show a bar.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UsageError: an unknown family, parameter, device, or a directory that exists.
        RunError: the loss became NaN, or a file could not be written.
        Interrupted: Ctrl-C; a checkpoint is left.
    """
    out = Path(out)
    settings = settings.model_copy(update={"family": lasting(settings.family)})
    family = member(settings.family, settings.dimension, settings.parameters)
    device = device_of(settings.device)
    problem = problem_of(family, settings, settings.constraint)
    network = build(problem, settings.network, settings.seed)
    model = problem.wrap(network).to(device=device, dtype=DTYPES[settings.dtype])
    trained = trained_of(model)
    try:
        with directory.claimed(out, settings, resume=resume):
            result = run(model, problem, trained, settings, out, resume=resume, progress=progress)
            facts = {"kind": "solve", "method": "solve", "total": count(model), **made_of(settings)}
            return finish(out, problem, model, result, settings, facts, {})
    except Interrupted as error:
        raise Interrupted(f"{error}: `lissome pde solve --resume --out {out}`") from error


def list_families() -> list[dict[str, Any]]:
    """Return name, equation, dimension, parameters and targets of every family."""
    rows = []
    for name, family in families().items():
        targets = family.targets()
        rows.append(
            {
                "family": name,
                "equation": family.title,
                "dimension": family.dimensions or f"any ({family.default_dimension})",
                "parameters": ", ".join(f"{p.name} = {p.default:g}" for p in family.parameters),
                **{
                    label: ", ".join(f"{key} = {value:g}" for key, value in targets.get(label, {}).items())
                    for label in ("near", "middle", "far")
                },
            }
        )
    return rows


def lasting(family: str) -> str:
    """Return a family's name, or the whole path of its file, which holds wherever one stands."""
    is_file = family.endswith(".py") or "/" in family or "\\" in family
    return os.path.realpath(family) if is_file else family
