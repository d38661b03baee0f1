"""Steps of the cubic model and of the ball, held to what defines them."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.optim.cubic import Exact, Krylov
from lissome.optim.eigen import FEW
from lissome.optim.spectrum import Definite, Spectrum
from tests.oracles import cubic as oracle

few = settings(max_examples=40, deadline=None)
# below FEW eigenvectors are formed, above it they are factors, and none are needed where B is positive definite
sizes, seeds = st.one_of(st.integers(1, 9), st.integers(FEW, FEW + 12)), st.integers(0, 10**6)
shifts = st.sampled_from([0.0, -1.0, 100.5])
powers = st.floats(-4, 4)


def symmetric(n, seed, shift=0.0, dtype=torch.float64):
    """Return a matrix with eigenvalues over four decades, its eigenvectors, and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    values = torch.randn(n, generator=generator, dtype=torch.float64)
    values = (values.sign() * 10 ** (4 * torch.rand(n, generator=generator, dtype=torch.float64) - 2) + shift).sort()[0]
    g = torch.randn(n, generator=generator, dtype=torch.float64)
    B = (Q * values) @ Q.mT
    return ((B + B.mT) / 2).to(dtype), Q.to(dtype), g.to(dtype)


class Counting:
    """A matrix that counts its products."""

    def __init__(self, B):
        self.B, self.shape, self.products = B, B.shape, 0

    def __matmul__(self, other):
        self.products += 1
        return self.B @ other


@few
@given(n=sizes, seed=seeds, power=powers, shift=shifts)
def test_exact_step_is_the_global_minimiser_of_the_cubic_model(n, seed, power, shift):
    B, _, g = symmetric(n, seed, shift)
    sigma = 10**power
    step = Exact(B, g).cubic(sigma)
    assert step.multiplier == pytest.approx(sigma * step.norm, rel=1e-12)
    assert oracle.residual(B, g, step.s, step.multiplier) < 1e-11
    assert oracle.lowest(B, step.multiplier) > -1e-12
    assert float(step.s.norm()) == pytest.approx(step.norm, rel=1e-12)
    assert step.cubic == pytest.approx(oracle.cubic(B, g, sigma, step.s), rel=1e-7, abs=1e-12 * step.quadratic)
    assert 0 <= step.share <= 1


@few
@given(n=sizes, seed=seeds, power=powers, shift=shifts)
def test_exact_step_is_the_global_minimiser_in_the_ball(n, seed, power, shift):
    B, _, g = symmetric(n, seed, shift)
    radius = 10**power
    step = Exact(B, g).trust(radius)
    assert step.norm <= radius * (1 + 1e-12)
    assert step.multiplier * (radius - step.norm) <= 1e-9 * radius * (step.multiplier + 1e-300)
    assert oracle.residual(B, g, step.s, step.multiplier) < 1e-11
    assert oracle.lowest(B, step.multiplier) > -1e-12
    assert step.quadratic == step.cubic == pytest.approx(oracle.cubic(B, g, 0.0, step.s), rel=1e-7)


@pytest.mark.parametrize("n", [FEW - 1, FEW])
def test_a_definite_matrix_is_solved_without_eigenvectors_and_to_the_same_numbers(n):
    B, _, g = symmetric(n, 0, 100.5)
    definite = Exact(B, g)
    assert isinstance(definite.answers, Definite) == (n == FEW)
    values, vectors = torch.linalg.eigh(B)
    truth = Spectrum(values, vectors.mT @ g, 2e-16)
    for power in (-6, 0, 6):
        torch.testing.assert_close(definite.cubic(10.0**power).s, vectors @ truth.cubic(10.0**power).y)
        torch.testing.assert_close(definite.trust(10.0**power).s, vectors @ truth.trust(10.0**power).y)
    assert isinstance(Exact(B - 100.5 * torch.eye(n).double(), g).answers, Spectrum)
    assert Exact(B, torch.zeros_like(g)).cubic(1.0).norm == Exact(B, torch.zeros_like(g)).trust(1.0).norm == 0


