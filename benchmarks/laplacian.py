"""The exact Laplacian in 10 to 10,000 dimensions: 4 x 128 tanh, 200 points, float32, two threads.

Contestants: one pass with a tangent per dimension, the same compressed after the first layer, one Rademacher
direction, and nested reverse mode. In 1,000 dimensions and more nested reverse mode is not run: its time is that of
read off a straight line through 2 and 34 coordinates, and named so; read its median, not its fastest round.

`share` takes the first layer's own cost apart, which grows with d however the Laplacian is computed: x W1^T, the QR of
W1^T, and what goes backward through both. What remains is to cost at most 1.5 times as much at d = 10,000 as at 1,000.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.race import Contestant, Times
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.calculus import derivatives
from lissome.calculus.onepass import compressed
from lissome.models import MLP

POINTS, WIDTH, DEPTH = 200, 128, 4
FEW, MORE = 2, 34  # where nested reverse mode is extrapolated from: far apart, since noise is stretched too
EXTRAPOLATED = "nested, extrapolated"


class Setting:
    """A network and points in d dimensions."""

    def __init__(self, d: int):
        self.d = d
        generator = torch.Generator().manual_seed(d)
        self.model = MLP(d, width=WIDTH, depth=DEPTH, generator=generator)
        self.z = torch.randn(POINTS, d, generator=generator)
        self.parameters = [p for name, p in self.model.named_parameters() if name != f"layers.{2 * DEPTH}.bias"]

    def laplacian(self, mode: str, gradient: bool, coordinates: int | None = None) -> Contestant:
        """Return what computes the values, or the loss mean(Lap^2) and its gradient."""
        used = self.d if coordinates is None else coordinates
        second = (tuple(float(i < used) for i in range(self.d)),)

        def value() -> list[Tensor]:
            with torch.no_grad():
                return [derivatives(self.model, self.z, second=second, mode=mode).second[0]]

        def both() -> list[Tensor]:
            loss = derivatives(self.model, self.z, second=second, mode=mode).second[0].square().mean()
            return [loss.detach(), *torch.autograd.grad(loss, self.parameters)]

        return both if gradient else value

    def first_layer(self, gradient: bool) -> Contestant:
        """Return what the first layer alone costs: its products and the QR, and their backward pass."""
        weight, bias = self.parameters[:2]

        def value() -> None:
            with torch.no_grad():
                self.model.shift(self.z) @ weight.t() + bias
                compressed(weight.t())

        def both() -> None:
            images, tangents = self.model.shift(self.z) @ weight.t() + bias, compressed(weight.t())
            torch.autograd.grad([images, tangents], weight, [images.detach(), tangents.detach()])

        return both if gradient else value


def contestants(d: int, gradient: bool) -> dict[str, Contestant]:
    torch.set_num_threads(2)
    setting = Setting(d)

    def make(mode: str, coordinates: int | None = None) -> Contestant:
        return setting.laplacian(mode, gradient, coordinates)

    racing = {}
    if d <= 1000:
        racing["one pass"] = make("one-pass")
    if d > WIDTH:
        racing["compressed"] = make("compressed")
    if d <= 100:
        racing["nested"] = make("nested")
    else:
        racing |= {f"nested, {k} coordinates": make("nested", k) for k in (FEW, MORE)}
    if d <= 1000:
        truth = make("nested")()
        for name in racing.keys() & {"one pass", "compressed"}:
            agree(name, racing[name](), truth, 1e-3)
    return racing | {"stochastic": make("stochastic")}


def extrapolate(d: int) -> Callable[[Times], Times]:
    def derive(times: Times) -> Times:
        if d <= 100:
            return {}
        pairs = zip(times[f"nested, {FEW} coordinates"], times[f"nested, {MORE} coordinates"], strict=True)
        return {EXTRAPOLATED: [few + (d - FEW) * (more - few) / (MORE - FEW) for few, more in pairs]}

    return derive


def cell(d: int, gradient: bool) -> Cell:
    ours = "compressed" if d > WIDTH else "one pass"
    what = "value-and-gradient" if gradient else "value"
    rounds = {10: 60, 100: 20, 1000: 10, 10000: 10}[d]
    return Cell(f"{what}-{d}", lambda: contestants(d, gradient), ours, rounds, extrapolate(d))


def share(gradient: bool) -> Cell:
    def prepare() -> dict[str, Contestant]:
        torch.set_num_threads(2)
        racing: dict[str, Contestant] = {}
        for d in (1000, 10000):
            setting = Setting(d)
            racing[f"whole, d = {d}"] = setting.laplacian("compressed", gradient)
            racing[f"first layer, d = {d}"] = setting.first_layer(gradient)
        return racing

    def derive(times: Times) -> Times:
        pairs = {d: zip(times[f"whole, d = {d}"], times[f"first layer, d = {d}"], strict=True) for d in (1000, 10000)}
        return {f"rest, d = {d}": [whole - first for whole, first in pair] for d, pair in pairs.items()}

    name = "value-and-gradient" if gradient else "value"
    targets = (Target("rest, d = 10000", "rest, d = 1000", most=1.5),)
    return Cell(f"share-{name}", prepare, "rest, d = 1000", 30, derive, targets)


BENCHMARK = Benchmark(
    "laplacian",
    "Exact Laplacian in d dimensions: 4 x 128 tanh, 200 points, float32, 2 threads",
    (
        *(cell(d, gradient) for d in (10, 100, 1000, 10000) for gradient in (False, True)),
        share(False),
        share(True),
    ),
    (
        f"nested, extrapolated: a straight line through {FEW} and {MORE} coordinates of each round, never run whole;"
        " its fastest round is the luckiest line, so only median and quartiles mean something",
        "stochastic: one direction, whose error is of the order of the value",
        "one pass at d = 1,000 has buffers of 100 MB: where the allocator gives them back after each call, page faults"
        " are half its time (seen: 134 ms and 304 ms in two runs, 150 ms with memory kept), so that of its ratio to"
        " compressed only about 7 is arithmetic",
    ),
)
