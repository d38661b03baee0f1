"""Generalised linear models: the closed forms are those of automatic differentiation, however A is held."""

import numpy as np
import pytest
import torch
from scipy import sparse

from lissome._errors import UsageError
from lissome.optim.arc import Outcome, minimize
from lissome.optim.design import Dense
from lissome.optim.oracle import differentiable
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


def test_a_line_costs_no_product_beyond_those_of_its_ends(monkeypatch):
    A, b, x = data()
    oracle, plain = (regression(A, b, penalty="saturating", weight=0.3) for _ in range(2))
    y, products, times = x.flip(0), [], Dense.times
    go = oracle.line(x, y)
    monkeypatch.setattr(Dense, "times", lambda self, x: products.append(x) or times(self, x))
    for beta in (0.0, 0.5, 4.0, -1.0):
        v, f = go(beta)
        slope = oracle.gradient(v)[1]
        assert not products
        torch.testing.assert_close(v, y + beta * (y - x))
        assert f == pytest.approx(plain.value(v), rel=1e-12)
        torch.testing.assert_close(slope, plain.gradient(v)[1])
        products.clear()
    assert oracle.counts.evaluations == 4


def test_an_oracle_without_a_line_evaluates_along_it():
    oracle = differentiable(lambda x: (x**3).sum(), torch.zeros(2))
    v, f = oracle.line(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))(0.5)
    assert v.tolist() == [2.5, 1.5]
    assert f == 2.5**3 + 1.5**3
    assert oracle.counts.evaluations == 1


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


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda A, b: (A[0], b), "A is of 1 dimensions; legal is a tensor"),
        (lambda A, b: ("A", b), "A is a str; legal is a tensor"),
        (lambda A, b: (A.long(), b), "A is torch.int64; legal are float32 and float64"),
        (lambda A, b: (sparse.csr_array(A.numpy() != 0), b), "A is bool; legal are float32 and float64"),
        (lambda A, b: (A, b.tolist()), "b is a list; legal is a tensor"),
        (lambda A, b: (A, b.sum()), r"b torch.float64 of shape \(\); legal is"),
        (lambda A, b: (A[:0], b[:0]), "A has no rows"),
        (lambda A, b: (A, 2 * b - 1), r"b lies in \[-1, 1\]; legal for logistic is \[0, 1\]"),
    ],
)
def test_rows_and_labels_that_do_not_fit_are_sentences(spoil, sentence):
    A, b, _ = data()
    with pytest.raises(UsageError, match=sentence):
        regression(*spoil(A, b))


def test_points_and_weights_that_do_not_fit_are_sentences():
    A, b, x = data()
    with pytest.raises(UsageError, match="^weight is nan; legal is a finite number of at least 0$"):
        regression(A, b, weight=float("nan"))
    for wrong in (x[1:], x.float()):
        with pytest.raises(UsageError, match=r"^x is torch.float.* legal is torch.float64 of \(6,\)$"):
            regression(A, b).value(wrong)
