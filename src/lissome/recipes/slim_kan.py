r"""Slim KAN (arXiv 2502.06153): layers whose tensor is a Tucker form from the start, accuracy against parameters.

    W = C x1 U1 x2 U2 x3 U3 for each layer, C: r1 x r2 x r3, never formed

on functions (smooth, oscillating, a sum in 10 dimensions) and on digits; beside each Slim KAN a full KAN so narrow, and
a fully connected network so small, that it has as many parameters.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome.models import KAN, MLP
from lissome.optim import Group, Result
from lissome.recipes.digits import Digits, Part, digits
from lissome.recipes.known import ALL_DIVERGED, ERROR, SEEN, Known, best_of, train
from lissome.recipes.labelled import has_breast_cancer
from lissome.recipes.lotra_functions import waves
from lissome.recipes.paper import Cell, Claim, Paper, Ratio, ReplicateSettings, Row, Spread, Tick, spread
from lissome.recipes.slim_kan_report import DIGITS, FULL_KAN, MLPS, NARROW, SLIM, drawings, tables
from lissome.recipes.training import count

RANKS = {"functions": (2, 4, 8), "digits": (4, 8, 12)}
WIDTH = 32
RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # of KANs on functions, where so few steps ask more of a small MLP
MLP_RATES = (1e-2, 3e-2, 1e-1, 3e-1)
DIGIT_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = 3
POINTS, BATCH = 4000, 256
STEPS = {"functions": 1000, "digits": 1000}
QUICK = 20  # steps


def _oscillating(x: Tensor) -> Tensor:
    return torch.sin(4 * math.pi * x[:, 0]) * torch.cos(3 * math.pi * x[:, 1]) + x[:, 0] * x[:, 1]


def _sum(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(math.pi * x).sum(1) / x.shape[1] ** 0.5)


FUNCTIONS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "smooth": (2, waves),
    "oscillating": (2, _oscillating),
    "sum in 10 dimensions": (10, _sum),
}


@dataclass(frozen=True)
class Shape:
    """What a network reads and says, and how many hidden layers it has."""

    inputs: int
    outputs: int
    depth: int

    def network(self, kind: str, width: int, rank: int, generator: torch.Generator) -> nn.Module:
        """Return a network of a kind, as it is drawn."""
        same = {"width": width, "depth": self.depth, "outputs": self.outputs, "generator": generator}
        if kind == MLPS:
            return MLP(self.inputs, activation="gelu", **same)
        return KAN(self.inputs, ranks=rank if kind == SLIM else None, **same)

    def made(self, kind: str, rank: int, seed: int) -> nn.Module:
        """Return a network of a kind, of the size of a Slim KAN of that rank, or the full KAN of its width."""
        width = WIDTH
        if kind in (NARROW, MLPS):
            wanted = self._size(SLIM, WIDTH, rank)
            beyond = next(w for w in itertools.count(1) if self._size(kind, w, rank) >= wanted)
            width = min((w for w in (beyond - 1, beyond) if w), key=lambda w: abs(self._size(kind, w, rank) - wanted))
        return self.network(kind, width, rank, torch.Generator().manual_seed(seed))

    def _size(self, kind: str, width: int, rank: int) -> int:
        return count(self.network(kind, width, rank, torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class Classified:
    """Pictures with labels, as what is minimised: cross-entropy, and the share of mistakes on those held out."""

    part: Part
    held: Mapping[str, Part]
    tick: Tick
    batch: int

    def sample(self, generator: torch.Generator, n: int | None = None) -> dict[str, Tensor]:
        """Return some by chance."""
        chosen = self.part.rows(torch.randint(len(self.part), (self.batch,), generator=generator))
        return {"x": chosen.x, "labels": chosen.labels}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(model(batch["x"]), batch["labels"])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the share of mistakes on each set held out."""
        with torch.no_grad():
            return {name: float((model(each.x).argmax(1) != each.labels).float().mean())
                    for name, each in self.held.items()}  # fmt: skip


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, seed by seed; digits where scikit-learn is installed, or files of them are given.

    Raises:
        UsageError: files that are no pictures with their labels.
    """
    if settings.data:
        digits(settings.data, 0)
    tasks = [*FUNCTIONS, *([DIGITS] if settings.data or has_breast_cancer() else [])]
    found = []
    for seed in range(1 if settings.quick else settings.seeds or SEEDS):
        for task in tasks:
            ranks = RANKS["digits" if task == DIGITS else "functions"]
            for kind, rank in [(FULL_KAN, 0), *((kind, rank) for rank in ranks for kind in (SLIM, NARROW, MLPS))]:
                said = kind if kind == FULL_KAN else f"{kind}, size of rank {rank}"
                arguments = {"task": task, "kind": kind, "rank": rank, "seed": seed, "quick": settings.quick}
                data = {"data": settings.data} if task == DIGITS else {}
                found.append(Cell(f"{task}, seed {seed}, {said}", arguments | data))
    return found


def run(
    tick: Tick, place: Path, *, task: str, kind: str, rank: int, seed: int, quick: bool, data: Sequence[str] = ()
) -> Row:
    """Train one network by each rate, and return what it is worth at the rate that is best on points held out."""
    begun, what = time.process_time(), "digits" if task == DIGITS else "functions"
    known = digits(data, seed) if task == DIGITS else None
    shape = Shape(known.train.x.shape[1], 10, 1) if known else Shape(FUNCTIONS[task][0], 1, 2)
    own = {"task": task, "kind": kind, "rank": rank, "seed": seed, "quick": quick}
    steps = QUICK if quick else STEPS[what]

    def attempt(rate: float) -> tuple[Result, nn.Module]:
        model = shape.made(kind, rank, seed)
        objective = _pictures(known, tick) if known else _points(task, seed, tick)
        return train(model, objective, steps, [Group(lr=rate)], seed=seed, fresh=True, looks=2), model

    rates = DIGIT_RATES if known else MLP_RATES if kind == MLPS else RATES
    best, errors = best_of(rates[2:3] if quick else rates, attempt, by=SEEN)
    return own | {
        "name": known.name if known else task,
        "numbers": count(shape.made(kind, rank, seed)),
        "rate": best.rate if best else None,
        "rates": errors,
        "error": best.result.metrics[ERROR] if best else None,
        "failed": None if best else ALL_DIVERGED,
        "spent": time.process_time() - begun,
    }


def _points(task: str, seed: int, tick: Tick) -> Known:
    inputs, f = FUNCTIONS[task]
    generator = torch.Generator().manual_seed(1_000 + seed)
    x, *held = (2 * torch.rand(POINTS, inputs, generator=generator) - 1 for _ in range(3))
    pairs = {name: (z, f(z)[:, None]) for name, z in zip((SEEN, ERROR), held, strict=True)}
    return Known(x, f(x)[:, None], pairs, tick, BATCH)


def _pictures(known: Digits, tick: Tick) -> Classified:
    return Classified(known.train, {SEEN: known.choose, ERROR: known.test}, tick, BATCH // 2)


def _ratio(
    rows: Sequence[Row], one: str, other: str, *, tasks: Sequence[str], rank: int | None = None
) -> Spread | None:
    """Compare the errors of networks of one size, or of Slim KANs of one rank with the full KAN of their width."""
    ratios = []
    for a in rows:
        if a["kind"] != one or a["task"] not in tasks or rank not in (None, a["rank"]) or not a["error"]:
            continue
        wanted = {"task": a["task"], "seed": a["seed"], "kind": other, "rank": 0 if other == FULL_KAN else a["rank"]}
        ratios += [
            Ratio(a["seed"], a["error"] / b["error"])
            for b in rows
            if b["error"] and all(b[key] == value for key, value in wanted.items())
        ]
    return spread(ratios)


def _numbers(rows: Sequence[Row], rank: int) -> Spread | None:
    """Compare the parameters of a Slim KAN on digits with the full KAN's."""
    full = {row["seed"]: row["numbers"] for row in rows if (row["task"], row["kind"]) == (DIGITS, FULL_KAN)}
    slim = [row for row in rows if (row["task"], row["kind"], row["rank"]) == (DIGITS, SLIM, rank)]
    return spread([Ratio(row["seed"], row["numbers"] / full[row["seed"]]) for row in slim if row["seed"] in full])


