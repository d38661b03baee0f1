r"""One Gauss-Newton step beside one step of Adam on the same points, and beside its own floor; float64, one thread.

The floor is what no step can leave out once it has J: J^T J by symmetry (M p^2 operations) and its Cholesky factor
(p^3 / 3). `Jacobian` is all rows of J, `residual` one evaluation without graph, of which a step takes two or three.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.race import Contestant, Times
from benchmarks.registry import Benchmark, Cell, agree
from lissome.adapt import adapt
from lissome.models import MLP
from lissome.optim import GaussNewton
from lissome.optim.damping import product
from lissome.optim.machine import accelerator
from lissome.optim.method import Group, Method
from lissome.optim.step import Stepper
from lissome.pde import Problem, load_family


def stepper(model: nn.Module, problem: Problem, optimizer: str) -> Stepper:
    """Return what the loop steps with, on one draw of points."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    out = Stepper(model, problem, trained, accelerator(torch.device("cpu")), 0)
    out.enter(Method((Group(optimizer=optimizer),), points=sum(problem.counts.values())))
    out.draw()
    return out


def contestants(make: Callable[[], tuple[nn.Module, Problem]]) -> dict[str, Contestant]:
    torch.set_num_threads(1)
    second, first = stepper(*make(), "gauss-newton"), stepper(*make(), "adam")
    mover = second.movers[0]
    r, J = second.linearize(mover)
    agree("Jacobian", [r], [second.residual().detach()], 1e-10)
    loss = second.graph()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, mover.parameters)])
    agree("Jacobian", [2 * J.mT @ r / len(r)], [gradient], 1e-9)
    damped = product(J)
    damped.diagonal().add_(1e-2 * damped.diagonal().mean())
    assert isinstance(mover.optimizer, GaussNewton)

    def floor() -> None:
        product(J)
        torch.linalg.cholesky_ex(damped)

    def residual() -> None:
        with torch.no_grad():
            second.residual()

    return {
        "Gauss-Newton step": lambda: second.advance(0, 1.0),
        "Adam step": lambda: first.advance(0, 1.0),
        "Jacobian": lambda: second.linearize(mover),
        "residual": residual,
        "floor": floor,
    }


def allen_cahn_1d() -> tuple[nn.Module, Problem]:
    problem = Problem(load_family("allen-cahn-1d")(), constraint="exact", points={"interior": 3000})
    generator = torch.Generator().manual_seed(0)
    return problem.wrap(
        MLP(problem.inputs, width=16, depth=4, offset=problem.offset, generator=generator).double()
    ), problem


def allen_cahn_10d() -> tuple[nn.Module, Problem]:
    problem = Problem(load_family("allen-cahn")(dimension=10, c=0.5), constraint="boundary")
    generator = torch.Generator().manual_seed(0)
    offset = problem.offset
    network = MLP(problem.inputs, width=64, depth=2, activation="gelu", offset=offset, generator=generator).double()
    return problem.wrap(adapt(network, "svd")), problem


def derive(times: Times) -> Times:
    """Return the Jacobian and its floor in one."""
    pairs = zip(times["Jacobian"], times["floor"], strict=True)
    return {"Jacobian and floor": [a + b for a, b in pairs]}


STEP = "Gauss-Newton step"
BENCHMARK = Benchmark(
    "gauss-newton-step",
    "One Gauss-Newton step beside one of Adam, float64, 1 thread",
    (
        Cell("allen-cahn-1d, all numbers", lambda: contestants(allen_cahn_1d), STEP, rounds=30, derive=derive),
        Cell(
            "allen-cahn-10d, singular values and small layers",
            lambda: contestants(allen_cahn_10d),
            STEP,
            rounds=30,
            derive=derive,
        ),
    ),
    ("a step is accepted or not with the points kept, so the numbers move on from round to round",),
)
