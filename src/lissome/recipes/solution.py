"""Solve one member of a family of equations, and keep the network with all that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissome import report
from lissome._errors import UsageError
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, Result, checkpoint, fit
from lissome.pde import Family, Problem, families, load_family
from lissome.recipes import directory
from lissome.recipes.settings import Common, NetworkSettings, SolveSettings, load

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def solve(settings: SolveSettings, out: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train a network on one member of a family and write its run directory.

    Args:
        settings: what to solve, and how.
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
    family = member(settings.family, settings.dimension, settings.parameters)
    device = device_of(settings.device)
    problem = problem_of(family, settings, settings.constraint)
    network = build(problem, settings.network, settings.seed)
    model = problem.wrap(network).to(device=device, dtype=DTYPES[settings.dtype])
    directory.claim(out, settings, resume=resume)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    result = run(model, problem, trained, settings, out, resume=resume, progress=progress)
    facts = {"kind": "solve", "method": "solve", "total": count(model)}
    return finish(out, problem, model, result, settings, facts, {})


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
                    label: ", ".join(f"{key} = {value:g}" for key, value in targets[label].items()) if targets else ""
                    for label in ("near", "middle", "far")
                },
            }
        )
    return rows


def member(name: str, dimension: int | None, parameters: dict[str, float]) -> Family:
    """Return one member of a family, by the family's name or file."""
    return load_family(name)(dimension, **parameters)


def problem_of(family: Family, settings: Common, constraint: str) -> Problem:
    """Return the objective that settings ask for."""
    points = settings.points
    return Problem(
        family,
        points={"interior": points.interior, "boundary": points.boundary, "initial": points.initial},
        sampling=points.draw,
        constraint=constraint,
        weight_boundary=settings.weight,
        dtype=DTYPES[settings.dtype],
    )


def build(problem: Problem, settings: NetworkSettings, seed: int) -> nn.Module:
    """Return a new network for a problem, from a seed."""
    return MLP(
        problem.inputs,
        width=settings.width,
        depth=settings.depth,
        activation=settings.activation,
        offset=problem.offset,
        generator=torch.Generator().manual_seed(seed),
    )


def device_of(name: str) -> torch.device:
    """Return a device by name; `auto` takes CUDA where there is one.

    Raises:
        UsageError: a name that is no device, or a device that is not there.
    """
    cuda = torch.cuda.is_available()
    legal = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0))]
    if torch.backends.mps.is_available():
        legal.append("mps")
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name not in legal and not (name == "cuda" and cuda):
        raise UsageError(f"device '{name}' is not to be had; legal here are: {', '.join(legal)}")
    return torch.device(name)


def run(
    model: nn.Module,
    problem: Problem,
    trained: dict[str, nn.Parameter],
    settings: Common,
    out: Path,
    *,
    resume: bool,
    progress: bool,
) -> Result:
    """Train by the one loop as the settings say."""
    training = settings.training
    method = Method(
        groups=(Group(pattern="*", optimizer=training.optimizer, lr=training.rate),),
        schedule=training.schedule,
        resample_every=settings.points.resample,
        points=sum(problem.counts.values()),
    )
    return fit(
        model,
        problem,
        method,
        Budget(steps=training.steps, seconds=training.seconds),
        parameters=trained,
        seed=settings.seed,
        directory=out,
        evaluate_every=training.evaluate,
        checkpoint_every=training.checkpoint,
        resume=resume,
        progress=progress,
        compile=training.compile,
        tensorboard=training.tensorboard,
    )


def finish(
    out: Path,
    problem: Problem,
    model: nn.Module,
    result: Result,
    settings: Common,
    facts: dict[str, Any],
    curves: dict[str, Tensor],
) -> dict[str, Any]:
    """Write what is left of a run directory, curves, summary and page; return the summary."""
    family = problem.family
    summary = {
        **facts,
        "family": family.name,
        "dimension": family.dimension,
        "parameters": family.values,
        "trained": result.trained,
        "steps": result.steps,
        "seconds": result.seconds,
        "outcome": result.outcome.value,
        "seed": settings.seed,
        "derivatives": problem.explain(model),
        "compiled": result.capture,
        **{key: value for key, value in result.metrics.items() if key not in ("step", "lr")},
    }
    directory.write_tensors(out / "curves.safetensors", problem.slice(model) | curves)
    directory.write_json(out / "summary.json", summary)
    report.page(out)
    return summary


def count(model: nn.Module) -> int:
    """Return how many numbers a module has."""
    return sum(p.numel() for p in model.parameters())


def load_solution(out: Path) -> tuple[SolveSettings, Family, nn.Module]:
    """Return settings, family member and trained network (without its constraint) of a solved run, on the CPU.

    Raises:
        UsageError: no such run, no checkpoint, or weights of another network.
    """
    if not (out / "settings.yaml").is_file():
        raise UsageError(f"'{out}' holds no run; `lissome pde solve FAMILY --out {out}` makes one")
    settings = load(SolveSettings, file=out / "settings.yaml", given={})
    family = member(settings.family, settings.dimension, settings.parameters)
    problem = problem_of(family, settings, settings.constraint)
    network = build(problem, settings.network, settings.seed).to(DTYPES[settings.dtype])
    place = out / "checkpoint"
    checkpoint.load_weights(problem.wrap(network), checkpoint.read(place).model, str(place))
    return settings, family, network
