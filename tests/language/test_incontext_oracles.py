"""What statistics makes of a prompt, held to scipy and scikit-learn one prompt and one position at a time."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, Ridge

from lissome._errors import UsageError
from lissome.language.incontext import affine, lasso, least_squares, prompts
from lissome.language.incontext.regression import RIDGES


def drawn(seed, n, N, d, m=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, N, width, generator=generator, dtype=torch.float64) for width in (d, m))


def by_position(x, y, solve):
    """Tell each place by a solver that is given the rows before it."""
    told = np.zeros(y.shape)
    for n in range(len(x)):
        for i in range(1, x.shape[1]):
            told[n, i] = x[n, i].numpy() @ solve(x[n, :i].numpy(), y[n, :i].numpy())
    return torch.tensor(told)


@given(seed=st.integers(0, 999), d=st.integers(1, 6), N=st.integers(1, 14), m=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_least_squares_is_that_of_minimum_norm(seed, d, N, m):
    x, y = drawn(seed, 2, N, d, m)
    expected = by_position(x, y, lambda a, b: scipy.linalg.lstsq(a, b)[0])
    size = expected.abs().amax(1, keepdim=True).clamp(min=1)
    assert ((least_squares(x, y) - expected).abs() / size).max() < 1e-7


def test_least_squares_bears_repeated_rows_and_empty_dimensions():
    x, y = drawn(0, 2, 12, 4)
    x[:, :, 3] = 0
    x[:, 5], x[:, 7] = x[:, 2], 2 * x[:, 1] - x[:, 0]
    expected = by_position(x, y, lambda a, b: scipy.linalg.lstsq(a, b)[0])
    assert torch.allclose(least_squares(x, y), expected, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_ridge_is_that_of_scikit_learn(ridge):
    x, y = drawn(1, 3, 12, 5)
    expected = by_position(x, y, lambda a, b: Ridge(ridge, fit_intercept=False).fit(a, b).coef_.reshape(1, -1).T)
    assert torch.allclose(least_squares(x, y, ridge), expected, atol=1e-9)
    one = torch.cat([x, torch.ones(3, 12, 1, dtype=torch.float64)], 2)
    expected = by_position(one, y, lambda a, b: Ridge(ridge, fit_intercept=False).fit(a, b).coef_.reshape(1, -1).T)
    assert torch.allclose(affine(x, y, ridge), expected, atol=1e-9)


@pytest.mark.parametrize("penalty", [0.3, 0.05])
def test_lasso_is_that_of_scikit_learn(penalty):
    x, y = drawn(2, 3, 16, 5)

    def solve(a, b):
        return Lasso(penalty, fit_intercept=False, tol=1e-12, max_iter=10**6).fit(a, b[:, 0]).coef_[:, None]

    assert torch.allclose(lasso(x, y, penalty), by_position(x, y, solve), atol=1e-3)


def errors(name, oracle, n=64, **more):
    task = prompts(name, **more)
    batch = task.draw(torch.Generator().manual_seed(3), n, dtype=torch.float64)
    return task.errors(task.oracles[oracle](batch, task.noise), batch)


def test_linear_functions_are_known_from_as_many_examples_as_dimensions():
    found = errors("linear", "least squares", dimension=5, pairs=12)
    assert found[0] == pytest.approx(1, abs=0.4)
    assert (found[5:] < 1e-12).all()
    assert (found[:4] > 1e-3).all()


def test_the_lasso_needs_fewer_examples_than_least_squares_where_weights_are_few():
    more = {"dimension": 12, "pairs": 14, "n": 24}
    few = slice(7, 11)
    assert errors("sparse", "Lasso", **more)[few].mean() < 0.2 * errors("sparse", "least squares", **more)[few].mean()


def test_a_penalty_is_chosen_on_other_prompts():
    batch = prompts("tree", dimension=3, pairs=30).draw(torch.Generator().manual_seed(0), 8)
    oracle = prompts("tree", dimension=3, pairs=30).oracles["affine ridge on x"]
    each = torch.stack([affine(batch["x"], batch["y"][..., None], penalty) for penalty in RIDGES])
    for penalty, wanted in enumerate(each):
        batch["target"][4:] = wanted[4:]  # what the second half finds best is told of the first
        assert torch.equal(oracle(batch, 0.0)[:4], each[penalty][:4])
    one = {name: value[:1] for name, value in batch.items()}
    assert torch.allclose(oracle(one, 0.0), each[0][:1], atol=1e-12)


def test_phi_is_worth_knowing_and_an_affine_function_is_not_enough():
    ridge = errors("representation", "ridge on phi(x)", dimension=6, pairs=24, n=200)
    flat = errors("representation", "affine ridge on x", dimension=6, pairs=24, n=200)
    assert ridge[-1] < 0.01
    assert flat[-1] > 0.1


def test_states_are_told_by_their_lags():
    more = {"dimension": 4, "pairs": 60, "lags": 2, "n": 16}
    right, wrong = errors("ar", "least squares on phi(x)", **more), errors("ar", "least squares on x", **more)
    assert right[-10:].mean() < 0.02
    assert right[-10:].mean() < 0.5 * wrong[-10:].mean()


def test_each_layer_of_a_chain_is_solved_for():
    found = errors("chain", "least squares by layer", dimension=4, pairs=10)
    assert (found[4:] < 1e-10).all()
    assert found[0] > 0.5


@pytest.mark.parametrize("name", ["two-layer", "tree"])
def test_affine_ridge_is_better_than_nothing(name):
    found = errors(name, "affine ridge on x", dimension=4, pairs=60, n=100)
    assert found[-10:].mean() < 0.9


def test_what_is_wrong_is_told():
    x, y = drawn(0, 2, 4, 3)
    for call, text in (
        (lambda: least_squares(x, y[..., 0]), r"x \(2, 4, 3\) and y \(2, 4\) do not fit"),
        (lambda: least_squares(x, y, -1), "ridge is -1; legal are numbers of at least 0"),
        (lambda: lasso(x, y, 0.0), "the penalty of the Lasso is 0.0"),
    ):
        with pytest.raises(UsageError, match=text):
            call()