def test_a_newton_step_that_fits_the_ball_is_taken():
    B, _, g = symmetric(5, 3)
    B = B @ B + torch.eye(5).double()
    step = Exact(B, g).trust(1e6)
    torch.testing.assert_close(step.s, -torch.linalg.solve(B, g))
    assert step.multiplier == 0
    assert step.share == pytest.approx(0, abs=1e-12)


@few
@given(n=st.integers(2, 9), seed=seeds, power=powers, part=st.sampled_from([0.0, 1e-18, 1e-14, 1e-10]))
def test_hard_case_and_all_that_comes_near_it(n, seed, power, part):
    B, Q, g = symmetric(n, seed, shift=-1.0)
    values = torch.linalg.eigvalsh(B)
    assume(float(values[0]) < -1e-3 and float(values[1] - values[0]) > 1e-3)
    g = g - (g @ Q[:, 0]) * Q[:, 0] + part * Q[:, 0]
    sigma = 10**power
    step = Exact(B, g).cubic(sigma)
    assert step.multiplier == pytest.approx(sigma * step.norm, rel=1e-10)
    assert oracle.residual(B, g, step.s, step.multiplier) < 1e-9
    assert oracle.lowest(B, step.multiplier) > -1e-12
    ball = Exact(B, g).trust(sigma)
    assert ball.norm == pytest.approx(sigma, rel=1e-10)


def test_the_hard_case_is_flagged_and_filled_along_the_lowest_eigenvector():
    B = torch.diag(torch.tensor([-2.0, 1.0, 3.0]).double())
    g = torch.tensor([0.0, 1.0, 0.0]).double()
    step = Exact(B, g).cubic(0.5)
    assert step.hard
    assert step.multiplier == 2.0
    assert step.norm == pytest.approx(4.0)
    torch.testing.assert_close(step.s.abs(), torch.tensor([(16 - 1 / 9) ** 0.5, 1 / 3, 0.0]).double())
    assert not Exact(B, g + 1).cubic(0.5).hard
    assert Exact(B, g).trust(4.0).hard


def test_a_negative_eigenvalue_that_is_rounding_makes_no_step():
    values = torch.tensor([-1e-17, 1.0]).double()
    root = Spectrum(values, torch.tensor([0.0, 1.0]).double(), 2e-16).cubic(1e-12)
    assert root.y[0] == 0
    assert not root.hard


@pytest.mark.parametrize("make", [Exact, Krylov])
def test_without_slope_and_negative_curvature_there_is_no_step(make):
    step = make(torch.eye(3), torch.zeros(3)).cubic(1.0)
    assert step.norm == 0
    assert step.cubic == 0
    assert make(torch.zeros(3, 3), torch.zeros(3)).trust(1.0).norm == 0


@pytest.mark.parametrize("make", [Exact, Krylov])
def test_without_curvature_the_step_follows_the_slope(make):
    g = torch.tensor([3.0, 4.0]).double()
    step = make(torch.zeros(2, 2).double(), g).cubic(0.2)
    torch.testing.assert_close(step.s, -g)
    torch.testing.assert_close(make(torch.zeros(2, 2).double(), g).trust(10.0).s, -2 * g)


@few
@given(n=st.integers(1, 9), seed=seeds, power=powers)
def test_exact_and_krylov_agree_in_the_whole_space(n, seed, power):
    B, _, g = symmetric(n, seed)
    sigma = 10**power
    whole = Exact(B, g)
    assert Krylov(B, g, n, theta=1e-12).cubic(sigma).cubic == pytest.approx(whole.cubic(sigma).cubic, rel=1e-8)
    assert Krylov(B, g, n, theta=1e-12).trust(sigma).cubic == pytest.approx(whole.trust(sigma).cubic, rel=1e-8)


@few
@given(n=st.integers(2, 30), seed=seeds, power=powers, size=st.integers(1, 6))
def test_model_decrease_is_at_least_the_cauchy_points(n, seed, power, size):
    B, _, g = symmetric(n, seed)
    sigma = 10**power
    least = oracle.cauchy(B, g, sigma)
    assert Exact(B, g).cubic(sigma).cubic >= least * (1 - 1e-9)
    assert Krylov(B, g, size).cubic(sigma).cubic >= least * (1 - 1e-9)


