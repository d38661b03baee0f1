r"""LoTRA on functions: a KAN is fitted to f, then to g(x) = 1.2 f(0.8 x + 0.15) by all ways of `adapt`.

Forms lie on the tensors of all layers, first and last too; nothing else is trained.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lissome._files import write
from lissome.adapt import Adapted, adapt, tucker
from lissome.adapt.tucker import contract
from lissome.models import KAN
from lissome.optim import Group, Result
from lissome.recipes.known import ALL_DIVERGED, ERROR, SEEN, Best, Known, best_of, relative, train
from lissome.recipes.lotra_names import FULL, MODES, RANKS, START, WAYS
from lissome.recipes.paper import Row, Tick, kept

RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # each way has its best one, by points held out
HELD = 1000  # points by which the rate is chosen, and again so many for the error


@dataclass(frozen=True)
class Sizes:
    """How long a look is: steps and points for f, and steps for g."""

    base: int = 2000
    points: int = 4000
    batch: int = 256
    steps: int = 600


WHOLE, QUICK = Sizes(), Sizes(base=40, points=200, batch=64, steps=24)


@dataclass(frozen=True)
class Task:
    """A smooth function of points (N, inputs) in [-1, 1]^inputs."""

    inputs: int
    f: Callable[[Tensor], Tensor]

    def values(self, x: Tensor, *, target: bool) -> Tensor:
        """Return f or, for the target, g, (N, 1)."""
        return (1.2 * self.f(0.8 * x + 0.15) if target else self.f(x))[:, None]

    def known(self, n: int, seed: int, tick: Tick, *, target: bool, batch: int | None = None) -> Known:
        """Return so many points, and others that are held out."""
        sets = [self._drawn(count, seed, place) for place, count in enumerate((n, HELD, HELD))]
        x, *rest = sets
        held = {name: (z, self.values(z, target=target)) for name, z in zip((SEEN, ERROR), rest, strict=True)}
        return Known(x, self.values(x, target=target), held, tick, batch)

    def _drawn(self, n: int, seed: int, place: int) -> Tensor:
        generator = torch.Generator().manual_seed(10 * seed + place)
        return 2 * torch.rand(n, self.inputs, generator=generator) - 1


def waves(x: Tensor) -> Tensor:
    """Return exp(sin(pi x_1) + x_2^2) / 3 at points (N, 2), (N,)."""
    return torch.exp(torch.sin(math.pi * x[:, 0]) + x[:, 1].square()) / 3


def _rings(x: Tensor) -> Tensor:
    inner = torch.sin(math.pi * (x[:, 0].square() + x[:, 1].square()) / 2)
    return torch.exp((inner + torch.sin(math.pi * x[:, 2] * x[:, 3])) / 2)


TASKS = {"waves, 2 inputs": Task(2, waves), "rings, 4 inputs": Task(4, _rings)}


def home(place: Path, task: str, width: int, seed: int) -> Path:
    """Return the file that holds a network for f."""
    return place / f"function-{task.partition(',')[0]}-{width}-{seed}.safetensors"


def network(task: str, width: int, seed: int) -> KAN:
    """Return a KAN with two hidden layers, as it is drawn."""
    return KAN(TASKS[task].inputs, width=width, depth=2, generator=torch.Generator().manual_seed(seed))


def base(place: Path, task: str, width: int, seed: int) -> KAN:
    """Return the network for f.

    Raises:
        RunError: the cell that this one follows has left nothing.
    """
    path, model = home(place, task, width, seed), network(task, width, seed)
    model.load_state_dict(load_file(kept(path)))
    return model


def adapted_by(model: nn.Module, way: str, seed: int) -> Adapted:
    """Return a network ready to be trained in one way."""
    generator = torch.Generator().manual_seed(1000 + seed)
    if way in RANKS:
        return adapt(model, "lotra", rank=RANKS[way], rules={"*": "lotra"}, generator=generator)
    return adapt(model, WAYS[way], generator=generator)


def start(tick: Tick, place: Path, *, task: str, width: int, seed: int, quick: bool) -> Row:
    """Fit f, and keep the network."""
    sizes, model = QUICK if quick else WHOLE, network(task, width, seed)
    known = TASKS[task].known(sizes.points, seed, tick, target=False, batch=sizes.batch)
    found = train(model, known, sizes.base, [Group(lr=1e-2)], seed=seed, fresh=True, looks=2)
    write(home(place, task, width, seed), save({name: p.contiguous() for name, p in model.state_dict().items()}))
    target = TASKS[task].known(1, seed, tick, target=True)
    return {"base": found.metrics[ERROR], "untouched": target.evaluate(model)[ERROR]}


def transfer(tick: Tick, place: Path, *, task: str, width: int, seed: int, quick: bool, way: str, points: int) -> Row:
    """Fit g in one way from so many points, by each rate; return the best, and the spectra of a full change."""
    sizes, model = QUICK if quick else WHOLE, base(place, task, width, seed)

    def attempt(rate: float) -> tuple[Result, Adapted]:
        known = TASKS[task].known(points, 50 + seed, tick, target=True, batch=sizes.batch)
        adapted = adapted_by(model, way, seed)
        return train(adapted, known, sizes.steps, [Group(lr=rate)], seed=seed, fresh=True), adapted

    best, errors = best_of(RATES[::2] if quick else RATES, attempt, by=SEEN)
    if best is None:
        return {"failed": ALL_DIVERGED}
    more = _full(model, best.model, task, seed, tick) if way == FULL else {}
    return more | told(best, errors)


def told(best: Best, errors: Mapping[str, float]) -> Row:
    """Return what a row says of the best run."""
    metrics, history = best.result.metrics, best.result.history
    return {
        "rate": best.rate,
        "rates": dict(errors),
        "trained": best.model.count(),
        "total": best.model.total(),
        "error": metrics[ERROR],
        "cpu": metrics["cpu"],
        "curve": {key: [row[key] for row in history] for key in ("cpu", ERROR)},
    }


def _full(model: nn.Module, adapted: Adapted, task: str, seed: int, tick: Tick) -> Row:
    """Return the spectra of a full change, and errors after it is cut to low ranks."""
    x, y = TASKS[task].known(1, 50 + seed, tick, target=True).held[ERROR]
    before = {path: p.detach() for path, p in model.named_parameters()}
    change = {path: W.detach() - before[path] for path, W in adapted.weights().items()}
    return {"spectra": spectra(change, seed), "cut": cut_errors(before, change, lambda m: relative(m, x, y), model)}


def spectra(change: Mapping[str, Tensor], seed: int) -> Row:
    """Return of the middle layer's change, and of a random tensor, the energy outside each rank, mode by mode."""
    middle = list(change.values())[1]
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(middle.shape, generator=generator, dtype=torch.float64)
    return {"change": outside(middle), "random": outside(random)}