def _correct(rows: Sequence[Row], one: str, other: str, rank: int | None = None) -> Spread | None:
    """Compare the shares of digits that are named rightly."""
    right = [row | {"error": 1 - row["error"]} for row in rows if row["error"] is not None]
    return _ratio(right, one, other, tasks=[DIGITS], rank=rank)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the paper's claims and what stands against them."""
    rows = [row for row in rows if not row["quick"]]
    middle, errors = RANKS["digits"][1], "error, "
    return [
        Claim("a Slim KAN has a fraction of a full KAN's parameters on digits", "abstract",
              f"parameters, Slim of rank {middle} / full KAN", _numbers(rows, middle), most=0.2),
        Claim("a Slim KAN names digits nearly as well as the full KAN", "abstract",
              f"share named rightly, Slim of rank {middle} / full KAN",
              _correct(rows, SLIM, FULL_KAN, middle), least=0.98),
        Claim("at equal size a Slim KAN names more digits than a narrow full KAN", "here",
              "share of digits named rightly, Slim / narrow full KAN", _correct(rows, SLIM, NARROW), least=1.02),
        Claim("at equal size a Slim KAN names more digits than an MLP", "here",
              "share of digits named rightly, Slim / MLP", _correct(rows, SLIM, MLPS), least=1.002),
        *(Claim(f"at equal size a Slim KAN is more accurate than an MLP: {task}", "here",
                f"{errors}Slim / MLP", _ratio(rows, SLIM, MLPS, tasks=[task]), most=0.7) for task in FUNCTIONS),
        *(Claim(f"at equal size a Slim KAN is more accurate than a narrow full KAN: {task}", "here",
                f"{errors}Slim / narrow full KAN", _ratio(rows, SLIM, NARROW, tasks=[task]), most=0.9)
          for task in FUNCTIONS),
        Claim("on functions a Slim KAN of rank 8 comes near the full KAN of its width", "abstract",
              f"{errors}Slim of rank 8 / full KAN",
              _ratio(rows, SLIM, FULL_KAN, tasks=list(FUNCTIONS), rank=8), most=1.5),
    ]  # fmt: skip


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