@few
@given(n=st.integers(3, 40), seed=seeds, power=st.floats(-2, 2), size=st.integers(1, 40))
def test_the_residual_is_known_without_the_step(n, seed, power, size):
    B, _, g = symmetric(n, seed)
    step = Krylov(B, g, size).cubic(10**power)
    true = float((g + B @ step.s + step.multiplier * step.s).norm())
    scale = float(g.norm() + B.norm() * step.norm)
    assert step.residual == pytest.approx(true, rel=1e-6, abs=1e-11 * scale)


def test_a_basis_grows_until_the_residual_is_small():
    B, _, g = symmetric(60, 1)
    B = B @ B + torch.eye(60).double()
    operator = Counting(B)
    step = Krylov(operator, g, theta=0.01).cubic(10.0)
    assert step.residual <= 0.01 * min(1, step.norm) * float(g.norm())
    assert operator.products < 50
    assert Krylov(B, g, 2).cubic(10.0).residual > step.residual


def test_other_steps_cost_no_product():
    B, _, g = symmetric(60, 1)
    operator = Counting(B)
    basis = Krylov(operator, g)
    basis.cubic(1.0)
    spent = operator.products
    for sigma in (100.0, 1e-3):
        assert basis.cubic(sigma).cubic > 0
        assert basis.trust(sigma).quadratic > 0
    basis.norm()
    assert operator.products == spent <= 50


def test_the_basis_stays_orthogonal_and_norm_is_nearly_that_of_the_matrix():
    values = torch.logspace(-8, 8, 80).double()
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(80, 80, generator=generator).double())
    B = (Q * values) @ Q.mT
    basis = Krylov(B, Q.sum(1), theta=1e-12)
    basis.cubic(1e-6)
    V = basis.basis[: basis.k]
    assert basis.k == 50
    torch.testing.assert_close(V @ V.mT, torch.eye(50).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(V @ B @ V.mT, basis.T, rtol=0, atol=1e-6)
    assert basis.norm() == pytest.approx(1e8, rel=1e-3)


def test_breakdown_ends_the_basis_and_a_random_vector_goes_on():
    B = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0]).double())
    g = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).double()
    step = Krylov(B, g).cubic(1.0)
    assert step.residual < 1e-12
    assert step.cubic == pytest.approx(Exact(B, g).cubic(1.0).cubic, rel=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-13])
def test_a_saddle_is_left_although_the_slope_does_not_show_the_way(size):
    B = torch.diag(torch.linspace(1, 2, 30).double())
    B[29, 29] = -1.0
    g = torch.zeros(30).double()
    g[:3] = size
    step = Krylov(B, g).cubic(1.0)
    assert step.curvature < -0.5 * step.norm**2
    assert step.cubic > 0.1


def test_random_vectors_come_from_the_generator_alone():
    B, g = torch.diag(torch.linspace(-1, 1, 40)), torch.zeros(40)
    first, again = (Krylov(B, g, generator=torch.Generator().manual_seed(4)).cubic(1.0).s for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, Krylov(B, g, generator=torch.Generator().manual_seed(5)).cubic(1.0).s)


@pytest.mark.parametrize("make", [Exact, Krylov])
def test_float32_gives_float32_steps(make):
    B, _, g = symmetric(8, 2, dtype=torch.float32)
    step = make(B, g).cubic(1.0)
    assert step.s.dtype == torch.float32
    assert step.cubic == pytest.approx(Exact(B.double(), g.double()).cubic(1.0).cubic, rel=1e-3)


@pytest.mark.parametrize("make", [Exact, Krylov])
def test_shapes_that_do_not_fit_are_refused(make):
    with pytest.raises(UsageError, match=r"^B has shape \(3, 3\) and g \(2,\); legal is \(p, p\) beside \(p,\)$"):
        make(torch.eye(3), torch.ones(2))


def test_an_empty_basis_is_refused():
    with pytest.raises(UsageError, match="^the basis may have 0 vectors; legal is at least 1$"):
        Krylov(torch.eye(2), torch.ones(2), 0)