def outside(tensor: Tensor) -> dict[str, list[float]]:
    """Return for each mode of a tensor (out, K, in) the share of its energy outside rank 0, 1, ...

    >>> outside(torch.ones(2, 2, 2))["out"]
    [1.0, 0.0, 0.0]
    """
    found = {}
    for mode, name in enumerate(MODES):
        unfolded = tensor.double().movedim(mode, 0).flatten(1)  # (d, product of the others)
        energy = torch.linalg.svdvals(unfolded).square()
        left = 1 - torch.cat([torch.zeros(1, dtype=torch.float64), (energy / energy.sum()).cumsum(0)])
        found[name] = [round(max(value, 0.0), 12) for value in left.tolist()]
    return found


def cut_errors(
    before: Mapping[str, Tensor], change: Mapping[str, Tensor], error: Callable[[nn.Module], float], model: nn.Module
) -> dict[str, float]:
    """Return the error after each layer's change is cut to its best Tucker form of rank 2, 4 and 8."""
    found, cut = {}, copy.deepcopy(model)
    for way, rank in RANKS.items():
        with torch.no_grad():
            for path, W in change.items():
                cut.get_parameter(path).copy_(before[path] + truncated(W, rank))
        found[way] = error(cut)
    return found


def truncated(tensor: Tensor, rank: int) -> Tensor:
    """Return the best Tucker form of so low a rank in each mode, by HOOI."""
    form = tucker(tensor, [min(rank, d) for d in tensor.shape])
    assert form.core is not None
    return contract(form.core.detach(), form.factors)


def run(tick: Tick, place: Path, *, label: str, points: int, **asked: Any) -> Row:
    """Run a start, or a transfer in the way that the label says."""
    begun = time.process_time()
    more = {} if label == START else {"way": label, "points": points}
    found = (transfer if more else start)(tick, place, **asked, **more)
    return found | {"spent": time.process_time() - begun}
