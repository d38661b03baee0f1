"""Bases other than splines: derivatives, mean squares, and sizes that cannot be."""

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome.models import ReLU3
from lissome.models.bases import BASES, ENDLESS, Chebyshev, Fourier, GaussianRBF, Smooth, basis

every_basis = pytest.mark.parametrize("name", list(BASES))


def points(n=40, inputs=2):
    return 4 * torch.rand(n, inputs, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 2


@every_basis
def test_taylor_is_value_slope_and_curvature(name):
    functions, x = basis(name, 2), points().requires_grad_()
    value, slope, curve = functions.taylor(x)
    assert value.shape == (40, functions.size, 2)
    torch.testing.assert_close(functions(x), value, rtol=1e-12, atol=1e-12)
    for k in range(functions.size):
        (first,) = torch.autograd.grad(functions(x)[:, k].sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(first, slope[:, k], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(second, curve[:, k], rtol=1e-10, atol=1e-9)


def test_chebyshev_are_the_polynomials_of_tanh():
    x = points()
    for k in range(1, 7):
        truth = np.polynomial.chebyshev.Chebyshev.basis(k)(np.tanh(x.numpy()))
        torch.testing.assert_close(Chebyshev(6)(x)[:, k - 1], torch.from_numpy(truth))


def test_waves_and_bells_are_those_of_their_formulas():
    x = points().numpy()
    for j in (1, 2, 3):
        torch.testing.assert_close(Fourier(3)(points())[:, j - 1], torch.from_numpy(np.sin(j * np.pi * x / 2)))
        torch.testing.assert_close(Fourier(3)(points())[:, j + 2], torch.from_numpy(np.cos(j * np.pi * x / 2)))
    for j, centre in enumerate((-1, -0.5, 0, 0.5, 1)):
        truth = np.exp(-(((x - centre) / 0.5) ** 2))
        torch.testing.assert_close(GaussianRBF(4)(points())[:, j], torch.from_numpy(truth))


@every_basis
def test_mean_squares_are_integrals(name):
    x = 2 * torch.rand(200_000, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1
    functions = basis(name, 1)
    assert functions.mean_square() == pytest.approx(functions(x).square().mean(0).sum().item(), rel=5e-3)


@pytest.mark.parametrize("call", [lambda: Chebyshev(0), lambda: Fourier(0), lambda: GaussianRBF(-1)])
def test_an_empty_basis_is_told(call):
    with pytest.raises(UsageError, match="a basis of 0 functions; legal are 1 and more"):
        call()


@every_basis
def test_an_order_below_0_is_told(name):
    with pytest.raises(UsageError, match="order is -1; legal are whole numbers, 0 and more"):
        basis(name, 2, order=-1)


def test_what_has_few_derivatives_says_how_many_and_nothing_else_does():
    assert isinstance(ReLU3(), Smooth)
    assert [each.smooth for each in (ReLU3(), basis("bspline", 1, order=4), basis("rbf", 1))] == [2, 3, ENDLESS]
    assert not isinstance(torch.nn.Tanh(), Smooth)
