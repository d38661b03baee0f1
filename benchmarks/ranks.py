r"""Choosing half of n terms by the greedy rules, float64, one thread; b and A are given, their cost is not in here.

The floor. A rule takes n / 2 terms, and each brings one row of A to n sums: n^2 / 2 numbers are read once, 67 MB at
n = 4,096, 0.3 MB at 256. `rows alone` reads them, in the order in which `reverse` takes them, and does nothing else.

The expectation. A step is half a dozen calls of numpy on n numbers: at n = 256 all is calls, below 1 ms together, and
at 4,096 calls and memory are about equal. `sums anew` is what the definition says: each step sums the cut columns of A
again, n / 2 times more numbers. All of `select_ranks` adds what it takes to check A, which reads it some five times.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.adapt import RULES, select_ranks
from lissome.adapt.quadratic import Array, Mask, Quadratic
from lissome.adapt.rules import Terms


def prepare(n: int) -> dict[str, Contestant]:
    """Return the contestants at n terms, in layers of 16; the bounds of the second kind are met by few sets."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(n, 2 * n, generator=generator, dtype=torch.float64) / n**0.5
    hessian = drawn @ drawn.T
    hessian, gradient = (hessian + hessian.T) / 2, torch.randn(n, generator=generator, dtype=torch.float64) / 10
    model = Quadratic(gradient.numpy(), (hessian.numpy(),))
    sizes = {f"layer {index}": 16 for index in range(n // 16)}
    spans = tuple(slice(16 * index, 16 * index + 16) for index in range(n // 16))
    one = Terms(model, (slice(0, n),), (0,), (n,), n // 2)
    many = Terms(model, spans, (7,) * len(spans), (9,) * len(spans), n // 2)
    contestants = {
        f"{rule}, {label}": functools.partial(RULES[rule], terms)
        for rule in ("reverse", "greedy", "sublora")
        for label, terms in (("one layer", one), ("layers", many))
    }
    truth = _anew(model.b, model.blocks[0], n // 2)
    agree("reverse", [torch.from_numpy(RULES["reverse"](one)).double()], [torch.from_numpy(truth).double()], 0.0)
    counts = np.add.reduceat(RULES["reverse"](many), range(0, n, 16), dtype=int)
    agree("reverse, layers", [torch.tensor(counts.clip(7, 9))], [torch.tensor(counts)], 0.0)
    out = {
        **contestants,
        "select_ranks, layers": lambda: select_ranks(gradient, hessian, n // 2, layers=sizes, least=7, most=9),
        "rows alone": functools.partial(_rows, model.blocks[0], np.flatnonzero(~truth)),
    }
    if n <= 256:
        out["sums anew"] = functools.partial(_anew, model.b, model.blocks[0], n // 2)
    return out


def _anew(b: Array, A: Array, budget: int) -> Mask:
    """Cut the cheapest term, one at a time, with each cost summed from the start."""
    kept = np.ones(len(b), dtype=bool)
    for _ in range(len(b) - budget):
        cost = -b + A.diagonal() / 2 + A[:, ~kept].sum(1)
        kept[np.where(kept, cost, np.inf).argmin()] = False
    return kept


def _rows(A: Array, taken: np.ndarray) -> Array:
    total = np.zeros(len(A))
    for j in taken:
        total += A[j]
    return total


UNIT = "reverse, one layer"
BENCHMARK = Benchmark(
    "ranks",
    "Choosing half of n terms, float64, 1 thread",
    (
        Cell(
            "256 terms",
            functools.partial(prepare, 256),
            UNIT,
            rounds=60,
            targets=(Target("sums anew", UNIT, least=2.0),),
        ),
        Cell(
            "4,096 terms",
            functools.partial(prepare, 4096),
            UNIT,
            rounds=12,
            targets=(Target(UNIT, "rows alone", most=8.0),),
        ),
    ),
    (
        "wanted: a rule alone under 10 ms at 256 terms and under 1 s at 4,096",
        "`layers` are of 16 terms, each with 7 to 9 kept; `one layer` has no bounds",
        "`rows alone` is the floor: the rows of A that a rule has to read",
    ),
    rooms=("adapt",),
)
