"""A KAN adapted by LoTRA under ARCm, beside all of its weights and beside Adam."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.combined.ways import Figures, Row, clocked
from lissome.adapt import adapt
from lissome.models import KAN
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family

NEAR, FAR = 3.0, 3.5  # omega of the Klein-Gordon equation
POINTS = {"interior": 150, "boundary": 30, "initial": 30}
BASE, STEPS = 40, 16  # steps by Gauss-Newton for the first member, and of ARCm for the second
TIMES = 10  # steps of Adam for one of ARCm
# way -> what is trained, optimizer, whether its steps are TIMES as many
WAYS = {
    "LoTRA by ARCm": ("lotra", "arcm", False),
    "LoTRA by ARC": ("lotra", "arc", False),
    "LoTRA by Adam": ("lotra", "adam", False),
    "LoTRA by Adam, 10 times the steps": ("lotra", "adam", True),
    "last layer by ARCm": ("last", "arcm", False),
    "all weights by ARCm": ("full", "arcm", False),
}


def run(seed: int, *, quick: bool) -> Figures:
    """Solve the first member, then adapt it to the second in each way, from the same start and on the same points."""
    near, far = (
        Problem(load_family("klein-gordon")(omega=omega), points=POINTS, constraint="boundary") for omega in (NEAR, FAR)
    )
    generator = torch.Generator().manual_seed(seed)
    sizes = {"width": 5, "depth": 2, "offset": near.offset, "extent": near.extent}
    network = KAN(near.inputs, **sizes, generator=generator).double()
    _fit(network, near, "gauss-newton", 2 if quick else BASE, seed)
    steps = 2 if quick else STEPS
    return {
        "ways": {
            way: clocked(_adapted, network, far, how, optimizer, steps * (TIMES if more else 1), seed)
            for way, (how, optimizer, more) in WAYS.items()
        }
    }


def _adapted(network: KAN, far: Problem, how: str, optimizer: str, steps: int, seed: int) -> Row:
    more = {"rank": 3, "rules": {"*": "lotra"}, "generator": torch.Generator().manual_seed(seed)}
    model = adapt(network, how, **(more if how == "lotra" else {}))  # type: ignore[arg-type]
    rows = _fit(model, far, optimizer, steps, seed)
    return {
        "numbers": model.count(),
        "error": rows[-1]["error"],
        "loss": rows[-1]["loss"],
        "curve": {key: [row[key] for row in rows] for key in ("step", "error", "loss")},
    }


def _fit(model: Any, problem: Problem, optimizer: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """Train in place, on points that are kept where the loss has to be one function, and return the rows on the way."""
    adam = optimizer == "adam"
    group = Group(optimizer=optimizer, lr=1e-2 if adam else None)
    every = 1 if optimizer == "gauss-newton" else None
    schedule = "cosine" if adam else "constant"
    method = Method((group,), schedule=schedule, resample_every=every, points=sum(POINTS.values()))
    found = fit(problem.wrap(model), problem, method, Budget(steps=steps), seed=seed,
                evaluate_every=max(1, steps // 8), progress=False)  # fmt: skip
    return list(found.history)
