"""What every method that moves a vector by its own judgement promises, on functions whose minimum is known."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from lissome.optim.arc import ARC, PRESETS, minimize
from lissome.optim.checkpoint import decode, encode
from lissome.optim.oracle import differentiable
from tests.optim.functions import FUNCTIONS


@dataclass(frozen=True)
class Ending:
    """Where a method ended, and f after each of its iterations."""

    x: torch.Tensor
    losses: list[float]


def cubic(settings, subproblem="auto"):
    def run(function):
        settings_ = replace(settings, subproblem=subproblem)
        oracle = differentiable(function.f, function.x(), dense=subproblem != "krylov")
        found = minimize(oracle, function.x(), settings_, tolerance=1e-8, iterations=20_000)
        return Ending(found.x, [report.f for report in found.history])

    return run


# name -> how it minimises a `Function` from its start; a method joins by one line
METHODS: dict[str, Callable[..., Ending]] = {
    "arcm": cubic(PRESETS["default"]),
    "arcm, krylov": cubic(PRESETS["default"], "krylov"),
    "arcm, plane": cubic(replace(PRESETS["default"], momentum="plane")),
    "arcm, published": cubic(PRESETS["published"]),
    "arcm, wang": cubic(replace(PRESETS["published"], momentum="wang")),
    "arc": cubic(PRESETS["arc"]),
    "arc, krylov": cubic(PRESETS["arc"], "krylov"),
    "cr": cubic(replace(PRESETS["cr"], sigma=50.0)),
    "crm": cubic(replace(PRESETS["crm"], sigma=50.0)),
    "trust region": cubic(PRESETS["trust"]),
    "trust region, krylov": cubic(PRESETS["trust"], "krylov"),
}
every_method = pytest.mark.parametrize("method", METHODS)
every_function = pytest.mark.parametrize("name", FUNCTIONS)

# name -> a torch optimizer of the parameters whose closure returns the loss with its graph
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{f"arc, {name}": lambda params, name=name: ARC(params, name) for name in PRESETS},
    "arc, krylov": lambda params: ARC(params, subproblem="krylov"),
    "arc, plane": lambda params: ARC(params, momentum="plane", subproblem="exact"),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@every_function
@every_method
def test_every_method_reaches_the_known_minimum(method, name):
    function = FUNCTIONS[name]
    ending = METHODS[method](function)
    assert float(function.f(ending.x)) == pytest.approx(function.value, abs=1e-8)


@every_function
@every_method
def test_the_loss_never_rises(method, name):
    function = FUNCTIONS[name]
    losses = METHODS[method](function).losses
    before = float(function.f(function.x()))
    for loss in losses:
        assert loss <= before + 10 * torch.finfo(torch.float64).eps * abs(before)
        before = loss


def closure_of(function, dtype=torch.float64):
    start = function.x(dtype)
    parts = [torch.nn.Parameter(part.clone()) for part in start.split([1, len(start) - 1])]
    return parts, lambda: function.f(torch.cat([*parts]))


def steps(optimizer, parts, closure, count):
    seen = []
    for _ in range(count):
        optimizer.step(closure)
        seen.append(torch.cat([p.detach().clone() for p in parts]))
    return seen


@every_optimizer
def test_a_resumed_optimizer_makes_identical_iterates(optimizer):
    parts, closure = closure_of(FUNCTIONS["rosenbrock"])
    first = OPTIMIZERS[optimizer](parts)
    steps(first, parts, closure, 4)
    tensors = {}
    text = json.dumps(encode(first.state_dict(), tensors))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    twins, twin_closure = closure_of(FUNCTIONS["rosenbrock"])
    with torch.no_grad():
        for twin, part in zip(twins, parts, strict=True):
            twin.copy_(part)
    second = OPTIMIZERS[optimizer](twins)
    second.load_state_dict(decode(json.loads(text), tensors))
    expected, got = steps(first, parts, closure, 5), steps(second, twins, twin_closure, 5)
    assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    assert not torch.equal(expected[0], expected[1])


@every_optimizer
def test_an_optimizer_finds_the_minimum_of_a_closure(optimizer):
    parts, closure = closure_of(FUNCTIONS["himmelblau"])
    steps(OPTIMIZERS[optimizer](parts), parts, closure, 100)
    assert float(closure().detach()) == pytest.approx(0, abs=1e-10)


@every_optimizer
@pytest.mark.parametrize("break_at", [1, 2])
def test_errors_leave_the_parameters_as_they_were(optimizer, break_at):
    parts, closure = closure_of(FUNCTIONS["rosenbrock"])
    mover, calls, before = OPTIMIZERS[optimizer](parts), [], [p.detach().clone() for p in parts]

    def broken():
        calls.append(0)
        if len(calls) == break_at:
            raise ArithmeticError
        return closure()

    with pytest.raises(ArithmeticError):
        mover.step(broken)
    assert all(torch.equal(p, b) for p, b in zip(parts, before, strict=True))
