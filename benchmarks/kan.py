r"""A step of a KAN [10, 64, 64, 1], order 3, 5 intervals, 1,024 points: loss and gradient, float32, two threads.

The floor is its matrix products alone, (1024, 90) by (90, 64), (1024, 576) by (576, 64) and by (576, 1), forward and
twice backward: 0.26 GFLOP, 2.3 ms on one core. The basis is 1.3 million numbers; each pass over them costs about a
tenth of that, so an eager network pays for some ten passes, and a compiled one, which fuses them, for one or two.

Contestants: ours, eager and compiled; pykan 0.2.8 as it comes, and after its own `speed()`, which leaves its symbolic
branch out; and the recursion of de Boor with one matrix product, as efficient-kan does it. All start from the same
numbers and have to give the same gradient, pykan, whose parameters are others, the same loss.

`residual` is the loss and gradient of a second-order residual, -Lap u = f in 10 dimensions, on 256 points: by one pass
with slopes, eager and compiled, and by nested reverse mode on ours and on pykan's.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.calculus import derivatives
from lissome.models import KAN
from lissome.models.pykan import from_pykan
from lissome.optim.capture import compiled

SIZES, POINTS, RESIDUAL = (10, 64, 64, 1), 1024, 256
FLOOR, EAGER, COMPILED, BOOR = "products alone", "eager", "compiled", "de Boor"
PYKAN, SPED = "pykan", "pykan, speed()"


def _theirs(*, fast: bool) -> nn.Module:
    """Return pykan's network, made fast by its own means or not."""
    kan = importlib.import_module("kan")  # not every machine has it
    model = kan.KAN(width=list(SIZES), grid=5, k=3, seed=0, auto_save=False)
    if fast:
        model.speed()
    return model


class _Boor(nn.Module):
    """The same network, its splines by the recursion."""

    def __init__(self, model: KAN):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model.layers:
            phi = torch.cat([layer.basis._recursion(x, 3), nn.functional.silu(x)[:, None]], 1)
            x = phi.flatten(1) @ layer.tensor().flatten(1).T
        return x


class _Products(nn.Module):
    """Its matrix products, on inputs that need a gradient."""

    def __init__(self, model: KAN):
        super().__init__()
        self.weights = nn.ParameterList(layer.tensor().detach().flatten(1).clone() for layer in model.layers)
        self.inputs = [torch.randn(POINTS, W.shape[1], requires_grad=True) for W in self.weights]

    def forward(self, x: Tensor) -> Tensor:
        return sum((phi @ W.T).sum() for phi, W in zip(self.inputs, self.weights, strict=True))


def _step(model: nn.Module, x: Tensor, *inputs: Tensor) -> Callable[[], list[Tensor]]:
    wanted = [*(p for p in model.parameters() if p.requires_grad), *inputs]

    def step() -> list[Tensor]:
        loss = model(x).square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True)]

    return step


def step(ordinary: int = 2) -> dict[str, Contestant]:
    """Return the contestants of a plain loss."""
    torch.set_num_threads(ordinary)
    theirs = _theirs(fast=True)
    model = from_pykan(theirs.state_dict())
    x = 2 * torch.rand(POINTS, SIZES[0], generator=torch.Generator().manual_seed(0)) - 1
    products = _Products(model)
    found = {
        FLOOR: _step(products, x, *products.inputs),
        EAGER: _step(model, x),
        COMPILED: _step(torch.compile(model), x),  # type: ignore[arg-type]
        BOOR: _step(_Boor(model), x),
        SPED: _step(theirs, x),
    }
    truth = found[BOOR]()
    for name in (EAGER, COMPILED):
        agree(name, found[name](), truth, 1e-3)
    agree(SPED, found[SPED]()[:1], truth[:1], 1e-3)
    return found


def plain() -> dict[str, Contestant]:
    """Return ours beside pykan as it comes, whose second a step would leave no cache to the others."""
    torch.set_num_threads(2)
    theirs = _theirs(fast=False)
    model = from_pykan(theirs.state_dict())
    x = 2 * torch.rand(POINTS, SIZES[0], generator=torch.Generator().manual_seed(0)) - 1
    found = {
        EAGER: _step(model, x),
        COMPILED: _step(torch.compile(model), x),  # type: ignore[arg-type]
        PYKAN: _step(theirs, x),
    }
    agree(PYKAN, found[PYKAN]()[:1], found[EAGER]()[:1], 1e-3)
    return found


