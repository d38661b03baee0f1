"""The tangent kernel and what it foretells of gradient descent, against the descent itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome._vector import functional
from lissome.calculus import Tangent, balance, drift, gram, lanczos, tangent
from lissome.models import MLP
from lissome.recipes.descend import descend
from tests.oracles import tangent as oracle


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def linear(n=6, p=9, seed=0):
    """A linear residual: J = A everywhere, so that the prediction is exact."""
    A, b = drawn(n, p, seed=seed), drawn(n, seed=seed + 1)
    return lambda x: A @ x - b, torch.zeros(p, dtype=torch.float64), A @ A.mT, -b


def network(n=7, width=5):
    """A residual that is no linear function of its numbers."""
    points, values = drawn(n, 2), drawn(n, seed=3)
    net = MLP(2, width=width, depth=2, generator=seeded()).double()
    return functional(lambda model: model(points)[:, 0] - values, net)


of = Tangent.of


# the spectrum


def test_the_spectrum_is_that_of_the_kernel_row_by_row():
    def r(x):
        return torch.stack([x[0] * x[1], x[1].sin(), x[2] ** 3, x.sum()])

    x = drawn(5)
    found, K = tangent(r, x), oracle.kernel(r, x)
    eigenvalues, vectors = torch.linalg.eigh(K)
    torch.testing.assert_close(found.eigenvalues, eigenvalues, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((found.vectors.mT @ vectors).abs(), torch.eye(4).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.diagonal, K.diagonal())
    assert found.smallest == float(found.eigenvalues[0])
    assert found.condition == pytest.approx(float(eigenvalues[-1] / eigenvalues[0]))
    assert found.step == pytest.approx(2 / float(eigenvalues[-1]))


def test_a_network_by_names_has_the_spectrum_of_its_gram():
    r, theta = network()
    found, K = tangent(r, theta), gram(r, theta).dense()
    torch.testing.assert_close(found.vectors @ torch.diag(found.eigenvalues) @ found.vectors.mT, K)


def test_single_precision_is_taken_apart_in_double():
    r, theta = network()
    single = tangent(
        lambda x: r({k: v.double() for k, v in x.items()}).float(), {k: v.float() for k, v in theta.items()}
    )
    assert single.eigenvalues.dtype == single.vectors.dtype == single.diagonal.dtype == torch.float64
    torch.testing.assert_close(single.eigenvalues, tangent(r, theta).eigenvalues, rtol=1e-4, atol=1e-5)


def test_more_rows_than_numbers_leave_eigenvalues_at_rounding():
    """Rank 3 of 8: five eigenvalues are 0, and come as they come; a negative one makes the condition infinite."""
    r, x, _, r0 = linear(8, 3)
    found = tangent(r, x)
    assert float(found.eigenvalues[:5].abs().max()) < 1e-13 * found.largest
    assert found.condition == (math.inf if found.smallest <= 0 else found.largest / found.smallest)
    assert of(torch.diag(torch.tensor([-1e-16, 1.0]).double())).condition == math.inf
    # what lies in those directions stays for ever
    A = drawn(8, 3)
    left = float((r0 - A @ torch.linalg.lstsq(A, r0[:, None]).solution[:, 0]).norm())
    far = float(found.predict(r0, found.step / 2, 3000)[-1])
    assert far == pytest.approx(left, rel=1e-9)
    assert found.steps_to(r0, found.step / 2, 0.5 * left / float(r0.norm())) is None


def test_a_kernel_of_nothing_allows_any_step():
    found = of(torch.zeros(2, 2).double())
    assert (found.step, found.stochastic_step(1), found.condition) == (math.inf, math.inf, math.inf)


def test_too_many_rows_are_refused_with_the_other_way():
    with pytest.raises(UsageError, match="has 6 rows, more than limit=5: take fewer points, .* extreme_eigenvalues"):
        tangent(*linear()[:2], limit=5)


# what it foretells


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 7), p=st.integers(1, 9), seed=st.integers(0, 99), part=st.floats(0.05, 1.4))
def test_the_prediction_is_the_descent_on_the_linear_system(n, p, seed, part):
    _, _, K, r0 = linear(n, p, seed)
    found = of(K)
    step = part * found.step
    torch.testing.assert_close(found.predict(r0, step, 40), oracle.descent(K, r0, step, 40), rtol=1e-7, atol=1e-9)


def test_a_krylov_space_foretells_what_the_whole_kernel_does():
    """30 Ritz values of 60 rows: the first 2 * 30 powers of K are exact in it, and later ones nearly so."""
    _, _, K, r0 = linear(60, 90)
    values, s, _ = lanczos(K, r0, 30).ritz()
    part, first = Tangent(values, s, K.diagonal()), torch.zeros(30).double()
    first[0] = r0.norm()
    whole, step = of(K), 0.9 * of(K).step
    torch.testing.assert_close(part.predict(first, step, 29), whole.predict(r0, step, 29), rtol=1e-10, atol=0)
    torch.testing.assert_close(part.predict(first, step, 300), whole.predict(r0, step, 300), rtol=1e-2, atol=0)
    assert part.stochastic_step(4) == pytest.approx(whole.stochastic_step(4), rel=1e-9)


def test_for_a_linear_residual_the_prediction_is_what_is_measured():
    r, x, _, r0 = linear()
    found = tangent(r, x)
    step = 0.9 * found.step
    measured, _ = descend(r, x, step=step, steps=300)
    torch.testing.assert_close(measured, found.predict(r0, step, 300), rtol=1e-10, atol=1e-10)


def test_a_prediction_goes_far_without_leaving_the_exponents():
    found = of(torch.diag(torch.tensor([1e-8, 1.0]).double()))
    r0 = torch.ones(2).double()
    assert float(found.predict(r0, 1.0, 1000)[-1]) == pytest.approx(1 - 1e-5, rel=1e-8)
    assert float(found.predict(r0, 3.0, 5000)[-1]) == math.inf
    assert found.predict(torch.zeros(2).double(), 1.0, 3).tolist() == [0.0] * 4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), part=st.floats(0.1, 1.3), factor=st.floats(0.05, 1.0))
def test_the_steps_to_a_factor_are_the_first_that_reach_it(seed, part, factor):
    _, _, K, r0 = linear(4, 6, seed)
    found = of(K)
    step, most = part * found.step, 400
    norms = found.predict(r0, step, most)
    there = (norms <= factor * norms[0]).nonzero()
    assert found.steps_to(r0, step, factor, most) == (int(there[0]) if len(there) else None)


def test_steps_are_counted_to_a_thousand_million_and_then_given_up():
    found = of(torch.diag(torch.tensor([1e-8, 1.0]).double()))
    r0 = torch.ones(2).double()
    expected = math.ceil(math.log(0.1 * math.sqrt(2)) / math.log1p(-1e-8))
    assert found.steps_to(r0, 1.0, 0.1) == pytest.approx(expected, abs=2)
    assert found.steps_to(r0, 1.0, 0.1, 10**6) is None
    assert found.steps_to(r0, 1.0, 1.0) == 0
    assert found.steps_to(torch.zeros(2).double(), 1.0, 0.1) == 0


def test_the_theorems_bound_lies_above_the_prediction_and_falls_with_the_smallest_eigenvalue():
    _, _, K, r0 = linear(5, 40)
    found = of(K)
    bound, predicted = (f(r0, found.step / 2, 100) for f in (found.bound, found.predict))
    assert bool((predicted <= bound + 1e-12).all())
    expected = float(r0.norm()) * (1 - found.step / 2 * found.smallest / 2) ** 50
    assert float(bound[-1]) == pytest.approx(expected, rel=1e-12)


# SGD


def test_the_oracles_of_sgd_agree():
    K, r0 = drawn(3, 5) @ drawn(3, 5).mT, drawn(3, seed=2)
    torch.testing.assert_close(oracle.mean_squares(K, r0, 0.03, 4, 1), oracle.brute_mean_squares(K, r0, 0.03, 4))


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sgd_is_stable_in_the_mean_square_just_below_its_step_and_not_well_above(batch, seed):
    _, _, K, r0 = linear(6, 12, seed)
    step = of(K).stochastic_step(batch)
    below = oracle.mean_squares(K, r0, 0.9 * step, 200, batch)
    assert bool((below[1:] < below[:-1]).all())
    above = oracle.mean_squares(K, r0, 4 * step, 200, batch)
    assert float(above[-1]) > 1e3 * float(above[0])


def test_a_larger_eigenvalue_than_its_own_may_be_given_for_the_step_of_sgd():
    K = torch.diag(torch.tensor([1.0, 3.0]).double())
    part = Tangent(torch.ones(1).double(), torch.eye(1).double(), K.diagonal())
    assert part.stochastic_step(4, 3.0) == of(K).stochastic_step(4) < part.stochastic_step(4)


def test_with_all_rows_again_and_again_its_step_nears_that_of_the_full_gradient():
    _, _, K, _ = linear()
    found = of(K)
    steps = [found.stochastic_step(batch) for batch in (1, 5, 50, 10**9)]
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(2 / (6 * float(K.diagonal().max())))
    assert steps[-1] == pytest.approx(found.step)


def test_sgd_on_few_rows_reaches_zero_below_its_step_and_diverges_above():
    r, x, K, _ = linear(6, 30)
    step = of(K).stochastic_step(2)
    good, _ = descend(r, x, step=0.9 * step, steps=1500, batch=2, generator=seeded())
    bad, _ = descend(r, x, step=20 * step, steps=1500, batch=2, generator=seeded())
    assert float(good[-1]) < 1e-6 * float(good[0])
    assert float(bad[-1]) == math.inf


# the descent


def test_a_descent_is_the_one_written_out():
    r, theta = network()
    norms, end = descend(r, theta, step=0.05, steps=5)
    w = {name: value.clone().requires_grad_() for name, value in theta.items()}
    expected = []
    for _ in range(6):
        value = r(w)
        expected.append(float(value.detach().norm()))
        slopes = torch.autograd.grad(0.5 * value.square().sum(), list(w.values()))
        now = w
        w = {k: (v - 0.05 * g).detach().requires_grad_() for (k, v), g in zip(w.items(), slopes, strict=True)}
    torch.testing.assert_close(norms, torch.tensor(expected).double())
    for name, value in end.items():
        torch.testing.assert_close(value, now[name].detach())
        assert not value.requires_grad


def test_few_rows_are_those_that_the_generator_draws_scaled_by_n_over_b():
    r, x, _, _ = linear()
    _, end = descend(r, x, step=0.01, steps=1, batch=4, generator=seeded(5))
    rows = torch.randint(6, (4,), generator=seeded(5))
    A = torch.func.jacrev(r)(x)
    torch.testing.assert_close(end, x - 0.01 * 6 / 4 * sum(A[i] * r(x)[i] for i in rows.tolist()))
    again = [descend(r, x, step=0.01, steps=9, batch=2, generator=seeded(1))[0] for _ in range(2)]
    assert torch.equal(*again)


def test_a_descent_that_diverges_ends_in_infinities():
    seen = []
    norms, end = descend(
        lambda x: x**3 - 1, torch.full((2,), 3.0), step=10.0, steps=50, tick=lambda k, norm: seen.append((k, norm))
    )
    assert norms.shape == (51,)
    assert bool(norms[0].isfinite())
    first = int((~norms.isfinite()).nonzero()[0])
    assert bool((norms[first:] == math.inf).all())
    assert [k for k, _ in seen][: first - 1] == list(range(1, first))
    assert bool(end.isfinite().all())
    with pytest.raises(RunError, match="not finite at x"):
        descend(lambda x: x.log(), -torch.ones(2), step=1.0, steps=1)


# kernels beside each other


def test_the_drift_is_the_relative_change():
    K = drawn(4, 4)
    assert drift(K, K) == 0.0
    assert drift(K, 1.25 * K) == pytest.approx(0.25)


def test_balanced_rows_move_at_one_pace():
    """Weighted by the balance, the rows outside have the mean square slope of those inside."""
    inside, outside = drawn(5).square(), drawn(3, seed=1).square()
    assert float((balance(inside, outside) * outside).mean()) == pytest.approx(float(inside.mean()))
    assert balance(inside, torch.zeros(2)) == math.inf


# what is refused


def test_what_does_not_fit_is_a_sentence():
    found, r0 = of(torch.eye(2).double()), torch.ones(2).double()
    r, x, _, _ = linear()
    for call, words in (
        (lambda: found.predict(torch.ones(3), 1.0, 1), r"residual has shape \(3,\); legal is \(2,\), one for each row"),
        (lambda: found.predict(r0 * math.nan, 1.0, 1), "residual holds numbers that are not finite; legal are finite"),
        (lambda: found.steps_to(r0 * math.nan, 1.0, 0.1), "residual holds numbers that are not finite"),
        (lambda: found.bound(r0 / 0, 1.0, 1), "residual holds numbers that are not finite"),
        (lambda: tangent(lambda x: x[:0], x), "r has 0 rows; legal is at least one"),
        (lambda: found.predict(r0, 0.0, 1), "step is 0.0; legal is a number above 0"),
        (lambda: found.bound(r0, math.nan, 1), "step is nan; legal is a number above 0"),
        (lambda: found.predict(r0, 1.0, -1), "steps is -1; legal is a whole number of at least 0"),
        (lambda: found.steps_to(r0, 1.0, 0.0), "factor is 0.0; legal is a number above 0"),
        (lambda: found.stochastic_step(0), "batch is 0; legal is a whole number of at least 1"),
        (lambda: drift(torch.eye(2), torch.eye(3)), "have shapes .* legal is one shape"),
        (lambda: balance(torch.ones(0), torch.ones(1)), "inside holds no rows; legal is at least one"),
        (lambda: balance(torch.ones(1), torch.ones(0)), "outside holds no rows"),
        (lambda: descend(r, x, step=1.0, steps=-1), "steps is -1"),
        (
            lambda: descend(r, x, step=1.0, steps=1, batch=0, generator=seeded()),
            "batch is 0; legal is None, or a whole",
        ),
        (lambda: descend(r, x, step=1.0, steps=1, batch=2), "batch is 2; legal is None, or .* with a generator"),
    ):
        with pytest.raises(UsageError, match=words):
            call()
