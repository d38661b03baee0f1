"""Terms of an adapted PINN, cut in every way there is: SubLoRA's rules and bases beside the best of all sets.

A network is trained for one member of a family, then LoRAs on its hidden matrices for another one, on points that are
fixed, so that "converged" has a meaning. Of 16 terms 8 are cut, and the loss of all 12,870 sets is measured. Then the
same choice while training goes on.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lissome._files import write
from lissome.adapt import RULES, Adapted, adalora, large, lora
from lissome.adapt.choice import RankChoice
from lissome.allocation import AdaptedTerms, Allocation, Gates, JointRanks, Schedule, Weighed, measuring, weigh
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family
from lissome.recipes.paper import Row, Tick, kept
from lissome.recipes.sublora_control import Anew
from lissome.recipes.sublora_names import ANEW, CONVERGED, EARLY, FAMILIES, JOINT, LORA, PAPERS, START, STATES

PARTS = 8  # mini-batches of the fixed points, from which AdaLoRA's score is smoothed
MADE = {PAPERS: adalora, LORA: lora}
NEVER = 10**9  # steps between evaluations


@dataclass(frozen=True)
class Sizes:
    """How large a look is.

    Attributes:
        width: of the network, with three hidden layers.
        rank: of each of the two forms; half of all terms are cut.
        points: interior, boundary, initial.
        base: steps by Adam and by L-BFGS for the first member.
        early: steps by Adam, after which training is not converged.
        late: steps by L-BFGS from there on, of 20 iterations each.
        retune: the same after a cut.
        joint: steps of training while terms are chosen.
        chunk: sets of which the loss is measured at once.
    """

    width: int = 32
    rank: int = 8
    points: tuple[int, int, int] = (128, 32, 32)
    base: tuple[int, int] = (600, 25)
    early: int = 300
    late: int = 60
    retune: int = 3
    joint: int = 1000
    chunk: int = 128


FULL = Sizes()
QUICK = Sizes(width=8, rank=3, points=(32, 8, 8), base=(40, 3), early=15, late=5, retune=1, joint=30)


@dataclass(frozen=True)
class Watched:
    """A problem as an objective: on fixed points, or on fresh ones; it lets the run be stopped."""

    problem: Problem
    tick: Tick
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def sample(self, generator: torch.Generator, n: int | None = None) -> Any:
        """Return the fixed batch, or a fresh one of the problem's own size."""
        return dict(self.fixed) or self.problem.sample(generator)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the problem's loss."""
        self.tick()
        return self.problem.loss(model, batch)

    def residual(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the problem's residual."""
        self.tick()
        return self.problem.residual(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the problem's figures."""
        return self.problem.evaluate(model)


def run(tick: Tick, place: Path, *, family: str, form: str, seed: int, quick: bool, label: str, basis: str = "") -> Row:
    """Run one cell: the start, a state with a basis, or a way to choose during training.

    Raises:
        RunError: the cell that this one follows has left nothing.
    """
    begun, sizes = time.process_time(), QUICK if quick else FULL
    home = place / f"pinn-{family}-{form}-{seed}"
    own = {"family": family, "form": form, "seed": seed, "quick": quick, "label": label}
    start = Start(tick, home, family, form, seed, sizes)
    if label == START:
        found = {"part": "pinn start"} | _start(start)
    elif label in STATES:
        found = {"part": "pinn cut", "basis": basis} | _cut(start, label, basis)
    else:
        found = {"part": "pinn joint"} | _joint(start, label)
    return own | found | {"cpu": time.process_time() - begun}


@dataclass(frozen=True)
class Start:
    """Where a chain of cells begins: two members of a family, a network for one, forms on it for the other."""

    tick: Tick
    home: Path
    family: str
    form: str
    seed: int
    sizes: Sizes

    def problem(self, *, target: bool) -> Problem:
        """Return the member that the network is trained for, or the one that it is adapted to."""
        name, near, far = FAMILIES[self.family]
        given: dict[str, Any] = {name: far if target else near}
        interior, boundary, initial = self.sizes.points
        points = {"interior": interior, "boundary": boundary, "initial": initial}
        return Problem(load_family(self.family)(**given), points=points, seed=self.seed)

    def network(self, problem: Problem) -> MLP:
        """Return an untrained network."""
        generator = torch.Generator().manual_seed(self.seed)
        width = self.sizes.width
        return MLP(problem.inputs, width=width, depth=3, offset=problem.offset, generator=generator).double()

    def base(self, problem: Problem) -> MLP:
        """Return the network as it was trained and kept."""
        return _kept(self.network(problem), self.home / "base.safetensors")

    def adapted(self, network: nn.Module, rank: int) -> Adapted:
        """Return the network with forms on its hidden matrices, which alone are trained."""
        generator = torch.Generator().manual_seed(1_000 + self.seed)
        weights = {path: network.get_parameter(path) for path in large(network)}
        return Adapted(network, {path: MADE[self.form](W, rank, generator=generator) for path, W in weights.items()})


def _fixed(problem: Problem, seed: int) -> dict[str, Tensor]:
    return problem.sample(torch.Generator().manual_seed(2_000 + seed))


def _fit(model: nn.Module, objective: Watched, phases: Mapping[str, int], seed: int, **more: Any) -> float:
    """Train by optimizers for so many steps each, and return the loss."""
    fresh = None if objective.fixed else 1
    methods = [
        Method((Group(optimizer=name, lr=3e-3 if name == "adam" else None),), resample_every=fresh, share=steps)
        for name, steps in phases.items()
    ]
    budget = Budget(steps=sum(phases.values()))
    return fit(model, objective, methods, budget, seed=seed, progress=False, evaluate_every=NEVER, **more).loss


def _keep(model: nn.Module, path: Path) -> None:
    write(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def _kept(model: nn.Module, path: Path) -> Any:
    model.load_state_dict(load_file(kept(path)))
    return model


def _start(at: Start) -> Row:
    """Train for the first member, then adapt to the second: early by Adam, late by L-BFGS."""
    near, far = (at.problem(target=target) for target in (False, True))
    network = at.network(near)
    _fit(network, Watched(near, at.tick), dict(zip(("adam", "lbfgs"), at.sizes.base, strict=True)), at.seed)
    _keep(network, at.home / "base.safetensors")
    model, objective = at.adapted(network, at.sizes.rank), Watched(far, at.tick, _fixed(far, at.seed))
    untouched = float(objective.loss(model, objective.fixed).detach())
    losses = {"adapted from": untouched}
    for state, phases in ((EARLY, {"adam": at.sizes.early}), (CONVERGED, {"lbfgs": at.sizes.late})):
        losses[state] = _fit(model, objective, phases, at.seed)
        _keep(model, at.home / f"{state}.safetensors")
    return {"base": near.evaluate(network), "adapted": far.evaluate(model), "losses": losses}


def _cut(at: Start, state: str, basis: str) -> Row:
    """Measure all sets, and those that the rules choose; train on what is left."""
    far, seed, sizes = at.problem(target=True), at.seed, at.sizes
    objective = Watched(far, at.tick, _fixed(far, seed))
    model = _kept(at.adapted(at.base(far), sizes.rank), at.home / f"{state}.safetensors")
    parts = [{name: rows[k::PARTS] for name, rows in objective.fixed.items()} for k in range(PARTS)]
    terms = AdaptedTerms(model)
    weighed = weigh(terms, objective.loss, parts, basis=basis, residual=objective.residual)
    # the mean over the parts is the loss of all points, which is measured at once
    gates = Gates(terms, objective.loss, [objective.fixed], weighed.rotations)
    weighed = replace(weighed, gates=gates)
    n = sum(weighed.gates.layers.values())
    losses = all_sets(weighed, objective.fixed, n // 2, sizes.chunk)
    rules, moved, retuned = dict[str, float](), dict[str, float](), dict[str, float]()
    for rule in RULES:
        plain, freed = (_chosen(weighed, rule, n // 2, seed, compensate=compensate) for compensate in (False, True))
        rules[rule], moved[rule] = _landed(plain.choice), _landed(freed.choice)
        if state == CONVERGED and rule in ("reverse", "adalora"):
            retuned[rule] = _retuned(terms, plain, objective, sizes, seed)
    return {
        "loss": weighed.expansion.value,
        "gradient": float(weighed.expansion.gradient.norm()),
        "negative": int((torch.linalg.eigvalsh(weighed.expansion.blocks[0]) < 0).sum()),
        "sets": len(losses),
        "best": float(losses.min()),
        "median": statistics.median(losses.tolist()),
        "rules": rules,
        "compensated": moved,
        "retuned": retuned,
    }


def all_sets(weighed: Weighed, batch: Any, budget: int, chunk: int) -> Tensor:
    """Return the loss of all sets of so many terms, (sets,), many sets at once."""
    gates, found = weighed.gates, list[Tensor]()
    sizes = list(gates.layers.values())

    def loss(g: Tensor) -> Tensor:
        return gates.at(dict(zip(gates.layers, g.split(sizes), strict=True)), batch)

    with torch.no_grad(), measuring(gates.model):
        for each in _chunks(sum(sizes), budget, chunk):
            g = torch.zeros(len(each), sum(sizes), dtype=torch.float64).scatter_(1, torch.tensor(each), 1.0)
            found.append(torch.func.vmap(loss)(g))  # (chunk,)
    return torch.cat(found)


def _chunks(n: int, budget: int, size: int) -> Iterator[list[tuple[int, ...]]]:
    sets = itertools.combinations(range(n), budget)
    while each := list(itertools.islice(sets, size)):
        yield each


def _chosen(weighed: Weighed, rule: str, budget: int, seed: int, *, compensate: bool) -> Allocation:
    generator = torch.Generator().manual_seed(seed)
    return weighed.choose(budget, rule=rule, compensate=compensate, generator=generator)


def _landed(choice: RankChoice) -> float:
    """Return the measured loss after the cut."""
    assert choice.before is not None
    assert choice.measured is not None
    return choice.before + choice.measured


def _retuned(terms: AdaptedTerms, chosen: Allocation, objective: Watched, sizes: Sizes, seed: int) -> float:
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in chosen.choice.kept.items()}
    model = terms.cut(chosen.rotations, kept, chosen.choice.values)
    return _fit(model, objective, {"lbfgs": sizes.retune}, seed)


def _joint(at: Start, label: str) -> Row:
    """Train with terms chosen on the way, or with half of the rank from the start; all by Adam on fresh points."""
    far, sizes, whole = at.problem(target=True), at.sizes, label in JOINT
    model = at.adapted(at.base(far), sizes.rank if whole else sizes.rank // 2)
    objective, watch = Watched(far, at.tick), None
    schedule = Schedule(sizes.rank, steps=sizes.joint)  # of twice as many terms
    if whole:
        rule, regrow, basis = JOINT[label]
        watch = JointRanks(model, objective, schedule, rule=rule, regrow=regrow, basis=basis, seed=at.seed)
    _fit(model, objective, {"adam": sizes.joint}, at.seed, on_step=Anew(schedule) if label == ANEW else watch)
    history = [] if watch is None else watch.history
    return {
        "figures": far.evaluate(model if watch is None else watch.gated.finished()),  # type: ignore[attr-defined]
        "came back": sum(each["came"] for each in history),
        "ranks": history[-1]["ranks"] if history else {},
    }
