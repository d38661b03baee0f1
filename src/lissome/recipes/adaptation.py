"""Adapt a solved member of a family to further members, by one or several methods.

SVD-PINNs (arXiv 2211.08760) is the method `svd`: singular values of the large matrices and all small
parameters. The others are its baselines, behind the same interface.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissome import report
from lissome.adapt import METHODS, Adapted, large, singular_values
from lissome.adapt import adapt as adapter
from lissome.pde import Family
from lissome.recipes import directory
from lissome.recipes.settings import AdaptSettings, SolveSettings
from lissome.recipes.solution import DTYPES, device_of, finish, load_solution, problem_of, run


def adapt(
    settings: AdaptSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> list[dict[str, Any]]:
    """Adapt a run to each target by each method; write a run directory for each and a page for all.

    Args:
        settings: the solved run, targets, methods, and how to train.
        out: directory of the comparison, not there yet; with `resume`, finished cells are kept.
        resume: go on where an earlier call stopped.
        progress: show bars.

    Returns:
        One summary per cell, targets in the outer order.

    Raises:
        UsageError: the run cannot be read, or an unknown parameter or method; before anything is written.
        RunError: a cell failed; finished cells are kept.
        Interrupted: Ctrl-C; checkpoints are left.
    """
    out, source = Path(out), Path(settings.run)
    solution, family, network = load_solution(source)
    device = device_of(settings.device)
    cells = [
        _Cell(settings, solution, family.at(**target), method, network)
        for target in settings.targets
        for method in settings.methods
    ]
    for cell in cells:
        cell.adapted()  # what is wrong with a later cell is said now
    directory.claim(out, settings, resume=resume)
    places: list[Path] = []
    for cell in cells:
        place = out / cell.name
        if not (resume and (place / "summary.json").is_file()):
            cell.train(place, device, resume=resume and (place / "checkpoint").exists(), progress=progress)
        places.append(place)
        report.compare(places, out)
    return [json.loads((place / "summary.json").read_text(encoding="utf-8")) for place in places]


@dataclass(frozen=True)
class _Cell:
    """One target and one method."""

    settings: AdaptSettings
    solution: SolveSettings
    target: Family
    method: str
    network: nn.Module

    @property
    def name(self) -> str:
        values = ",".join(f"{key}={value:g}" for key, value in self.target.values.items())
        return f"{values or self.target.name}/{self.method}"

    def adapted(self) -> Adapted:
        """Return the network ready to be trained by the method."""
        options: dict[str, Any] = {}
        if METHODS[self.method].formed:
            options = {"rank": self.settings.rank, "small": self.settings.small}
        generator = torch.Generator().manual_seed(self.settings.seed)
        return adapter(self.network, self.method, generator=generator, **options)

    def train(self, place: Path, device: torch.device, *, resume: bool, progress: bool) -> None:
        """Train, and write the run directory."""
        own = self.settings.model_copy(update={"targets": [self.target.values], "methods": [self.method]})
        problem = problem_of(self.target, own, self.solution.constraint)
        adapted = self.adapted()
        model = problem.wrap(adapted).to(device=device, dtype=DTYPES[own.dtype])
        before = _spectra(adapted)
        directory.claim(place, own, resume=resume)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        result = run(model, problem, trained, own, place, resume=resume, progress=progress)
        adapted.save(place / "adapter.safetensors")
        facts = {"kind": "adapt", "method": self.method, "total": adapted.total(), "from": str(self.settings.run)}
        after = _spectra(adapted)
        curves = {f"singular/{path}/before": value for path, value in before.items()}
        curves |= {f"singular/{path}/after": value for path, value in after.items()}
        finish(place, problem, model, result, own, facts, curves)


def _spectra(adapted: Adapted) -> dict[str, Tensor]:
    """Return the singular values of the large matrices, as they stand."""
    module = adapted.merged()
    paths = large(module)
    return singular_values({path: module.get_parameter(path).detach() for path in paths})
