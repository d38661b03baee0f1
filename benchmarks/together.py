r"""A step of Adam for 16 members of a family at once, beside 16 steps one after another; float32, one thread.

10-dimensional Allen-Cahn with exact boundary values, 2 x 64 gelu, adapted by its singular values and small layers, at
N interior and N / 2 initial points for each member, new ones in every step, as the command line trains it.

The floor. Both ways do the same operations: through the hidden matrix 12 rows for each interior point, forward and
twice backward, 3 * 2 * 64^2 * 12 * 16 N = 0.47 GFLOP at N = 100 and 4.7 at 1,000: `products alone` multiplies these and
does nothing else. What can be saved are calls. A step alone makes some 440 of them, 5 microseconds each, so about 2
of its milliseconds; all else grows with N.

The expectation. At N = 100 a step is all calls, 16 times fewer together: at least 2 times faster. At N = 1,000 most of
a step is traffic of memory, which is larger together, where arrays fit no cache: 1.1 times or a little more.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from benchmarks.race import Contestant, Times
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.adapt import Stack, adapt
from lissome.models import MLP
from lissome.optim.capture import Capture, compiled
from lissome.optim.machine import accelerator
from lissome.optim.method import Group, Method
from lissome.optim.step import Stepper
from lissome.pde import Problem, Together, load_family

MEMBERS, WIDTH, DIMENSION = 16, 64, 10
ROWS = DIMENSION + 2  # value, tangents of x, pulled gradient


def stepper(model: nn.Module, objective: Problem | Together, trained: dict[str, nn.Parameter], n: int) -> Stepper:
    """Return what the loop steps with."""
    out = Stepper(model, objective, trained, accelerator(torch.device("cpu")), 0)
    out.enter(Method((Group(lr=1e-6),), resample_every=1, points=n))  # all rounds at about the same point
    out.draw()
    return out


def prepare(n: int) -> dict[str, Contestant]:
    """Return the contestants at n interior points for each member."""
    torch.set_num_threads(1)
    base = load_family("allen-cahn")(DIMENSION)
    points = {"interior": n, "initial": n // 2}
    problems = [
        Problem(base.at(c=0.1 * k), constraint="boundary", points=points, dtype=torch.float32) for k in range(MEMBERS)
    ]
    first = problems[0]
    generator = torch.Generator().manual_seed(0)
    network = MLP(first.inputs, width=WIDTH, depth=2, activation="gelu", offset=first.offset, generator=generator)

    def wrapped() -> list[nn.Module]:
        return [problem.wrap(adapt(network, "svd")) for problem in problems]

    def alone(model: nn.Module, problem: Problem) -> Stepper:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return stepper(model, problem, trained, n + n // 2)

    def whole() -> Stepper:
        stack = Stack(wrapped())
        return stepper(stack, Together(problems), stack.trainable(), n + n // 2)

    singles, stacked = [alone(*pair) for pair in zip(wrapped(), problems, strict=True)], whole()
    _check(singles, stacked)
    fast_single, fast_stacked = alone(wrapped()[0], first), whole()
    for each in (fast_single, fast_stacked):
        each.capture = Capture(compiled(each.model, each.loss), True, "")

    def one_by_one() -> None:
        for single in singles:
            single.advance(1, 1.0)

    return {
        "16 alone": one_by_one,
        "together": lambda: stacked.advance(1, 1.0),
        "one alone, compiled": lambda: fast_single.advance(1, 1.0),
        "together, compiled": lambda: fast_stacked.advance(1, 1.0),
        "products alone": _products(n),
    }


def _check(singles: list[Stepper], stacked: Stepper) -> None:
    """Refuse a stack whose losses or gradients are not its members'."""
    stacked.gradient()
    truth = [single.gradient() for single in singles]
    found = stacked.objective.losses(stacked.model, stacked.batch)  # type: ignore[attr-defined]
    agree("together", [found.detach()], [torch.stack(truth)], 1e-4)
    rows = zip(*([p.grad for p in single.active] for single in singles), strict=True)
    agree("together", [p.grad for p in stacked.active], [torch.stack(list(row)) for row in rows], 1e-4)


def _products(n: int) -> Contestant:
    rows, weights = torch.randn(MEMBERS, ROWS * n, WIDTH), torch.randn(MEMBERS, WIDTH, WIDTH)

    def multiply() -> None:
        torch.bmm(rows, weights)  # forward
        torch.bmm(rows, weights)  # to the rows
        torch.bmm(rows.mT, rows)  # to the weight

    return multiply


def derive(times: Times) -> Times:
    """Return 16 compiled steps, which find the caches as the step before left them."""
    return {"16 x one alone, compiled": [MEMBERS * t for t in times["one alone, compiled"]]}


ALONE, TOGETHER = "16 alone", "together"
BENCHMARK = Benchmark(
    "together",
    "A step of Adam for 16 members of 10-d Allen-Cahn: 2 x 64 gelu, svd, float32, 1 thread",
    tuple(
        Cell(
            f"{n:,} points a member",
            functools.partial(prepare, n),
            TOGETHER,
            rounds=20,
            burst=3,
            derive=derive,
            targets=(
                Target(ALONE, TOGETHER, least=least),
                Target("16 x one alone, compiled", "together, compiled", least=least),
            ),
        )
        for n, least in ((100, 2.0), (1000, 1.1))
    ),
    (
        "every step draws new points; all members draw the same ones, as each would alone with the same seed",
        "floor: the products of the hidden matrix, see `products alone`",
        "compiling takes about as long for the stack as for one cell alone, and is not in these times",
    ),
)
