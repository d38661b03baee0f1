"""LoTRA on families of equations: a KAN that solves one member is fitted to another, by all ways of `adapt`.

Adam at new points in each step, values on the boundary exact; forms lie on the tensors of all layers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lissome._files import write
from lissome.adapt import Adapted
from lissome.models import KAN
from lissome.optim import Group, Result
from lissome.pde import Problem, load_family
from lissome.recipes.known import ALL_DIVERGED, best_of, train
from lissome.recipes.lotra_functions import adapted_by, cut_errors, spectra, told
from lissome.recipes.lotra_names import FULL, START
from lissome.recipes.paper import Row, Tick, kept

# family -> the member that is solved, and the one that its network is fitted to
FAMILIES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "klein-gordon": ({"omega": 3.0}, {"omega": 3.5}),
    "convection": ({"beta": 10.0}, {"beta": 12.0}),
    "allen-cahn": ({"c": 0.0}, {"c": 0.5}),
}
DIMENSIONS = {"allen-cahn": 5}  # of space, where there is a choice
RATES = (5e-3, 2e-2)  # each way has its better one, by the loss on points that no training saw
LOOKS, TEST_POINTS = 10, 2_000


@dataclass(frozen=True)
class Sizes:
    """How long a look is: points of a batch, steps for the first member and for the second."""

    points: tuple[int, int, int] = (200, 50, 50)
    base: int = 1200
    steps: int = 300


WHOLE, QUICK = Sizes(), Sizes(points=(24, 8, 8), base=10, steps=6)


@dataclass(frozen=True)
class Timed:
    """A problem as an objective that counts the seconds of this process."""

    problem: Problem
    tick: Tick
    begun: float = field(default_factory=time.process_time)

    def sample(self, generator: torch.Generator, n: int | None = None) -> dict[str, Tensor]:
        """Return a batch of the problem's own size."""
        return self.problem.sample(generator)

    def weigh(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the weights that suit the model."""
        return self.problem.weigh(model, batch)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the problem's loss."""
        return self.problem.loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the problem's figures and the seconds."""
        return self.problem.evaluate(model) | {"cpu": time.process_time() - self.begun}


def problem(family: str, sizes: Sizes, seed: int, *, target: bool) -> Problem:
    """Return the member that is solved, or the one that a network is fitted to."""
    interior, boundary, initial = sizes.points
    counts = {"interior": interior, "boundary": boundary, "initial": initial}
    member = load_family(family)(DIMENSIONS.get(family), **FAMILIES[family][target])
    same = {"points": counts, "constraint": "boundary", "weight_boundary": "balanced"}  # as adapt does under Adam
    return Problem(member, **same, dtype=torch.float32, seed=seed, test_points=TEST_POINTS)  # type: ignore[arg-type]


def _network(at: Problem, seed: int, width: int) -> KAN:
    generator = torch.Generator().manual_seed(seed)
    return KAN(at.inputs, width=width, depth=2, offset=at.offset, extent=at.extent, generator=generator)


def _home(place: Path, family: str, seed: int) -> Path:
    return place / f"pde-{family}-{seed}.safetensors"


def start(tick: Tick, place: Path, *, task: str, width: int, seed: int, quick: bool) -> Row:
    """Solve the first member, and keep the network."""
    sizes = QUICK if quick else WHOLE
    near, far = (problem(task, sizes, seed, target=target) for target in (False, True))
    model = _network(near, seed, width)
    found = train(near.wrap(model), Timed(near, tick), sizes.base, [Group(lr=1e-2)], seed=seed, fresh=True, looks=2)
    write(_home(place, task, seed), save({name: p.contiguous() for name, p in model.state_dict().items()}))
    return {"base": found.metrics["error"], "untouched": far.evaluate(far.wrap(model))["error"]}


def transfer(tick: Tick, place: Path, *, task: str, width: int, seed: int, quick: bool, way: str) -> Row:
    """Fit the network to the second member in one way, by each rate; return the better run.

    Raises:
        RunError: the cell that this one follows has left nothing.
    """
    sizes, path = QUICK if quick else WHOLE, _home(place, task, seed)
    far = problem(task, sizes, seed, target=True)
    model = _network(far, seed, width)
    model.load_state_dict(load_file(kept(path)))

    def attempt(rate: float) -> tuple[Result, Adapted]:
        adapted, groups = adapted_by(model, way, seed), [Group(lr=rate)]
        timed = Timed(far, tick)
        return train(far.wrap(adapted), timed, sizes.steps, groups, seed=seed, fresh=True, looks=LOOKS), adapted

    best, errors = best_of(RATES[:1] if quick else RATES, attempt, by="fresh")
    if best is None:
        return {"failed": ALL_DIVERGED}
    more: Row = {}
    if way == FULL:
        before = {path: p.detach() for path, p in model.named_parameters()}
        change = {path: W.detach() - before[path] for path, W in best.model.weights().items()}
        cut = cut_errors(before, change, lambda each: far.evaluate(far.wrap(each))["error"], model)
        more = {"spectra": spectra(change, seed), "cut": cut}
    return more | told(best, errors)


def run(tick: Tick, place: Path, *, label: str, points: int, **asked: Any) -> Row:
    """Run a start, or a transfer in the way that the label says."""
    begun = time.process_time()
    found = start(tick, place, **asked) if label == START else transfer(tick, place, way=label, **asked)
    return found | {"spent": time.process_time() - begun}
