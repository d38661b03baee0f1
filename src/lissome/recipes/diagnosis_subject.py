"""What a diagnosis looks at: the network of a run or of settings, and others beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lissome._errors import UsageError
from lissome.pde import Problem
from lissome.recipes.archive import build, load_solution, member
from lissome.recipes.diagnosis_settings import DiagnoseSettings
from lissome.recipes.settings import NetworkSettings, SolveSettings
from lissome.recipes.settings import load as read_settings
from lissome.recipes.training import count, device_of, problem_of
from lissome.report.read import read_settings as mapping
from lissome.report.read import read_text

MODERATE = 50_000  # numbers of a network that is compared without being asked for


@dataclass(frozen=True)
class Subject:
    """What is diagnosed: a model under its problem, and of what kind others beside it are made."""

    problem: Problem
    model: nn.Module
    network: NetworkSettings
    seed: int

    def of(self, network: NetworkSettings) -> nn.Module:
        """Return another network of the same seed, at its start."""
        made = self.problem.wrap(build(self.problem, network, self.seed))
        return made.to(device=self.problem.device, dtype=torch.float64)


def subject_of(settings: DiagnoseSettings) -> Subject:
    """Load or make what is diagnosed, in float64 and on its device.

    Raises:
        UsageError: a run that cannot be read, has not finished, or is a comparison; an unknown family or device.
    """
    device, asked = device_of(settings.device), settings.solve
    if device.type == "mps":
        raise UsageError("device 'mps' knows no float64, in which a diagnosis is done; legal are cpu and cuda")
    if settings.run is not None:
        run = Path(settings.run)
        solution, asked = load_solution(run), _origin(run)
        problem, network = solution.problem, solution.network
    else:
        assert asked is not None
        problem = problem_of(member(asked.family, asked.dimension, asked.parameters), asked, asked.constraint)
        network = build(problem, asked.network, asked.seed)
    problem.to(device, torch.float64)
    model = problem.wrap(network).to(device=device, dtype=torch.float64)
    model.requires_grad_(True)  # adapted weights are merged, and may be still
    return Subject(problem, model, asked.network, asked.seed)


def _origin(run: Path) -> SolveSettings:
    """Return the settings that the network of a run was made by, be it adapted several times."""
    while "run" in (data := mapping(run / "settings.yaml", read_text(run / "settings.yaml"))):
        run = Path(data["run"])
    return read_settings(SolveSettings, file=run / "settings.yaml", given={})


def networks(subject: Subject, settings: DiagnoseSettings) -> list[NetworkSettings]:
    """Return the networks of the table: the own kind at several widths, and MLPs of about as many numbers."""
    own, widths = subject.network, settings.widths
    if widths is None:
        width = own.width
        larger = sorted({width, 2 * width, 4 * width})
        smaller = sorted({max(1, width // 4), max(1, width // 2), width})
        growth = 4 if own.depth == 1 else 16
        widths = larger if growth * count(subject.model) <= MODERATE else smaller
    found = [_wide(own, width) for width in dict.fromkeys(widths)]
    if own.kind == "mlp":
        return found
    return found + [_alike(subject, each) for each in found]


def _wide(network: NetworkSettings, width: int) -> NetworkSettings:
    return network.model_copy(update={"width": width})


def _alike(subject: Subject, network: NetworkSettings) -> NetworkSettings:
    """Return the MLP that has the number of parameters nearest to those of a network."""
    mlp, wanted = network.model_copy(update={"kind": "mlp"}), count(subject.of(network))

    def size(width: int) -> int:
        return count(subject.of(_wide(mlp, width)))

    high = 1
    while size(high) < wanted:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < wanted else (low, middle)
    return _wide(mlp, min((max(low, 1), high), key=lambda width: abs(size(width) - wanted)))
