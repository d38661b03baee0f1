r"""One training step of the 10-dimensional Allen-Cahn equation: residual loss and its gradient, no optimizer.

u_t - Lap u - u + u^3 = f at N = 1,024 points z = (t, x) of 11 coordinates, network 4 x 64 tanh, float32, two threads.

The floor. One pass carries r + 2 = 12 rows per point (value, 10 tangents, the gradient on its way back), each through
3 matrices of 64 x 64, forward and twice backward: 3 * 3 * 2 * 64^2 * 12 * 1,024 = 0.91 GFLOP. Two contestants say how
near the step comes to it: `plain network` is one forward and backward pass of the network, of which a step has 12 times
the operations; `products alone` multiplies the 9 pairs of matrices
of the step and does nothing else. At this size a plain pass is half overhead, so the second is the stricter floor.
"""

from __future__ import annotations

import os

os.environ.setdefault("DDE_BACKEND", "pytorch")  # else DeepXDE writes a choice into the home directory

import contextlib
import io

import torch
from torch import Tensor

from benchmarks.race import Contestant, Times
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.models import MLP
from lissome.optim.capture import compiled
from lissome.pde import Problem
from lissome.pde.zoo.allen_cahn import AllenCahn

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    import deepxde as dde

POINTS, WIDTH, DEPTH, DIMENSION = 1024, 64, 4, 10
ROWS = DIMENSION + 2  # value, tangents of x, pulled gradient


def prepare() -> dict[str, Contestant]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = MLP(DIMENSION + 1, width=WIDTH, depth=DEPTH, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    counts = {"interior": POINTS, "boundary": 0, "initial": 0}
    problems = {
        mode: Problem(AllenCahn(), points=counts, dtype=torch.float32, mode=mode)
        for mode in ("auto", "nested", "stochastic")
    }
    batch = problems["auto"].sample(torch.Generator().manual_seed(0))
    truth = _double(model, batch)

    def step(loss) -> list[Tensor]:
        value = loss()
        return [value.detach(), *torch.autograd.grad(value, parameters)]

    def ours(mode):
        return lambda: problems[mode].loss(model, batch)

    captured = compiled(model, lambda batch: problems["auto"].loss(model, batch))

    def fast() -> list[Tensor]:
        value, gradients = captured(parameters, batch)
        return [value, *gradients]

    contestants = {
        "DeepXDE": _deepxde(model, batch),
        "nested reverse mode": lambda: step(ours("nested")),
        "one pass": lambda: step(ours("auto")),
        "one pass, compiled": fast,
    }
    for name, contestant in contestants.items():
        agree(name, contestant(), truth, 1e-4)
    return contestants | {
        "stochastic": lambda: step(ours("stochastic")),
        "plain network": lambda: step(lambda: model(batch["interior"]).square().mean()),
        "products alone": _products(),
    }


def _double(model: MLP, batch: dict[str, Tensor]) -> list[Tensor]:
    """Return loss and gradient by nested reverse mode in float64."""
    twin = MLP(DIMENSION + 1, width=WIDTH, depth=DEPTH).double()
    twin.load_state_dict(model.state_dict())
    problem = Problem(AllenCahn(), points={"boundary": 0, "initial": 0}, mode="nested")
    loss = problem.loss(twin, {key: value.double() for key, value in batch.items()})
    return [loss.detach(), *torch.autograd.grad(loss, list(twin.parameters()))]


def _deepxde(model: MLP, batch: dict[str, Tensor]) -> Contestant:
    """Return the step as a DeepXDE user writes it, on DeepXDE's own network with our start.

    As in DeepXDE's `train_step`, each step makes its inputs a fresh leaf and calls `backward`.
    """
    network = dde.nn.FNN([DIMENSION + 1] + [WIDTH] * DEPTH + [1], "tanh", "Glorot normal")
    parameters = list(network.parameters())
    with torch.no_grad():
        for mine, other in zip(parameters, model.parameters(), strict=True):
            mine.copy_(other)
    points, source = batch["interior"].numpy(), batch["source"][:, None]

    def pde(x, u):
        u_t = dde.grad.jacobian(u, x, i=0, j=0)
        laplacian = sum(dde.grad.hessian(u, x, i=k, j=k) for k in range(1, DIMENSION + 1))
        return u_t - laplacian - u + u**3 - source

    def step() -> list[Tensor]:
        x = torch.as_tensor(points).requires_grad_()
        residual = pde(x, network(x))
        loss = torch.nn.functional.mse_loss(residual, torch.zeros_like(residual))
        dde.grad.clear()
        for p in parameters:
            p.grad = None
        loss.backward()
        return [loss.detach(), *(p.grad for p in parameters)]

    return step


def _products() -> Contestant:
    rows, weight = torch.randn(ROWS * POINTS, WIDTH), torch.randn(WIDTH, WIDTH)

    def multiply() -> None:
        for _ in range(DEPTH - 1):
            torch.mm(rows, weight)  # forward
            torch.mm(rows, weight)  # to the rows
            torch.mm(rows.t(), rows)  # to the weight

    return multiply


def floor(times: Times) -> Times:
    """Return the operations' floor by the plain network's rate."""
    return {f"plain network x {ROWS}": [ROWS * t for t in times["plain network"]]}


COMPILED = "one pass, compiled"
BENCHMARK = Benchmark(
    "pde-step",
    "One training step of 10-d Allen-Cahn: 4 x 64 tanh, 1,024 points, float32, 2 threads",
    (
        Cell(
            "allen-cahn-10d",
            prepare,
            COMPILED,
            rounds=60,
            burst=5,
            derive=floor,
            targets=(
                Target("DeepXDE", COMPILED, least=5.0),
                Target("nested reverse mode", COMPILED, least=2.5),
            ),
        ),
    ),
    (
        "floor: 12 products per point and matrix, forward and twice backward, 0.91 GFLOP; see `products alone` and"
        " `plain network x 12`",
        "DeepXDE keeps the gradient between its Hessians, so it runs the same passes as nested reverse mode",
        "`stochastic` computes another number each step, unbiased in the Laplacian only, not in the squared residual",
    ),
)
