"""BFGS and the self-scaled families: updates, iterations, and the optimizer around them."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome._errors import RunError, UsageError
from lissome.optim import checkpoint
from lissome.optim.line_search import Search
from lissome.optim.quasi_newton import LARGEST, RULES, Ending, QuasiNewton, State, advance, update
from tests.optim.problems import Sine, network
from tests.oracles import quasi_newton as oracle

every_rule = pytest.mark.parametrize("rule", sorted(RULES))
sizes_and_seeds = given(p=st.integers(2, 12), seed=st.integers(0, 10_000), t=st.floats(0.05, 20.0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        closure.calls += 1
        return value

    closure.calls = 0
    return closure


def said(optimizer):
    assert optimizer.report is not None
    return optimizer.report


def gradient_norm(parameters, loss):
    gradients = torch.autograd.grad(loss(), list(parameters))
    return math.sqrt(sum(float(g.square().sum()) for g in gradients))


def rosenbrock(p, dtype=torch.float64):
    x = nn.Parameter(torch.linspace(-1.2, 0.8, p, dtype=dtype))
    return x, lambda: oracle.rosenbrock(x)


def least_squares(seed=0, dtype=torch.float64):
    task, model = Sine(), network(seed=seed, dtype=dtype)
    task.dtype = dtype
    batch = task.sample(seeded(1), 40)
    return model, lambda: task.loss(model, batch)


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


# --- the optimizer


@pytest.mark.parametrize("seed", range(3))
def test_ssbroyden_fits_a_small_network_below_one_in_a_hundred_million(seed):
    model, loss = least_squares(seed)
    optimizer = QuasiNewton(model.parameters(), max_iter=200)
    optimizer.step(closure_of(optimizer, loss))
    assert float(loss().detach()) < 1e-8


@every_rule
def test_float32_falls_as_far_as_it_can(rule):
    model, loss = least_squares(dtype=torch.float32)
    optimizer = QuasiNewton(model.parameters(), rule=rule, max_iter=150)
    start = optimizer.step(closure_of(optimizer, loss))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert optimizer.state[next(model.parameters())]["H"].dtype == torch.float32
    assert float(loss().detach()) < 1e-5 * float(start)


def test_a_step_does_one_iteration_and_returns_the_loss_it_began_with():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    closure = closure_of(optimizer, loss)
    before = float(loss().detach())
    assert float(optimizer.step(closure)) == before
    report = said(optimizer)
    assert (report.iterations, report.evaluations, report.ending) == (1, closure.calls, Ending.MOVED)
    assert report.f == float(loss().detach()) < before
    assert report.gradient_norm == pytest.approx(gradient_norm(model.parameters(), loss), rel=1e-12)
    assert report.step_length > 0


def test_several_iterations_are_several_steps():
    (one, loss), (other, other_loss) = least_squares(), least_squares()
    single, many = QuasiNewton(one.parameters(), fresh=False), QuasiNewton(other.parameters(), max_iter=7)
    closures = closure_of(single, loss), closure_of(many, other_loss)
    for _ in range(7):
        single.step(closures[0])
    many.step(closures[1])
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert said(many).iterations == 7
    assert said(many).evaluations == closures[1].calls == closures[0].calls


def test_the_same_closure_need_not_be_evaluated_again():
    (one, loss), (other, other_loss) = least_squares(), least_squares()
    again, kept = QuasiNewton(one.parameters()), QuasiNewton(other.parameters(), fresh=False)
    closures = closure_of(again, loss), closure_of(kept, other_loss)
    for _ in range(5):
        assert float(again.step(closures[0])) == float(kept.step(closures[1]))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert closures[0].calls == closures[1].calls + 4


def test_parameters_moved_by_others_are_evaluated_again():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters(), fresh=False)
    closure = closure_of(optimizer, loss)
    optimizer.step(closure)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    now = float(loss().detach())
    assert float(optimizer.step(closure)) == now


def test_new_points_keep_the_matrix_and_not_the_loss():
    task, model = Sine(), network()
    optimizer, points = QuasiNewton(model.parameters(), max_iter=10), [task.sample(seeded(1), 40)]
    closure = closure_of(optimizer, lambda: task.loss(model, points[0]))
    optimizer.step(closure)
    own = optimizer.state[next(model.parameters())]
    H, updates = own["H"], own["updates"]
    points[0] = task.sample(seeded(2), 40)
    now = float(task.loss(model, points[0]).detach())
    assert float(optimizer.step(closure)) == now
    own = optimizer.state[next(model.parameters())]
    assert own["H"] is H
    assert own["updates"] == updates + 10


@every_rule
@pytest.mark.parametrize("fresh", [True, False])
def test_a_resumed_run_has_the_same_bits(rule, fresh, tmp_path):
    def straight_on(optimizer, loss, steps):
        closure = closure_of(optimizer, loss)
        return [float(optimizer.step(closure)) for _ in range(steps)]

    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters(), rule=rule, fresh=fresh)
    straight_on(optimizer, loss, 6)
    checkpoint.write(tmp_path / "c", model.state_dict(), {"optimizer": optimizer.state_dict()})
    expected = straight_on(optimizer, loss, 6)

    twin, twin_loss = least_squares(seed=5)
    loaded = checkpoint.read(tmp_path / "c")
    checkpoint.load_weights(twin, loaded.model)
    other = QuasiNewton(twin.parameters(), rule=rule, fresh=fresh)
    other.load_state_dict(loaded.state["optimizer"])
    assert straight_on(other, twin_loss, 6) == expected
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_loaded_state_is_a_copy():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    optimizer.step(closure_of(optimizer, loss))
    twin, twin_loss = least_squares()
    other = QuasiNewton(twin.parameters())
    other.load_state_dict(optimizer.state_dict())
    H = optimizer.state[next(model.parameters())]["H"]
    before = H.clone()
    other.step(closure_of(other, twin_loss))
    assert torch.equal(H, before)
    assert not torch.equal(other.state[next(twin.parameters())]["H"], before)


def test_a_deep_copy_goes_on_by_itself():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    optimizer.step(closure_of(optimizer, loss))
    before = [p.detach().clone() for p in model.parameters()]
    copied_model, copied = copy.deepcopy((model, optimizer))
    batch = Sine().sample(seeded(1), 40)
    copied.step(closure_of(copied, lambda: Sine().loss(copied_model, batch)))
    assert said(copied).ending is Ending.MOVED
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_parameter_that_the_loss_does_not_see_stays():
    model, loss = least_squares()
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = QuasiNewton([*model.parameters(), idle], max_iter=5)
    optimizer.step(closure_of(optimizer, loss))
    assert said(optimizer).ending is Ending.MOVED
    assert torch.equal(idle.detach(), torch.ones(2, dtype=torch.float64))


def test_a_cliff_on_the_way_is_gone_round():
    x = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))  # the logarithm is NaN below 0
    optimizer = QuasiNewton([x], max_iter=40)
    optimizer.step(closure_of(optimizer, lambda: (x.log() ** 2).sum()))
    torch.testing.assert_close(x.detach(), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_moves_nothing(broken):
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = QuasiNewton([x])
    with pytest.raises(RunError, match=f"the loss at the start of the step is {broken} and its gradient has norm"):
        optimizer.step(closure_of(optimizer, lambda: x.sum() * broken))
    assert torch.equal(x.detach(), torch.ones(3, dtype=torch.float64))
    assert not optimizer.state


def test_an_error_in_the_closure_puts_the_parameters_back():
    x, loss = rosenbrock(4)
    before = x.detach().clone()
    optimizer = QuasiNewton([x])
    closure = closure_of(optimizer, loss)

    def breaks():
        if closure.calls == 1:
            raise KeyError("out of paper")
        return closure()

    with pytest.raises(KeyError, match="out of paper"):
        optimizer.step(breaks)
    assert torch.equal(x.detach(), before)


def test_a_step_that_finds_nothing_leaves_the_parameters_and_says_so():
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = QuasiNewton([x], max_iter=5, max_eval=6)

    def closure():
        x.grad = torch.ones_like(x)  # against the truth: the loss rises along it
        return -x.detach().sum()

    assert float(optimizer.step(closure)) == -2.0
    assert torch.equal(x.detach(), torch.ones(2, dtype=torch.float64))
    report = said(optimizer)
    assert (report.ending, report.iterations, report.evaluations) == (Ending.STUCK, 1, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "sbfgs"}, "unknown rule 'sbfgs'; legal are: bfgs, ssbfgs, ssbroyden .did you mean 'ssbfgs'"),
        ({"lr": 0.0}, "lr is 0.0; legal is a number above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"max_iter": 0}, "max_iter is 0; legal is a whole number of at least 1"),
        ({"max_eval": 0}, "evaluations is 0"),
        ({"c1": 0.95}, "c1 is 0.95 and c2 is 0.9; legal is 0 < c1 < c2 < 1"),
    ],
)
def test_bad_options_are_sentences(options, words):
    with pytest.raises(UsageError, match=words):
        QuasiNewton([nn.Parameter(torch.zeros(2))], **options)


def test_several_groups_are_refused():
    groups = [{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(2))]}]
    with pytest.raises(UsageError, match="there are 2 groups of parameters; legal is one"):
        QuasiNewton(groups)


def test_more_parameters_than_a_matrix_can_serve_are_refused_with_its_bytes():
    p = nn.Parameter(torch.zeros(LARGEST + 1, dtype=torch.float64))
    with pytest.raises(UsageError, match="20,001 parameters need a matrix of 3,200,320,008 bytes; .*: take lbfgs"):
        QuasiNewton([p])
    QuasiNewton([nn.Parameter(torch.zeros(LARGEST))])  # no matrix yet


def test_the_endings_are_sentences():
    assert all(ending.value[0].isupper() and ending.value.endswith(".") for ending in Ending)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda loss: torch.stack([loss, loss]), r"the closure returned shape \(2,\); legal is the loss"),
        (lambda loss: None, "the closure returned NoneType; legal is the loss"),
    ],
)
def test_a_closure_that_returns_no_number_is_refused(spoil, sentence):
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def closure():
        loss = w.square().sum()
        loss.backward()
        return spoil(loss.detach())

    with pytest.raises(UsageError, match=sentence):
        QuasiNewton([w]).step(closure)
    assert w.tolist() == [1.0, 2.0]


def test_a_closure_without_a_backward_pass_is_refused():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    with pytest.raises(UsageError, match="left no gradient in any parameter: call backward"):
        QuasiNewton([w]).step(lambda: w.square().sum())
    assert w.tolist() == [1.0, 2.0]
