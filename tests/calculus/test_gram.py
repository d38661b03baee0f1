"""The two Gram matrices of a Jacobian: Gauss-Newton and the tangent kernel."""

import sys
import warnings

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome.calculus import gauss_newton, gram, hessian, jacobian
from tests.calculus.functions import drawn, wavy
from tests.oracles import curvature as oracle


@settings(max_examples=15, deadline=None)
@given(M=st.integers(1, 6), p=st.integers(1, 6), kind=st.sampled_from(["none", "diagonal", "full"]))
def test_gauss_newton_weighs_the_residual(M, p, kind):
    A, x = drawn(M, p), drawn(p, seed=1)

    def r(x):
        return (A @ x).sin()

    J = oracle.jacobian(r, x)
    full = drawn(M, M, seed=2)
    W = {"none": torch.eye(M, dtype=torch.float64), "diagonal": torch.diag(drawn(M)), "full": full + full.mT}[kind]
    weight = {"none": None, "diagonal": W.diagonal(), "full": W}[kind]
    G = gauss_newton(r, x, weight=weight, scale=0.5)
    V = drawn(p, 9, seed=3)
    torch.testing.assert_close(G @ V, 0.5 * J.mT @ W @ J @ V)
    torch.testing.assert_close(G.dense(), 0.5 * J.mT @ W @ J)


def test_gauss_newton_of_a_linear_residual_is_the_hessian_of_its_mean_square():
    A, x = drawn(7, 4), drawn(4, seed=1)
    H = hessian(lambda x: (A @ x - 1).square().mean(), x)
    torch.testing.assert_close(gauss_newton(lambda x: A @ x - 1, x, scale=2 / 7).dense(), H.dense())


def test_the_tangent_kernel_shares_its_spectrum_with_gauss_newton():
    A, x = drawn(3, 5), drawn(5, seed=1)
    kernel, matrix = gram(lambda x: (A @ x).tanh(), x).dense(), gauss_newton(lambda x: (A @ x).tanh(), x).dense()
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix)[-3:], torch.linalg.eigvalsh(kernel))


def test_gram_matrices_whose_jacobian_is_too_large_are_made_by_columns(monkeypatch):
    A, x = drawn(3, 5), drawn(5, seed=1)
    J = oracle.jacobian(lambda x: (A @ x).tanh(), x)
    monkeypatch.setattr(sys.modules[gram.__module__], "DENSE_NUMBERS", 14)
    for make, matrix in ((gram, J @ J.mT), (gauss_newton, J.mT @ J)):
        operator = make(lambda x: (A @ x).tanh(), x)
        torch.testing.assert_close(operator.dense(), matrix)
        assert operator.products == len(matrix)


def test_single_precision_stays_single():
    x = drawn(4).float()
    H = hessian(wavy, x)
    assert (H @ x).dtype == H.dense().dtype == H.dtype == torch.float32
    torch.testing.assert_close(H.dense().double(), oracle.hessian(wavy, x.double()), rtol=1e-4, atol=1e-4)


def test_one_operation_without_a_rule_for_columns_is_looped_over_in_silence():
    """torch warns where it loops over one operation inside vmap; that is no news to the user."""
    q = {"q": drawn(1, 1, 3, 4)}
    J = jacobian(lambda x: nn.functional.scaled_dot_product_attention(x["q"], x["q"], x["q"]).reshape(-1), q)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _ = J.T @ drawn(12, 9)
    assert not heard
