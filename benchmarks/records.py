r"""Three equations from scratch, in float64, by networks of at most 1,000 numbers, on one thread.

1-d Allen-Cahn (D = 1e-4, 5 (u - u^3), periodic), Burgers (nu = 0.01 / pi) and Poisson in two dimensions (the product of
two sines). Boundary and initial values hold exactly. All optimizers have the same network, ansatz, points and seconds;
each draws new points as suits it: Gauss-Newton every 4 steps, quasi-Newton methods every 300 iterations, Adam always.

The floor of a Gauss-Newton step with M points and p numbers: 3 forward and 6 backward rows of the network per point,
M p^2 for J^T J by symmetry, p^3 / 3 for its factor. At M = 3,000, p = 897 that is 2.4 + 0.2 GFLOP, 55 ms at the 50
GFLOP/s of one thread. `gauss-newton-step` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table

from benchmarks.trials import Aim, Figures, Trial, Trials, middle
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family

SEEDS = (0, 1, 2)
WIDTH = 16
# family, constraint, depth, points, and the error wanted after so many seconds
PROBLEMS: dict[str, dict[str, Any]] = {
    "poisson": {"constraint": "boundary", "depth": 2, "points": 1000, "most": 1e-7, "within": 5.0, "adaptive": False},
    "allen-cahn-1d": {
        "constraint": "exact",
        "depth": 3,
        "points": 3000,
        "most": 5e-6,
        "within": 120.0,
        "adaptive": True,
    },
    "burgers": {"constraint": "exact", "depth": 4, "points": 3000, "most": 2e-5, "within": 300.0, "adaptive": True},
}
# new points every so many steps, steps between evaluations
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "gauss-newton": {"resample": 4, "evaluate": 10},
    "ssbroyden": {"resample": 300, "evaluate": 100},
    "ssbfgs": {"resample": 300, "evaluate": 100},
    "bfgs": {"resample": 300, "evaluate": 100},
    "lbfgs": {"resample": 15, "evaluate": 5},
    "adam": {"resample": 1, "evaluate": 100},
}
LONG = 600.0
SHORT = 120.0  # of the optimizers that are there to be compared with
FOREMOST = ("gauss-newton", "ssbroyden")


def train(problem: str, optimizer: str, seed: int, seconds: float) -> Figures:
    """Solve one problem by one optimizer and return its curve: seconds, error, loss, loss on fresh points."""
    settings, how = PROBLEMS[problem], OPTIMIZERS[optimizer]
    objective = Problem(
        load_family(problem)(),
        points={"interior": settings["points"]},
        constraint=settings["constraint"],
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(seed)
    offset = objective.offset
    network = MLP(objective.inputs, width=WIDTH, depth=settings["depth"], offset=offset, generator=generator).double()
    adam = {"lr": 5e-3} if optimizer == "adam" else {}
    method = Method(
        (Group(optimizer=optimizer, **adam),),
        schedule="cosine" if optimizer == "adam" else "constant",
        resample_every=how["resample"],
        adaptive=settings["adaptive"],
        points=settings["points"],
    )
    objective.evaluate(objective.wrap(network))  # the reference is computed before the clock starts
    result = fit(
        objective.wrap(network),
        objective,
        method,
        Budget(seconds=seconds),
        seed=seed,
        evaluate_every=how["evaluate"],
        progress=False,
    )
    keys = ("seconds", "step", "error", "loss", "fresh")
    return {"trained": result.trained, "curve": {key: [row[key] for row in result.history] for key in keys}}


def after(figures: Figures, seconds: float) -> float | None:
    """Return the error of the last evaluation within so many seconds."""
    curve = figures["curve"]
    return next(
        (e for t, e in reversed(list(zip(curve["seconds"], curve["error"], strict=True))) if t <= seconds), None
    )


def _over_seeds(found: Mapping[str, Figures], problem: str, optimizer: str, seconds: float, long: bool = False):
    names = [name_of(problem, optimizer, seed, long) for seed in SEEDS]
    return middle([after(found[name], seconds) if name in found else None for name in names])


def name_of(problem: str, optimizer: str, seed: int, long: bool = False) -> str:
    """Return the name of a trial."""
    return f"{problem}, {optimizer}{', ten minutes' if long else ''}, seed {seed}"


def table(found: Mapping[str, Figures]) -> Table:
    """Return the errors after the wanted seconds, median (least to greatest) over the seeds."""
    out = Table(title="relative L2 error, median (least, greatest) of 3 seeds", title_justify="left")
    for head in ("problem", "optimizer", "seconds", "error"):
        out.add_column(head)
    for problem, settings in PROBLEMS.items():
        times = sorted({min(SHORT, settings["within"]), settings["within"]})
        for long, seconds in (*((False, each) for each in times), (True, LONG)):
            for optimizer in OPTIMIZERS if not long and seconds <= SHORT else FOREMOST:
                row = _over_seeds(found, problem, optimizer, seconds, long)
                if row is not None:
                    out.add_row(problem, optimizer, f"{seconds:g}", f"{row[0]:.1e} ({row[1]:.1e}, {row[2]:.1e})")
    return out


def aims(found: Mapping[str, Figures]) -> list[Aim]:
    """Return what was wanted of the best of the optimizers, for its worst seed."""
    out = []
    for problem, settings in PROBLEMS.items():
        rows = [_over_seeds(found, problem, optimizer, settings["within"]) for optimizer in OPTIMIZERS]
        worst = min((row[2] for row in rows if row is not None), default=None)
        out.append(Aim(f"{problem}: error after {settings['within']:g} s, worst seed", worst, settings["most"]))
    return out


def _trials() -> tuple[Trial, ...]:

    def seconds(problem: str, optimizer: str) -> float:
        within = PROBLEMS[problem]["within"]
        return within if optimizer in FOREMOST else min(within, SHORT)

    short = [
        Trial(name_of(p, o, s), train, {"problem": p, "optimizer": o, "seed": s, "seconds": seconds(p, o)})
        for o in OPTIMIZERS
        for p in PROBLEMS
        for s in SEEDS
    ]
    long = [
        Trial(name_of(p, o, s, True), train, {"problem": p, "optimizer": o, "seed": s, "seconds": LONG})
        for p in ("allen-cahn-1d", "burgers")
        for o in ("gauss-newton", "ssbroyden")
        for s in SEEDS
    ]
    return (*short, *long)


BENCHMARK = Trials(
    "records",
    "Three equations from scratch, float64, one thread: error against seconds",
    _trials(),
    table,
    aims,
    lambda arguments: {**arguments, "seconds": 2.0},
    (
        "published (second hand): Allen-Cahn 2.2e-5 by Adam (PirateNet), 1.9e-6 by SSBroyden; Burgers 8e-5 by Adam, "
        "8.3e-9 by SSBroyden; Poisson 1e-6 to 1e-8 by natural gradient",
        "each optimizer draws new points as suits it: all but Adam would over-fit points that are kept, and suffer "
        "from points that change in each step",
    ),
)
