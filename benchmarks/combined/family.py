"""A PDE member adapted by Gauss-Newton, its ranks chosen by curvature, beside ranks that are not and Adam."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.combined.ways import Figures, Row, clocked
from lissome.adapt import Adapted, adapt
from lissome.allocation import AdaptedTerms, choose
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family

NEAR, FAR = 0.05, 0.2  # kappa of the heat equation
POINTS = {"interior": 300, "boundary": 60, "initial": 60}
PATHS = ("layers.2.weight", "layers.4.weight", "layers.6.weight")
RANK, BUDGET = 6, 6  # of each of three matrices, and terms that stay of all 18
BEFORE, AFTER, BASE = 10, 25, 60  # steps before ranks are chosen, and after; for the first member
TIMES = 10  # steps of Adam for one of Gauss-Newton
# way -> rank at first, rule that cuts (none: never), optimizer
WAYS = {
    "both": (RANK, "reverse", "gauss-newton"),
    "equal ranks": (BUDGET // len(PATHS), "", "gauss-newton"),
    "ranks by size": (RANK, "magnitude", "gauss-newton"),
    "ranks at random": (RANK, "random", "gauss-newton"),
    "Adam, 10 times the steps": (RANK, "reverse", "adam"),
    "all terms": (RANK, "", "gauss-newton"),
}


def run(seed: int, *, quick: bool) -> Figures:
    """Solve the first member, then adapt it to the second in each way, from the same start."""
    near, far = (
        Problem(load_family("heat")(kappa=kappa), points=POINTS, constraint="boundary") for kappa in (NEAR, FAR)
    )
    generator = torch.Generator().manual_seed(seed)
    network = MLP(near.inputs, width=24, depth=4, activation="gelu", offset=near.offset, generator=generator).double()
    _fit(network, near, "gauss-newton", 2 if quick else BASE, seed)
    steps = (1, 1) if quick else (BEFORE, AFTER)
    return {"ways": {way: clocked(_adapted, network, far, *how, steps, seed) for way, how in WAYS.items()}}


def _adapted(
    network: MLP, far: Problem, rank: int, rule: str, optimizer: str, steps: tuple[int, int], seed: int
) -> Row:
    model = adapt(network, "lora", rank=rank, small=False, generator=torch.Generator().manual_seed(seed),
                  rules=dict.fromkeys(PATHS, "lora"))  # fmt: skip
    numbers, curves = model.count(), []
    many = [count * (TIMES if optimizer == "adam" else 1) for count in steps]
    curves += _fit(model, far, optimizer, many[0], seed)
    if rule:
        model = _cut(model, far, rule, seed)
    curves += [(step + many[0], error) for step, error in _fit(model, far, optimizer, many[1], seed + 1)][1:]
    figures = far.evaluate(far.wrap(model))
    return {
        "numbers": model.count(),
        "numbers at first": numbers,
        "ranks": [min(form.ranks) for form in model.forms().values()],
        "error": figures["error"],
        "fresh": figures["fresh"],
        "curve": {"step": [step for step, _ in curves], "error": [error for _, error in curves]},
    }


def _cut(model: Adapted, far: Problem, rule: str, seed: int) -> Adapted:
    """Keep the terms that a rule chooses; through the equation's own derivatives, in a basis of curvature."""
    terms = AdaptedTerms(far.wrap(model))
    batches = [far.sample(torch.Generator().manual_seed(100 + 2 * seed + k)) for k in range(2)]
    generator = torch.Generator().manual_seed(seed)
    found = choose(terms, far.loss, batches, BUDGET, rule=rule, residual=far.residual, generator=generator)
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in found.choice.kept.items()}
    return terms.cut(found.rotations, kept, found.choice.values)


def _fit(model: Any, problem: Problem, optimizer: str, steps: int, seed: int) -> list[tuple[int, float]]:
    """Train in place on new points in each step; return the error on the way."""
    adam = optimizer == "adam"
    group = Group(optimizer=optimizer, lr=5e-3 if adam else None)
    method = Method((group,), schedule="cosine" if adam else "constant", resample_every=1, points=sum(POINTS.values()))
    found = fit(problem.wrap(model), problem, method, Budget(steps=steps), seed=seed,
                evaluate_every=max(1, steps // 7), progress=False)  # fmt: skip
    return [(row["step"], row["error"]) for row in found.history]
