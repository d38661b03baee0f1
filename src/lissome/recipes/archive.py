"""Trained networks back from their run directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import Adapted
from lissome.optim import checkpoint
from lissome.pde import Family, Problem
from lissome.pde.registry import member
from lissome.recipes.network import network_of
from lissome.recipes.settings import AdaptSettings, NetworkSettings, SolveSettings
from lissome.recipes.settings import load as read_settings
from lissome.recipes.training import DTYPES, problem_of
from lissome.report.read import TABLE, read_json, read_text
from lissome.report.read import read_settings as mapping

ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Solution:
    """What a finished run holds: a family's member, the network that solves it, and how the two are joined."""

    family: Family
    network: nn.Module
    constraint: str
    problem: Problem


def load(run: str | Path) -> tuple[Family, nn.Module]:
    """Return the family's member and the trained model of a finished run, solved or adapted, on the CPU.

    The model maps points z (N, D), with t first where there is time, to u (N, 1), under the run's constraint and in
    its dtype.

    Raises:
        UsageError: there is no finished run, or a file of it is missing, damaged or of another network.

    Example:
        >>> import tempfile
        >>> from lissome.recipes.settings import SolveSettings, load as settings
        >>> from lissome.recipes.solution import solve
        >>> few = {"points.interior": 16, "training.steps": 2, "training.compile": False, "network.width": 4}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = solve(settings(SolveSettings, given={"family": "poisson"} | few), f"{place}/run")
        ...     family, model = load(f"{place}/run")
        >>> family, model(torch.zeros(5, 2)).shape
        (poisson(dimension=2, c=0, k=1), torch.Size([5, 1]))
    """
    solution = load_solution(Path(run))
    return solution.family, solution.problem.wrap(solution.network).eval()


def load_solution(run: Path) -> Solution:
    """Return what a finished run holds, with the network outside its constraint; adapted weights are merged.

    Raises:
        UsageError: as `load`.
    """
    if not (run / "settings.yaml").is_file():
        raise UsageError(f"'{run}' holds no run; `lissome pde solve FAMILY --out {run}` makes one")
    if (run / TABLE).is_file():
        raise UsageError(f"'{run}' is a fit of a table; legal is a run of an equation, of `lissome pde solve` or adapt")
    told = mapping(run / "settings.yaml", read_text(run / "settings.yaml"))
    if not told.keys() & {"run", "family"}:
        raise UsageError(f"'{run}' is no run of an equation; legal is one of `lissome pde solve` or adapt")
    if "run" not in told:
        return _solved(run)
    settings = read_settings(AdaptSettings, file=run / "settings.yaml", given={})
    if len(settings.targets) * len(settings.methods) > 1 or any(run.glob("*/*/settings.yaml")):
        raise UsageError(f"'{run}' is a comparison of adapted runs; name one of them, such as {_cell(run)}")
    _check_finished(run, "adapt")
    return _adapted(run, settings)


def build(problem: Problem, settings: NetworkSettings, seed: int) -> nn.Module:
    """Return a new network for a problem, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return network_of(problem.inputs, settings, generator, offset=problem.offset, extent=problem.extent)


def _solved(run: Path) -> Solution:
    settings = read_settings(SolveSettings, file=run / "settings.yaml", given={})
    _check_finished(run, "solve")
    family = member(settings.family, settings.dimension, settings.parameters)
    problem = problem_of(family, settings, settings.constraint)
    network = build(problem, settings.network, settings.seed).to(DTYPES[settings.dtype])
    place = run / "checkpoint"
    checkpoint.load_weights(problem.wrap(network), checkpoint.read(place).model, str(place))
    _check_unchanged(run, settings)
    return Solution(family, network, settings.constraint, problem)


def _adapted(run: Path, settings: AdaptSettings) -> Solution:
    base = load_solution(Path(settings.run))
    family = base.family.at(**settings.targets[0])
    problem = problem_of(family, settings, base.constraint)
    adapted = Adapted.load(base.network.to(DTYPES[settings.dtype]), run / ADAPTER)
    _check_own(run, problem.wrap(adapted))
    return Solution(family, adapted.merged(), base.constraint, problem)


def _check_own(run: Path, model: nn.Module) -> None:
    """Refuse an adapter that is not the one its run has trained, where the run still has its checkpoint."""
    place = run / "checkpoint"
    if not checkpoint.exists(place):
        return  # the adapter is all that is needed, and may be all that was kept
    kept, own = checkpoint.read(place).model, model.state_dict()
    if kept.keys() != own.keys() or not all(torch.equal(own[name], kept[name]) for name in own):
        raise UsageError(
            f"'{run / ADAPTER}' is not what '{run}' has trained: it differs from its checkpoint; put its own back"
        )


def made_of(settings: SolveSettings) -> dict[str, Any]:
    """Return what a summary keeps of the settings that no weight tells of."""
    return {"network": settings.network.model_dump(mode="json"), "constraint": settings.constraint}


def _check_unchanged(run: Path, settings: SolveSettings) -> None:
    """Refuse settings that were edited after the run in what its weights do not tell."""
    summary = read_json(run / "summary.json")
    # a run of an earlier version had what is usual now
    usual = {"network": NetworkSettings().model_dump(mode="json")}
    for key, now in made_of(settings).items():
        kept = summary.get(key, now)
        if (usual.get(key, {}) | kept if isinstance(kept, dict) else kept) != now:
            raise UsageError(
                f"'{run / 'settings.yaml'}' says {key} {now}, and the run was made with {kept}: put that back"
            )


def _check_finished(run: Path, verb: str) -> None:
    summary = read_json(run / "summary.json")
    if not summary:
        raise UsageError(f"'{run}' has not finished; `lissome pde {verb} --resume --out {run}` goes on")
    if summary.get("failed"):
        raise UsageError(f"'{run}' failed: {summary['failed']}")


def _cell(run: Path) -> str:
    found = sorted(run.glob("*/*/summary.json"))
    return str(found[0].parent) if found else "OUT/c=2/svd"
