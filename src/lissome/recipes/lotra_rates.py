"""LoTRA's learning rates by component: equal, by the closed rule, or measured, over base rates and widths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lissome._errors import RunError
from lissome.adapt import Adapted
from lissome.adapt.rates import component_rates, nudged
from lissome.models import KAN
from lissome.optim import Group
from lissome.recipes.components import probes_of
from lissome.recipes.known import ERROR, SEEN, Known, train
from lissome.recipes.lotra_functions import TASKS, adapted_by, base
from lissome.recipes.paper import Row, Tick

TASK, WAY = "waves, 2 inputs", "LoTRA 4"
BASES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
POINTS, BATCH, STEPS = 1000, 256, 400


def run(tick: Tick, place: Path, *, label: str, width: int, seed: int, quick: bool, **_: object) -> Row:
    """Train forms of rank 4 by one policy at each base rate; return the errors."""
    begun, model, errors = time.process_time(), base(place, TASK, width, seed), dict[str, float | None]()
    chosen = dict[str, float | None]()
    ratios: dict[str, float] = {}
    for rate in BASES[::2] if quick else BASES:
        known = TASKS[TASK].known(POINTS, 50 + seed, tick, target=True, batch=BATCH)
        adapted = adapted_by(model, WAY, seed)
        found = rates(adapted, model, known, rate, label)
        ratios = {name: each / rate for name, each in found.items()}
        groups = [Group(name, lr=each) for name, each in found.items()]
        try:
            steps = 20 if quick else STEPS
            metrics = train(adapted, known, steps, groups, seed=seed, fresh=True, looks=1).metrics
            errors[f"{rate:g}"], chosen[f"{rate:g}"] = metrics[ERROR], metrics[SEEN]
        except RunError:  # it diverged
            errors[f"{rate:g}"] = chosen[f"{rate:g}"] = None
    return {"sweep": errors, "chosen": chosen, "ratios": ratios, "spent": time.process_time() - begun}


def rates(adapted: Adapted, model: KAN, known: Known, rate: float, policy: str) -> dict[str, float]:
    """Return the rate of each trained part of each form, by its name among the trained numbers."""
    batch = known.sample(torch.Generator().manual_seed(0))
    probes = probes_of(adapted, adapted, batch["x"])
    slopes = _slopes(adapted, model, known, batch, probes) if policy == "measured" else {}
    found = {}
    for path, form in adapted.forms().items():
        own = {name: slopes[f"form.{path}.{name}"] for name in form.trained} if slopes else None
        weight = model.get_parameter(path)
        parts = component_rates(form, rate, policy, probe=probes[path], gradients=own, weight=weight)
        found |= {f"form.{path}.{name}": each for name, each in parts.items()}
    return found


def _slopes(
    adapted: Adapted, model: KAN, known: Known, batch: Mapping[str, Tensor], probes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the loss's gradient where all forms do something, by the names of the trained numbers."""
    moved = {}
    for path, form in adapted.forms().items():
        parts = nudged(form, probes[path], model.get_parameter(path))
        moved |= {f"form.{path}.{name}": part for name, part in parts.items()}

    def loss(parts: dict[str, Tensor]) -> Tensor:
        out = torch.func.functional_call(adapted, parts, (batch["x"],))
        return (out - batch["y"]).square().mean()

    return torch.func.grad(loss)(moved)
