from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome.optim import GaussNewton
from lissome.optim.cubic import Exact
from lissome.optim.damping import RULES, Cubic, Damping, product
from lissome.optim.gauss_newton import Ending, LeastSquares, State, advance
from tests.oracles import gauss_newton as oracle


def curve(m, p, seed):
    """A residual that is a little curved, from (p,) to (m,)."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(m, p, generator=generator, dtype=torch.float64)
    b = torch.randn(m, generator=generator, dtype=torch.float64)
    return lambda x: A @ x - b + 0.1 * torch.sin(A @ x)


def problem(residual):
    return LeastSquares(lambda x: residual(x).detach(), lambda x: (residual(x).detach(), oracle.jacobian(residual, x)))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-6, 1e-2, 1.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_step_is_that_of_the_formulas_whichever_of_the_two_systems_is_smaller(m, p, damping, seed):
    residual, x = curve(m, p, seed), torch.zeros(p, dtype=torch.float64)
    new, _, report = advance(problem(residual), x, State(damping), Damping())
    if report.solves == 1:
        wanted = [oracle.step(residual, x, damping)[0], oracle.step(residual, x, damping, acceleration=False)[0]]
        assert min(float((new - x - each).norm() / (1e-12 + each.norm())) for each in wanted) < 1e-6


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-6, 1e-2, 1.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_momentum_keeps_the_step_before_where_the_jacobian_does_not_see(m, p, damping, seed):
    residual, x = curve(m, p, seed), torch.zeros(p, dtype=torch.float64)
    before = 0.1 * torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    given_ = Damping(momentum=0.5)
    new, state, report = advance(problem(residual), x, State(damping, before), given_)
    if report.solves == 1:
        ways = [oracle.step(residual, x, damping, base=0.5 * before, acceleration=a)[0] for a in (True, False)]
        assert min(float((new - x - each).norm() / (1e-12 + each.norm())) for each in ways) < 1e-6
        torch.testing.assert_close(state.last, new - x)


@pytest.mark.parametrize("rule", RULES)
def test_the_first_rejection_takes_momentum_away_and_nothing_else(rule):
    def residual(x):
        return (x[:1] - 1) + 10 * x[1:].square()  # at 0 its Jacobian does not see the second number

    x, before = torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    settings_ = replace(RULES[rule], acceleration=False)
    plain, _, _ = advance(problem(residual), x, State(1e-2), settings_)
    new, _, report = advance(problem(residual), x, State(1e-2, before), settings_)
    assert report.solves == 2
    assert report.damping == 1e-2
    torch.testing.assert_close(new, plain)


def test_acceleration_is_that_of_the_formulas():
    residual, x = curve(9, 4, 0), torch.zeros(4, dtype=torch.float64)
    new, _, report = advance(problem(residual), x, State(1e-2), Damping())
    wanted, bent = oracle.step(residual, x, 1e-2)
    assert bent
    assert report.accelerated
    torch.testing.assert_close(new, x + wanted, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-2, 1.0, 100.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_cubic_step_is_that_of_the_formulas_whichever_of_the_two_products_is_smaller(m, p, sigma, seed):
    residual, x = curve(m, p, seed), torch.zeros(p, dtype=torch.float64)
    new, _, report = advance(problem(residual), x, State(sigma), RULES["cubic"])
    if report.solves == 1:
        wanted = [oracle.cubic(residual, x, sigma)[0], oracle.cubic(residual, x, sigma, acceleration=False)[0]]
        assert min(float((new - x - each).norm() / (1e-12 + each.norm())) for each in wanted) < 1e-6
        assert report.damping == sigma


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-2, 1.0, 100.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_cubic_step_is_the_exact_minimiser_of_its_model(m, p, sigma, seed):
    residual, x = curve(m, p, seed), torch.zeros(p, dtype=torch.float64)
    J, r = oracle.jacobian(residual, x), residual(x)
    system, wanted = Cubic(J, RULES["cubic"]), Exact(2 * J.T @ J, 2 * J.T @ r).cubic(sigma)
    system.aim(r, J.T @ r)
    step = system.step(sigma)
    assert float((step - wanted.s).norm()) < 1e-8 * wanted.norm
    assert float(r @ r - (r + J @ step).square().sum()) - system.charge(sigma) == pytest.approx(wanted.cubic, rel=1e-8)


def test_cubic_acceleration_is_that_of_the_formulas():
    residual, x = curve(9, 4, 0), torch.zeros(4, dtype=torch.float64)
    new, _, report = advance(problem(residual), x, State(1.0), RULES["cubic"])
    wanted, bent = oracle.cubic(residual, x, 1.0)
    assert bent
    assert report.accelerated
    torch.testing.assert_close(new, x + wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("m", "p"), [(9, 4), (4, 9)])
@pytest.mark.parametrize(("outer", "inner"), [(100.0, 1.0), (1.0, 100.0)])
def test_a_first_step_knows_no_units(rule, m, p, outer, inner):
    residual, x = curve(m, p, 0), torch.zeros(p, dtype=torch.float64)
    new, _, _ = advance(problem(residual), x, State(), RULES[rule])
    scaled, _, _ = advance(problem(lambda z: outer * residual(z / inner)), x, State(), RULES[rule])
    torch.testing.assert_close(scaled / inner, new, rtol=1e-7, atol=1e-9)


def test_sigma_falls_after_a_good_step_where_it_acts_and_only_there():
    residual, x = lambda x: x - 1, torch.zeros(3, dtype=torch.float64)
    for sigma, after in ((1.0, 0.5), (1e-6, 1e-6)):
        _, state, report = advance(problem(residual), x, State(sigma), RULES["cubic"])
        assert report.rho == pytest.approx(1) or report.rho > 1
        assert state.damping == after


def test_a_flat_place_is_left_as_it_is():
    x = torch.zeros(2, dtype=torch.float64)
    for rule in RULES:
        flat = LeastSquares(lambda x: torch.ones(3).double(), lambda x: (torch.ones(3).double(), x.new_zeros(3, 2)))
        new, _, report = advance(flat, x, State(), RULES[rule])
        assert torch.equal(new, x)
        assert report.ending is Ending.REJECTED


@given(st.integers(1, 30), st.integers(1, 30), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_product_is_right_below_its_diagonal(m, p, rows):
    J = torch.randn(m, p, generator=torch.Generator().manual_seed(m * p), dtype=torch.float64)
    truth = J @ J.T if rows else J.T @ J
    torch.testing.assert_close(product(J, rows=rows).tril(), truth.tril())


@pytest.mark.parametrize("rule", RULES)
def test_the_loss_never_rises_and_the_minimum_is_reached(rule):
    residual, x, state = curve(20, 8, 1), torch.full((8,), 3.0, dtype=torch.float64), State()
    losses = []
    for _ in range(25):
        x, state, report = advance(problem(residual), x, state, RULES[rule])
        losses.append(report.loss)
        assert report.loss <= report.before
    assert float((oracle.jacobian(residual, x).T @ residual(x)).norm()) < 1e-6  # the loss tells no more


@pytest.mark.parametrize("rule", RULES)
def test_a_rejected_step_asks_for_no_second_jacobian_and_raises_the_damping(rule):
    count = 0

    def residual(x):
        return torch.stack([torch.exp(4 * x[0]) - 1e4, 10 * x[1]])

    def linearize(x):
        nonlocal count
        count += 1
        return residual(x), oracle.jacobian(residual, x)

    x = torch.tensor([-0.5, 1.0], dtype=torch.float64)
    _, _, report = advance(LeastSquares(residual, linearize), x, State(1e-4), replace(RULES[rule], acceleration=False))
    assert report.ending is Ending.ACCEPTED
    assert report.solves > 1
    assert count == 1
    assert report.damping > 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_a_start_that_needs_a_damping_of_millions_is_left_within_one_step(rule):
    def residual(x):
        return 1 + 1e8 * x.square() - x

    x = torch.zeros(1, dtype=torch.float64)
    _, _, report = advance(problem(residual), x, State(), RULES[rule])
    assert report.ending is Ending.ACCEPTED
    assert report.loss < report.before


def test_rejected_cubic_steps_cost_one_set_of_eigenvectors(monkeypatch):
    residual, x, calls = lambda x: 1 + x.square() - x, torch.full((2,), 0.4, dtype=torch.float64), []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda A: calls.append(0) or eigh(A))
    _, _, report = advance(problem(residual), x, State(1e-9), RULES["cubic"])
    assert report.solves > 1
    assert len(calls) == 1


def test_a_step_that_cannot_improve_says_so_and_leaves_x():
    def residual(x):
        return 1 + x.square()

    x = torch.zeros(2, dtype=torch.float64)
    new, state, report = advance(
        LeastSquares(residual, lambda x: (residual(x), torch.eye(2, dtype=x.dtype))), x, State(1e-2), Damping()
    )
    assert torch.equal(new, x)
    assert report.ending is Ending.REJECTED
    assert state == State(Damping().start)


def test_points_where_the_residual_is_not_finite_are_rejected():
    def residual(x):
        return torch.where(x > 0.5, torch.nan, x - 10.0)

    x = torch.zeros(1, dtype=torch.float64)
    new, _, report = advance(
        LeastSquares(residual, lambda x: (residual(x), torch.ones(1, 1).double())), x, State(1e-2), Damping()
    )
    assert report.ending is Ending.ACCEPTED
    assert 0 < float(new) <= 0.5


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_that_is_finite_nowhere_else_is_an_error_and_no_standstill(rule):
    def residual(x):
        return torch.where((x == 0).all(), x - 1, torch.nan)

    x = torch.zeros(2, dtype=torch.float64)
    alone = LeastSquares(residual, lambda x: (residual(x), torch.eye(2).double()))
    with pytest.raises(RunError, match="^the residual is not finite wherever the step leads, up to a damping of"):
        advance(alone, x, State(), RULES[rule])


def line(dtype=torch.float64):
    model = torch.nn.Linear(2, 1).to(dtype)
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return model, lambda: torch.tanh(model(x))[:, 0] - 0.3 * x[:, 0]


def test_the_jacobian_of_a_closure_is_that_of_its_graph():
    model, closure = line()
    twin, other = line()
    twin.load_state_dict(model.state_dict())
    first = GaussNewton(model.parameters())

    def linearize():
        r = other()
        rows = [torch.autograd.grad(each, list(twin.parameters()), retain_graph=True) for each in r]
        return r.detach(), torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

    second = GaussNewton(twin.parameters(), linearize=linearize)
    for _ in range(3):
        torch.testing.assert_close(first.step(closure), second.step(other))
    torch.testing.assert_close(model.weight, twin.weight)


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_state_goes_on_with_the_same_steps(rule):
    model, closure = line()
    optimizer = GaussNewton(model.parameters(), rule)
    for _ in range(2):
        optimizer.step(closure)
    twin, other = line()
    twin.load_state_dict(model.state_dict())
    again = GaussNewton(twin.parameters(), rule)
    again.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step(closure)
        again.step(other)
    assert torch.equal(model.weight, twin.weight)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_begins_with_the_damping_that_the_last_one_left(rule):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = GaussNewton([x], rule, damping=1.0)
    optimizer.step(lambda: x - 1)
    left = optimizer.state[x]["damping"]
    optimizer.step(lambda: x - 1)
    assert optimizer.report is not None
    assert optimizer.report.damping == left


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_works(rule):
    model, closure = line(torch.float32)
    optimizer = GaussNewton(model.parameters(), rule)
    first = float(optimizer.step(closure))
    for _ in range(10):
        last = float(optimizer.step(closure))
    assert last < first
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda r: r.mean(), r"the closure returned \(\); legal is a residual vector"),
        (lambda r: r.detach(), "has no graph: compute it from the parameters"),
        (lambda r: r[:0], r"the closure returned \(0,\)"),
        (lambda r: 3.0, "the closure returned float"),
    ],
)
def test_a_closure_that_returns_no_residual_is_refused(spoil, sentence):
    model, closure = line()
    before = model.weight.detach().clone()
    with pytest.raises(UsageError, match=sentence):
        GaussNewton(model.parameters()).step(lambda: spoil(closure()))
    assert torch.equal(model.weight, before)


def test_a_residual_that_is_not_finite_is_refused_and_nothing_moves():
    model, closure = line()
    before = model.weight.detach().clone()
    with pytest.raises(RunError, match="the residual or its Jacobian is not finite"):
        GaussNewton(model.parameters()).step(lambda: closure() * torch.nan)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("rule", RULES)
def test_a_jacobian_whose_square_overflows_is_refused(rule):
    x = torch.zeros(2, dtype=torch.float64)
    steep = LeastSquares(lambda x: x, lambda x: (x + 1e-200, 1e200 * torch.eye(2).double()))
    with pytest.raises(RunError, match="the square of the Jacobian is not finite; scale the residual"):
        advance(steep, x, State(), RULES[rule])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rule": "cubik"}, r"unknown rule 'cubik'; legal are: marquardt, cubic \(did you mean 'cubic'\?\)"),
        ({"damping": 0.0}, "the damping's start is 0.0; legal is a number above 0"),
        ({"retreat": 0.5}, "the damping's retreat is 0.5; legal is at least 1"),
        ({"probe": torch.nan}, "the damping's probe is nan; legal is a number above 0"),
        ({"tries": 0}, "the damping's tries is 0; legal is at least 1"),
        ({"momentum": 1.0}, "the damping's momentum is 1.0; legal is a number from 0 to below 1"),
    ],
)
def test_figures_out_of_range_are_refused(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        GaussNewton([torch.zeros(1, requires_grad=True)], **given)


def test_figures_that_are_given_change_those_of_the_rule_and_no_others():
    optimizer = GaussNewton([torch.zeros(1, requires_grad=True)], "cubic", damping=0.5, tries=3)
    assert optimizer.settings == replace(RULES["cubic"], start=0.5, tries=3)


def test_parameters_that_cannot_be_one_vector_are_refused():
    sparse = torch.nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(UsageError, match="parameter 0 is sparse"):
        GaussNewton([sparse])
    with pytest.raises(UsageError, match=r"parameter 1 has dtype torch.complex64"):
        GaussNewton([torch.zeros(1, requires_grad=True), torch.zeros(1, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(UsageError, match="legal is one dtype and one device"):
        GaussNewton([torch.zeros(1, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)])
    with pytest.raises(UsageError, match="2 groups of parameters were given"):
        GaussNewton(
            [{"params": [torch.zeros(1, requires_grad=True)]}, {"params": [torch.zeros(1, requires_grad=True)]}]
        )


def test_a_state_of_other_parameters_is_refused():
    model, closure = line()
    optimizer = GaussNewton(model.parameters())
    optimizer.step(closure)
    other = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    loaded = GaussNewton([other, torch.zeros(1, dtype=torch.float64, requires_grad=True)])
    loaded.load_state_dict(optimizer.state_dict())
    with pytest.raises(UsageError, match="^the loaded state is of 3 numbers and these parameters are 6"):
        loaded.step(lambda: other - 1)


def test_a_state_follows_the_parameters_dtype():
    model, closure = line()
    optimizer = GaussNewton(model.parameters())
    optimizer.step(closure)
    single, other = line(torch.float32)
    again = GaussNewton(single.parameters())
    again.load_state_dict(optimizer.state_dict())
    again.step(other)
    assert again.state[single.weight]["last"].dtype == torch.float32


def test_a_step_needs_a_closure():
    with pytest.raises(UsageError, match="^GaussNewton.step needs a closure that returns the residual"):
        GaussNewton([torch.zeros(1, requires_grad=True)]).step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(UsageError, match=f"^parameter 0 has dtype {dtype}; legal are float32 and float64$"):
        GaussNewton([torch.zeros(1, dtype=dtype, requires_grad=True)])
