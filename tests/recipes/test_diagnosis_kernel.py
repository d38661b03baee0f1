"""The system of a network and its kernel, held to their formulas step by step."""

import math
from types import SimpleNamespace

import pytest
import torch

from lissome.calculus import Tangent
from lissome.pde import Problem, load_family
from lissome.recipes.archive import build
from lissome.recipes.diagnosis_advice import smoothness
from lissome.recipes.diagnosis_kernel import descent, elsewhere, kernel, moved, paces, parts_of, still, system
from lissome.recipes.settings import NetworkSettings
from tests.oracles import tangent as oracle
from tests.oracles.curvature import flat, jacobian

HOW = {"limit": 2000, "products": 20}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(family="poisson", network=None, points=24, weight=100.0, **how):
    problem = Problem(load_family(family)(**how), test_points=5, weight_boundary=weight)
    asked = NetworkSettings(**({"width": 4, "depth": 1} | (network or {})))
    model = problem.wrap(build(problem, asked, 0)).double()
    return problem, model, problem.sample(seeded(), points)


@pytest.mark.parametrize("family", ["poisson", "heat", "convection", "klein-gordon"])
def test_half_the_square_of_the_system_is_the_loss_and_its_kernel_that_of_its_rows(family):
    problem, model, batch = made(family)
    found = system(problem, model, batch)
    r = found.function(found.start).detach()
    assert 0.5 * float(r.square().sum()) == pytest.approx(float(problem.loss(model, batch).detach()), rel=1e-10)
    assert len(r) == found.rows == sum(count for *_, count in found.parts)
    truth = oracle.kernel(*flat(found.function, found.start))
    at = kernel(found, found.start, generator=seeded(), **HOW)
    torch.testing.assert_close(at.matrix, truth, rtol=1e-8, atol=1e-8 * float(truth.abs().max()))
    torch.testing.assert_close(found.diagonal(found.start), truth.diagonal(), rtol=1e-8, atol=0)
    assert at.whole
    assert (at.smallest_bound, at.largest_bound) == (0.0, 0.0)
    assert at.step == pytest.approx(2 / float(torch.linalg.eigvalsh(truth)[-1]))
    assert float(parts_of(at).sum()) == pytest.approx(1.0)


def test_a_jacobian_too_large_is_never_made(monkeypatch):
    problem, model, batch = made()
    found = system(problem, model, batch)
    whole = kernel(found, found.start, generator=seeded(), **HOW)
    monkeypatch.setattr("lissome.recipes.diagnosis_kernel.JACOBIAN_NUMBERS", found.rows * found.size - 1)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    assert at.jacobian is None
    torch.testing.assert_close(at.matrix, whole.matrix)
    torch.testing.assert_close(found.diagonal(found.start), whole.tangent.diagonal)
    assert elsewhere(found, at, found, at.step, 10) is None


def test_above_the_limit_ends_and_forecast_come_from_products_alone():
    problem, model, batch = made(points=60)
    found = system(problem, model, batch)
    whole = kernel(found, found.start, generator=seeded(), **HOW)
    part = kernel(found, found.start, generator=seeded(), limit=found.rows - 1, products=40)
    assert not part.whole
    assert part.jacobian is None
    assert abs(part.largest - whole.largest) <= part.largest_bound + 1e-9 * whole.largest
    assert abs(part.smallest - whole.smallest) <= part.smallest_bound + 1e-9 * whole.largest
    assert part.tangent.stochastic_step(8) == pytest.approx(whole.tangent.stochastic_step(8), rel=1e-6)
    step = 0.5 * whole.step
    predicted = [each.tangent.predict(each.coordinates, step, 200) for each in (whole, part)]
    torch.testing.assert_close(*predicted, rtol=1e-6, atol=0)
    assert float(parts_of(part).sum()) == pytest.approx(1.0)
    ends = [
        descent(found, each, step=step, steps=3, generator=seeded(), limit=k, products=40)
        for each, k in ((whole, 2000), (part, found.rows - 1))
    ]
    assert ends[1].drift == pytest.approx(ends[0].drift, rel=0.3)
    assert torch.equal(ends[0].measured, ends[1].measured)


def test_the_drift_by_random_vectors_is_that_of_two_different_kernels():
    problem, model, batch = made()
    found = system(problem, model, batch)
    end = {name: value + 0.1 * torch.randn(value.shape, generator=seeded(4)) for name, value in found.start.items()}
    whole, part = (
        [kernel(found, at, generator=seeded(), limit=limit, products=20) for at in (found.start, end)]
        for limit in (2000, 5)
    )
    J = [jacobian(*flat(found.function, at)) for at in (found.start, end)]
    before, after = (each @ each.T for each in J)
    truth = float((after - before).norm() / before.norm())
    assert truth > 0.05
    assert moved(*whole, seeded()) == pytest.approx(truth, rel=1e-8)
    estimates = torch.tensor([moved(*part, seeded(seed)) for seed in range(20)])
    assert float(estimates.median()) == pytest.approx(truth, rel=0.1)
    assert float((estimates / truth - 1).abs().max()) < 0.6
    assert moved(part[0], part[0], seeded()) == 0.0


def diagonal_system(d, r0):
    """A residual d x + r_0, whose kernel is diag(d^2)."""
    return SimpleNamespace(
        rows=len(d), function=lambda theta: d * theta["x"] + r0, diagonal=lambda theta: d.square()
    ), {"x": torch.zeros_like(d)}


