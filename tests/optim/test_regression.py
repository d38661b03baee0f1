"""Generalised linear models: the closed forms are those of automatic differentiation, however A is held."""

import numpy as np
import pytest
import torch
from scipy import sparse

from lissome._errors import UsageError
from lissome.optim.arc import Outcome, minimize
from lissome.optim.regression import LOSSES, PENALTIES, regression
from tests.oracles import cubic as truth

N, P = 30, 6


def data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(N, P, generator=generator, dtype=dtype)
    A = torch.where(torch.rand(N, P, generator=generator) < 0.5, A, 0.0)
    A[3] = 0  # an empty row
    return A, torch.rand(N, generator=generator, dtype=dtype).round(), torch.randn(P, generator=generator, dtype=dtype)


def by_hand(loss, penalty, A, b, weight):
    losses = {
        "logistic": lambda z: -b * torch.sigmoid(z).log() - (1 - b) * (1 - torch.sigmoid(z)).log(),
        "robust": lambda z: ((b - z) ** 2 / 2 + 1).log(),
        "squares": lambda z: (b - z) ** 2 / 2,
    }
    penalties = {"ridge": lambda x: x**2 / 2, "saturating": lambda x: x**2 / (1 + x**2)}
    return lambda x: losses[loss](A @ x).mean() + weight * penalties[penalty](x).sum()


FORMS = {
    "dense": lambda A: A,
    "torch csr": lambda A: A.to_sparse_csr(),
    "torch coo": lambda A: A.to_sparse_coo(),
    "scipy csr": lambda A: sparse.csr_array(A.numpy()),
    "scipy csc": lambda A: sparse.csc_matrix(A.numpy()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_closed_forms_are_those_of_autograd(form, loss, penalty):
    A, b, x = data()
    f = by_hand(loss, penalty, A, b, 0.3)
    oracle = regression(FORMS[form](A), b, loss, penalty=penalty, weight=0.3)
    value, g = oracle.gradient(x)
    assert oracle.value(x) == value == pytest.approx(float(f(x)), rel=1e-12)
    torch.testing.assert_close(g, torch.func.grad(f)(x))
    torch.testing.assert_close(oracle.hessian(x), truth.hessian(f, x))
    assert oracle.value(x + 1) == pytest.approx(float(f(x + 1)), rel=1e-12)


@pytest.mark.parametrize("form", ["dense", "scipy csr"])
def test_float32_stays_float32(form):
    A, b, x = data(torch.float32)
    oracle = regression(FORMS[form](A), b)
    assert oracle.gradient(x)[1].dtype == (oracle.hessian(x) @ x).dtype == torch.float32


def test_margins_far_out_stay_finite():
    A, b, x = data()
    oracle = regression(A, b)
    assert oracle.value(1e5 * x) == pytest.approx(float(torch.where(b > 0, (-A @ x), A @ x).relu().mean()) * 1e5)
    assert bool((oracle.hessian(1e5 * x) @ x).isfinite().all())


def test_a_regression_is_minimised():
    A, b, x = data()
    found = minimize(regression(A, b, penalty="saturating", weight=0.01), 5 * x, tolerance=1e-10)
    assert found.outcome is Outcome.CONVERGED
    assert len(found.history) < 30


def test_wrong_arguments_are_sentences():
    A, b, _ = data()
    with pytest.raises(UsageError, match="^unknown loss 'logistics'; .*did you mean 'logistic'"):
        regression(A, b, "logistics")
    with pytest.raises(UsageError, match="^unknown penalty 'l2'"):
        regression(A, b, penalty="l2")
    with pytest.raises(
        UsageError, match=r"^A is torch.float64 of shape \(30, 6\) and b torch.float64 of shape \(29,\)"
    ):
        regression(A, b[1:])
    with pytest.raises(UsageError, match="^A is torch.float64 .* of one floating dtype$"):
        regression(sparse.csr_array(np.asarray(A)), b.float())