def residual() -> dict[str, Contestant]:
    """Return the contestants of a second-order residual."""
    torch.set_num_threads(2)
    theirs = _theirs(fast=True)
    model = from_pykan(theirs.state_dict())
    z = 2 * torch.rand(RESIDUAL, SIZES[0], generator=torch.Generator().manual_seed(0)) - 1
    second = ((1.0,) * SIZES[0],)

    def by(net: nn.Module, mode: str) -> Callable[[], list[Tensor]]:
        wanted = [p for p in net.parameters() if p.requires_grad]

        def step() -> list[Tensor]:
            loss = (derivatives(net, z, second=second, mode=mode).second[0] + 1).square().mean()
            return [loss.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True)]

        return step

    fast = compiled(model, lambda batch: (derivatives(model, batch["z"], second=second).second[0] + 1).square().mean())

    def graph() -> list[Tensor]:
        loss, gradients = fast(list(model.parameters()), {"z": z})
        return [loss, *gradients]

    found = {
        EAGER: by(model, "one-pass"),
        COMPILED: graph,
        "nested": by(model, "nested"),
        SPED: by(theirs, "nested"),
    }
    for name in (EAGER, COMPILED):
        agree(name, found[name](), found["nested"](), 1e-2)
    agree(SPED, found[SPED]()[:1], found["nested"]()[:1], 1e-2)
    return found


def basis(name: str, intervals: int) -> dict[str, Contestant]:
    """Return a network of another basis or grid beside that of 5 intervals of splines, both compiled."""
    torch.set_num_threads(2)
    x = 2 * torch.rand(POINTS, SIZES[0], generator=torch.Generator().manual_seed(0)) - 1
    generator = torch.Generator().manual_seed(0)
    sizes = {"width": list(SIZES[1:-1]), "generator": generator}
    plain, other = KAN(SIZES[0], **sizes), KAN(SIZES[0], name=name, intervals=intervals, **sizes)  # type: ignore[arg-type]
    return {
        "splines": _step(torch.compile(plain), x),  # type: ignore[arg-type]
        name: _step(torch.compile(other), x),  # type: ignore[arg-type]
    }


BENCHMARK = Benchmark(
    "kan",
    "A step of a KAN, float32, two threads",
    (
        Cell(
            "loss and gradient, 1,024 points",
            step,
            FLOOR,
            rounds=30,
            burst=5,
            targets=(
                Target(COMPILED, FLOOR, most=1.6),
                Target(SPED, COMPILED, least=25.0),
                Target(SPED, EAGER, least=12.0),
            ),
            memory=True,
        ),
        Cell(
            "the same, pykan as it comes",
            plain,
            EAGER,
            rounds=8,
            burst=2,
            targets=(Target(PYKAN, COMPILED, least=25.0), Target(PYKAN, EAGER, least=12.0)),
            memory=True,
        ),
        Cell(
            "residual, 256 points",
            residual,
            EAGER,
            rounds=8,
            targets=(Target(SPED, EAGER, least=10.0), Target(SPED, COMPILED, least=10.0)),
            memory=True,
        ),
        *(
            Cell(
                f"{name}, {intervals} intervals",
                functools.partial(basis, name, intervals),
                "splines",
                rounds=20,
                burst=2,
                targets=(Target(name, "splines", most=2.0),) if intervals == 5 else (),
            )
            for name, intervals in (("chebyshev", 5), ("fourier", 5), ("rbf", 5), ("bspline", 50))
        ),
    ),
    (
        "wanted: compiled at most 1.6 times the products, 25 times faster than pykan; eager 12 times. Both pykans are "
        "held to that. After speed() it takes 27 times the products alone, so that 25 leaves nothing for a basis",
        "pykan's losses agree; its gradients are of other parameters",
    ),
    rooms=("models", "calculus", "optim"),
)
