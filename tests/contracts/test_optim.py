"""What every method that moves a vector by its own judgement promises, on functions whose minimum is known."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from lissome.optim import GaussNewton, QuasiNewton, damping, gauss_newton, quasi_newton
from lissome.optim.arc import ARC, PRESETS, minimize
from lissome.optim.checkpoint import decode, encode
from lissome.optim.oracle import differentiable
from tests.optim.functions import FUNCTIONS, Function
from tests.oracles.gauss_newton import jacobian


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


def squares(rule):
    def run(function):
        r = function.residual
        problem = gauss_newton.LeastSquares(r, lambda x: (r(x), jacobian(r, x)))
        x, state, losses = function.x(), gauss_newton.State(), []
        for _ in range(100):
            x, state, report = gauss_newton.advance(problem, x, state, damping.RULES[rule])
            losses.append(report.loss * len(r(x)))
        return Ending(x, losses)

    return run


def inverse(rule):
    def run(function):
        def evaluate(x):
            x = x.detach().requires_grad_()
            f = function.f(x)
            return float(f.detach()), torch.autograd.grad(f, x)[0]

        x, losses = function.x(), []
        state = quasi_newton.State(x, *evaluate(x), torch.eye(len(x), dtype=x.dtype))
        for _ in range(200):
            state, report = quasi_newton.advance(evaluate, state, quasi_newton.RULES[rule])
            losses.append(report.f)
        return Ending(state.x, losses)

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
    **{f"gauss-newton, {rule}": squares(rule) for rule in damping.RULES},
    **{rule: inverse(rule) for rule in quasi_newton.RULES},
}
every_pair = pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in METHODS for name in FUNCTIONS if FUNCTIONS[name].residual or "gauss" not in method],
)


def graph(function, parts):
    """The closure returns the loss with its graph."""
    return lambda: function.f(torch.cat([*parts]))


def residual(function, parts):
    """The closure returns the residual with its graph."""
    return lambda: function.residual(torch.cat([*parts]))


def gradient(function, parts):
    """The closure returns the loss and leaves its gradient in the parameters."""

    def closure():
        for p in parts:
            p.grad = None
        loss = function.f(torch.cat([*parts]))
        loss.backward()
        return loss

    return closure


# name -> a torch optimizer of the parameters, and what its closure does
OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **{f"arc, {name}": (lambda params, name=name: ARC(params, name), graph) for name in PRESETS},
    "arc, krylov": (lambda params: ARC(params, subproblem="krylov"), graph),
    "arc, plane": (lambda params: ARC(params, momentum="plane", subproblem="exact"), graph),
    **{
        f"gauss-newton, {rule}": (lambda params, rule=rule: GaussNewton(params, rule), residual)
        for rule in damping.RULES
    },
    **{rule: (lambda params, rule=rule: QuasiNewton(params, rule=rule), gradient) for rule in quasi_newton.RULES},
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@every_pair
def test_every_method_reaches_the_known_minimum(method, name):
    function = FUNCTIONS[name]
    ending = METHODS[method](function)
    assert float(function.f(ending.x)) == pytest.approx(function.value, abs=1e-8)


@every_pair
def test_the_loss_never_rises(method, name):
    function = FUNCTIONS[name]
    losses = METHODS[method](function).losses
    before = float(function.f(function.x()))
    for loss in losses:
        assert loss <= before + 10 * torch.finfo(torch.float64).eps * abs(before)
        before = loss


def begun(optimizer, function: Function):
    """Return the parameters at the function's start, the optimizer of that name, and its closure."""
    start = function.x()
    parts = [torch.nn.Parameter(part.clone()) for part in start.split([1, len(start) - 1])]
    make, closure = OPTIMIZERS[optimizer]
    return parts, make(parts), closure(function, parts)


def steps(optimizer, parts, closure, count):
    seen = []
    for _ in range(count):
        optimizer.step(closure)
        seen.append(torch.cat([p.detach().clone() for p in parts]))
    return seen


@every_optimizer
def test_a_resumed_optimizer_makes_identical_iterates(optimizer):
    parts, first, closure = begun(optimizer, FUNCTIONS["rosenbrock"])
    steps(first, parts, closure, 4)
    tensors = {}
    text = json.dumps(encode(first.state_dict(), tensors))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    twins, second, twin_closure = begun(optimizer, FUNCTIONS["rosenbrock"])
    with torch.no_grad():
        for twin, part in zip(twins, parts, strict=True):
            twin.copy_(part)
    second.load_state_dict(decode(json.loads(text), tensors))
    expected, got = steps(first, parts, closure, 5), steps(second, twins, twin_closure, 5)
    assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    assert not torch.equal(expected[0], expected[1])


@every_optimizer
def test_an_optimizer_finds_the_minimum_of_a_closure(optimizer):
    function = FUNCTIONS["himmelblau"]
    parts, mover, closure = begun(optimizer, function)
    x = steps(mover, parts, closure, 100)[-1]
    assert float(function.f(x)) == pytest.approx(0, abs=1e-10)


@every_optimizer
@pytest.mark.parametrize("break_at", [1, 2])
def test_errors_leave_the_parameters_as_they_were(optimizer, break_at):
    parts, mover, closure = begun(optimizer, FUNCTIONS["rosenbrock"])
    calls, before = [], [p.detach().clone() for p in parts]

    def broken():
        calls.append(0)
        if len(calls) == break_at:
            raise ArithmeticError
        return closure()

    with pytest.raises(ArithmeticError):
        mover.step(broken)
    assert all(torch.equal(p, b) for p, b in zip(parts, before, strict=True))