PAPER = Paper(
    arxiv="2502.06153",
    title="Slim KAN: Kolmogorov-Arnold networks of low tensor rank",
    symbols={
        "A in R^(n_in x n_out x K)": "KANLayer.weight, (out, K, in)",
        "G, U1, U2, U3": "core, factor0, factor2, factor1 of adapt.slim",
        "Slim KAN": "KAN(..., ranks=...), of SlimKANLayer",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=(
        "KANs: B-splines of order 3 on 5 intervals with silu, so K = 9. Functions: two hidden layers of 32, 4,000 "
        f"points, {STEPS['functions']:,} steps of Adam on {BATCH} of them with a rate that falls as a cosine. Digits: "
        f"one hidden layer of 32, {STEPS['digits']:,} steps on {BATCH // 2} pictures.",
        f"Each KAN has the best of the rates {_listed(RATES)}, each MLP that of {_listed(MLP_RATES)}, on digits "
        f"both that of {_listed(DIGIT_RATES)}, by points (pictures) that are neither trained on nor told of.",
        "A narrow full KAN has as many hidden layers as the Slim KAN whose size it has, and so has the MLP, of gelu; "
        "its width is the one whose count of parameters is nearest.",
        "Digits are scikit-learn's 1,797 of 8 x 8 where it is installed; without it they are left out. MNIST's four "
        "files, as they are or packed as .gz, are taken by --data.",
        "A quick look is of few steps: its cells are in the tables and count for no claim.",
    ),
)
