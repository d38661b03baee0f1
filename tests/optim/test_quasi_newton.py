"""The update of quasi-Newton methods by its formula, and iterations on functions with a known minimum."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.optim.line_search import Search
from lissome.optim.quasi_newton import RULES, Ending, QuasiNewton, State, advance, update
from tests.optim.closures import closure_of, every_rule, gradient_norm, rosenbrock, seeded
from tests.oracles import quasi_newton as oracle

sizes_and_seeds = given(p=st.integers(2, 12), seed=st.integers(0, 10_000), t=st.floats(0.05, 20.0))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def definite(p, seed, dtype=torch.float64):
    A = normal(p, p, seed=seed, dtype=dtype)
    B = A @ A.T / p + 0.1 * torch.eye(p, dtype=dtype)
    return (B + B.T) / 2  # to the bit


def pair(p, seed, t):
    """Return H, g, a step of length t, and a y of positive curvature; b of the rules falls as 1 / t."""
    H, g = definite(p, seed), normal(p, seed=seed + 1)
    s = -t * (H @ g)
    return H, g, s, t * definite(p, seed + 2) @ s


def quadratic(p, seed=0):
    """Return a function with its gradient, and its only minimiser; the minimum is 0."""
    A, least = definite(p, seed), normal(p, seed=seed + 1)

    def evaluate(x):
        return float((x - least) @ A @ (x - least)) / 2, A @ (x - least)

    return evaluate, least


def begin(evaluate, x):
    f, g = evaluate(x)
    return State(x, f, g, torch.eye(len(x), dtype=x.dtype))


# --- the update


@every_rule
@settings(max_examples=25, deadline=None)
@sizes_and_seeds
def test_an_update_is_the_formula_of_dense_matrices(rule, p, seed, t):
    H, g, s, y = pair(p, seed, t)
    B = torch.linalg.inv(H)
    theta, tau = oracle.parameters(rule, B, H, s, y)
    truth = torch.linalg.inv(oracle.hessian(B, s, y, theta, tau))
    assert update(H, s, y, g, t, rule=RULES[rule])
    torch.testing.assert_close(H, truth, rtol=1e-6, atol=1e-8 * float(truth.abs().max()))


@settings(max_examples=25, deadline=None)
@sizes_and_seeds
def test_the_rule_bfgs_is_the_product_form(p, seed, t):
    H, g, s, y = pair(p, seed, t)
    truth = oracle.bfgs(H, s, y)
    assert update(H, s, y, g, t, rule=RULES["bfgs"])
    torch.testing.assert_close(H, truth, rtol=1e-9, atol=1e-9 * float(truth.abs().max()))


@every_rule
@settings(max_examples=25, deadline=None)
@given(p=st.integers(1, 40), seed=st.integers(0, 10_000), t=st.floats(0.05, 20.0), first=st.booleans())
def test_an_update_is_symmetric_definite_and_maps_y_to_s(rule, p, seed, t, first):
    H, g, s, y = pair(p, seed, t)
    if first:
        H, s = torch.eye(p, dtype=torch.float64), -t * g
        y = definite(p, seed + 2) @ s
    assert update(H, s, y, g, t, rule=RULES[rule], first=first)
    assert torch.equal(H, H.T)
    assert torch.linalg.eigvalsh(H)[0] > 0
    torch.testing.assert_close(H @ y, s, rtol=1e-7, atol=1e-7 * float(s.abs().max()))


@every_rule
def test_the_first_matrix_has_the_scale_of_the_curvature(rule):
    g = normal(6)
    H, s, y = torch.eye(6, dtype=torch.float64), -0.1 * g, -25.0 * 0.1 * g  # curvature 25 in all directions
    assert update(H, s, y, g, 0.1, rule=RULES[rule], first=True)
    torch.testing.assert_close(H, torch.eye(6, dtype=torch.float64) / 25)


@every_rule
def test_the_first_update_scales_only_once(rule):
    _, g, _, _ = pair(7, 3, 0.2)
    s = -0.2 * g
    y = definite(7, 5) @ s
    scaled = torch.eye(7, dtype=torch.float64) * (y @ s) / (y @ y)
    B = torch.linalg.inv(scaled)
    theta, _ = oracle.parameters(rule, B, scaled, s, y)
    sigma = 1 + theta * (float((s @ B @ s) * (y @ scaled @ y) / (y @ s) ** 2) - 1)
    truth = torch.linalg.inv(oracle.hessian(B, s, y, theta, 1 / sigma))
    H = torch.eye(7, dtype=torch.float64)
    assert update(H, s, y, g, 0.2, rule=RULES[rule], first=True)
    torch.testing.assert_close(H, truth, rtol=1e-8, atol=1e-10)


def test_curvature_that_is_rounding_is_none():
    g = torch.tensor([1.0, 0.0], dtype=torch.float64)
    H, y = torch.eye(2, dtype=torch.float64), torch.tensor([-1e-17, 1.0], dtype=torch.float64)
    assert not update(H, -g, y, g, 1.0, rule=RULES["bfgs"])
    assert torch.equal(H, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("y", [-1.0, 0.0, math.nan, math.inf])
def test_an_update_without_curvature_leaves_the_matrix(y):
    H, g, s, _ = pair(4, 0, 1.0)
    before = H.clone()
    assert not update(H, s, y * s, g, 1.0, rule=RULES["ssbroyden"])
    assert torch.equal(H, before)


@pytest.mark.parametrize("p", [17, 100, 501])
def test_symmetry_survives_many_updates_to_the_bit(p):
    H, A = torch.eye(p, dtype=torch.float64), definite(p, 7)
    for k in range(20):
        g = normal(p, seed=k)
        s = -0.3 * (H @ g)
        assert update(H, s, A @ s, g, 0.3, rule=RULES["ssbroyden"], first=k == 0)
    assert torch.equal(H, H.T)
    assert torch.linalg.eigvalsh(H)[0] > 0


# --- iterations


def test_bfgs_ends_on_a_quadratic_after_as_many_steps_as_dimensions():
    evaluate, least = quadratic(6)
    state = begin(evaluate, torch.zeros(6, dtype=torch.float64))
    for _ in range(6):  # with nearly exact searches
        state, _ = advance(evaluate, state, RULES["bfgs"], Search(c1=1e-9, c2=1e-8, evaluations=60))
    torch.testing.assert_close(state.x, least, rtol=0, atol=1e-6)


@every_rule
def test_every_rule_reaches_the_minimum_of_a_quadratic(rule):
    evaluate, least = quadratic(20, seed=3)
    state = begin(evaluate, torch.zeros(20, dtype=torch.float64))
    values = [state.f]
    for _ in range(80):
        state, report = advance(evaluate, state, RULES[rule])
        assert torch.linalg.eigvalsh(state.H)[0] > 0
        values.append(report.f)
    torch.testing.assert_close(state.x, least, rtol=0, atol=1e-7)
    assert all(after <= before * (1 + 1e-14) for before, after in itertools.pairwise(values))


@every_rule
@pytest.mark.parametrize("p", [2, 5, 10])
def test_rosenbrock_is_solved(rule, p):
    x, loss = rosenbrock(p)
    optimizer = QuasiNewton([x], rule=rule, max_iter=300)
    optimizer.step(closure_of(optimizer, loss))
    assert gradient_norm([x], loss) < 1e-6
    if p == 2:  # from 4 dimensions on there is a second minimum, near (-1, 1, ..., 1)
        torch.testing.assert_close(x.detach(), torch.ones(p, dtype=torch.float64), rtol=0, atol=1e-7)


def test_an_iteration_at_a_minimum_does_nothing():
    evaluate, least = quadratic(4)
    state, report = advance(lambda _: pytest.fail("nothing to evaluate"), begin(evaluate, least), RULES["bfgs"])
    assert report.ending is Ending.FLAT
    assert (report.evaluations, report.step_length) == (0, 0.0)
    assert torch.equal(state.x, least)


def test_a_failed_search_forgets_the_matrix_once_and_goes_down_the_gradient():
    evaluate, _ = quadratic(4)
    state = begin(evaluate, torch.zeros(4, dtype=torch.float64))
    spoilt = State(state.x, state.f, state.g, -torch.eye(4, dtype=torch.float64), updates=9)
    after, report = advance(evaluate, spoilt, RULES["ssbroyden"])
    plain, _ = advance(evaluate, state, RULES["ssbroyden"])
    assert report.ending is Ending.RESTARTED
    assert torch.equal(after.x, plain.x)
    assert torch.equal(after.H, plain.H)
    assert after.updates == 1
    assert after.f < state.f


@pytest.mark.parametrize("updates", [0, 5])
def test_where_nothing_helps_the_numbers_stay(updates):
    x = normal(3)
    state = State(x, 1.0, normal(3, seed=1), torch.eye(3, dtype=torch.float64), updates)
    after, report = advance(lambda x: (2.0, torch.zeros_like(x)), state, RULES["bfgs"], Search(evaluations=4))
    assert report.ending is Ending.STUCK
    assert report.evaluations == (8 if updates else 4)
    assert torch.equal(after.x, x)
    assert after.f == report.f == 1.0
    assert after.updates == 0