def test_what_the_space_of_the_residual_misses_still_bounds_the_steps():
    d = torch.linspace(1, 3, 40).double()
    r0 = torch.zeros(40).double()
    r0[:3] = 1.0  # the large eigenvalues have no part of it
    at = kernel(*diagonal_system(d, r0), limit=5, products=40, generator=seeded())
    assert at.tangent.largest < 2
    assert at.largest == pytest.approx(9.0)
    assert at.step == pytest.approx(2 / 9)
    whole = Tangent.of(torch.diag(d.square()))
    assert at.stochastic_step(4) == pytest.approx(whole.stochastic_step(4), rel=1e-6)
    assert at.stochastic_step(4) < at.tangent.stochastic_step(4)


@pytest.mark.parametrize("end", [0, -1])
def test_a_bound_is_of_the_space_that_gave_the_value(end):
    d, r0 = torch.linspace(1, 3, 40).double(), torch.zeros(40).double()
    r0[end] = 1.0  # an eigenvector: its space gives the end exactly, eight products from elsewhere do not
    at = kernel(*diagonal_system(d, r0), limit=5, products=8, generator=seeded())
    values, bounds = (at.smallest, at.largest), (at.smallest_bound, at.largest_bound)
    assert values[end] == pytest.approx(float(d[end] ** 2))
    assert bounds[end] == 0.0
    assert bounds[1 + end] > 0.0
    assert float((d.square() - values[1 + end]).abs().min()) <= bounds[1 + end]


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_paces_are_the_sums_of_their_steps(steps):
    step = 0.3
    ways = [0.0, 1e-320, 1e-200, 1e-17, 1e-9, 0.3, 1 - 1e-9, 1.0, 1.3, 1.999, 2.0]
    x = torch.tensor(ways, dtype=torch.float64)
    truth = [math.fsum(step * (1 - each) ** k for k in range(steps)) for each in ways]
    truth = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(paces(x / step, step, steps), truth, rtol=1e-12, atol=1e-13)
    assert float(paces(torch.tensor([-1e-9]).double(), step, steps)) == pytest.approx(step * steps)


@pytest.mark.parametrize("rate", [0.6, 1.0])
def test_the_forecast_at_its_own_points_is_the_same_by_either_way(rate):
    problem, model, batch = made()
    found = system(problem, model, batch)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    here, there = elsewhere(found, at, found, rate * at.step, 100)
    assert there == pytest.approx(here, rel=1e-6)


def test_balanced_weights_are_those_of_training_and_make_both_sides_move_at_one_pace():
    problem, model, batch = made()
    found = system(problem, model, batch)
    weight = found.balanced(found.diagonal(found.start))
    follows, _, _ = made(weight="balanced")
    assert weight == pytest.approx(float(follows.weigh(model, batch)["balance"]))
    again = system(made(weight=weight)[0], model, batch)
    counts = [count for *_, count in again.parts]
    inside, outside = again.diagonal(again.start).split(counts)
    # the loss takes means of each side
    assert float(inside.mean()) == pytest.approx(float(outside.mean()), rel=1e-9)
    exact = Problem(load_family("poisson")(), constraint="boundary", test_points=5)
    only = system(exact, exact.wrap(model), exact.sample(seeded(), 9))
    assert only.balanced(only.diagonal(only.start)) is None


def test_the_forecast_elsewhere_is_the_linear_model_followed_step_by_step():
    problem, model, batch = made()
    found, other = (system(problem, model, each) for each in (batch, problem.sample(seeded(1), 24)))
    at = kernel(found, found.start, generator=seeded(), **HOW)
    step, steps = 0.5 * at.step, 60
    J, J2 = (jacobian(*flat(each.function, each.start)) for each in (found, other))
    r, r2 = (each.function(each.start).detach() for each in (found, other))
    first = r.square().sum(), r2.square().sum()
    for _ in range(steps):
        change = step * J.T @ r
        r, r2 = r - J @ change, r2 - J2 @ change
    here, there = elsewhere(found, at, other, step, steps)
    assert here == pytest.approx(float(r.square().sum() / first[0]), rel=1e-8)
    assert there == pytest.approx(float(r2.square().sum() / first[1]), rel=1e-6)


def test_what_stands_still_loses_less_than_half_of_its_part():
    problem, model, batch = made()
    found = system(problem, model, batch)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    step, steps = 0.5 * at.step, 1000
    slow = [(1 - step * max(value, 0.0)) ** steps > 0.5 for value in at.tangent.eigenvalues.tolist()]
    assert still(at, step, steps) == pytest.approx(float(parts_of(at)[torch.tensor(slow)].sum()))
    assert 0 < still(at, step, 10**5) < still(at, step, 1) <= 1


@pytest.mark.parametrize(
    ("family", "network", "has", "needs"),
    [
        ("poisson", {"kind": "kan"}, 2, 3),
        ("poisson", {"kind": "kan", "order": 4}, 3, 3),
        ("poisson", {"kind": "kan", "basis": "rbf"}, None, 3),
        ("poisson", {"kind": "kan", "basis": "chebyshev"}, None, 3),
        ("poisson", {"activation": "relu3"}, 2, 3),
        ("poisson", {}, None, 3),
        ("convection", {"kind": "kan"}, 2, 2),
    ],
)
def test_a_network_has_to_be_one_derivative_smoother_than_its_operator(family, network, has, needs):
    problem, model, _ = made(family, network)
    enough = has is None or has >= needs
    assert smoothness(problem, model) == {"has": has, "needs": needs, "enough": enough}
