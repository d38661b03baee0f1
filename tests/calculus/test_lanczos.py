"""Krylov bases, ends and densities of spectra, against dense eigenvalues."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.calculus import extreme_eigenvalues, hessian, lanczos, spectral_density


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def with_spectrum(values, seed=0):
    Q = torch.linalg.qr(drawn(len(values), len(values), seed=seed))[0]
    return Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.mT


class Counted:
    """A dense matrix that counts its products."""

    def __init__(self, A):
        self.A, self.shape, self.dtype, self.device, self.products = A, A.shape, A.dtype, A.device, 0

    def __matmul__(self, other):
        self.products += 1
        return self.A @ other


def tridiagonal(found):
    return torch.diag(found.diagonal) + torch.diag(found.off_diagonal, 1) + torch.diag(found.off_diagonal, -1)


def check(found, A, tolerance=1e-10):
    """Hold a basis to its definition."""
    Q, T = found.basis, tridiagonal(found)
    k, scale = Q.shape[1], float(A.abs().max()) + 1e-300
    assert T.shape == (k, k)
    assert float((Q.mT @ Q - torch.eye(k, dtype=Q.dtype)).abs().max()) < tolerance
    left = A @ Q - Q @ T
    left[:, -1] -= found.residual if not found.exhausted else 0
    assert float(left.abs().max()) < tolerance * scale
    if not found.exhausted:
        assert float(found.residual.norm()) == found.residual_norm
        assert float((Q.mT @ found.residual).abs().max()) < tolerance * scale


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 12), k=st.integers(1, 15), rank=st.integers(0, 12), seed=st.integers(0, 1000))
def test_the_operator_is_tridiagonal_in_the_basis(p, k, rank, seed):
    A = with_spectrum(torch.linspace(1, 5, p) * (torch.arange(p) < rank), seed)
    found = lanczos(A, drawn(p, seed=seed + 1), k)
    check(found, A)
    assert found.basis.shape[1] <= min(k, p)


@settings(max_examples=20, deadline=None)
@given(p=st.integers(3, 12), count=st.integers(1, 11), seed=st.integers(0, 1000))
def test_two_eigenvalues_are_two_vectors(p, count, seed):
    count = min(count, p - 1)
    A = with_spectrum([-1.0] * count + [2.0] * (p - count), seed)
    start = drawn(p, seed=seed + 1)
    sides = start - (A @ start + start) / 3, (A @ start + start) / 3  # its parts in the two eigenspaces
    found = lanczos(A, sides[0] / sides[0].norm() + sides[1] / sides[1].norm(), p)
    assert found.exhausted
    assert found.basis.shape == (p, 2)
    torch.testing.assert_close(found.ritz()[0], torch.tensor([-1.0, 2.0], dtype=torch.float64))


def test_a_start_in_an_invariant_space_ends_there():
    A = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    start = torch.zeros(6, dtype=torch.float64)
    start[[1, 4]] = 1.0
    found = lanczos(A, start, 6)
    assert found.exhausted
    assert found.basis.shape == (6, 2)
    values, _, bounds = found.ritz()
    torch.testing.assert_close(values, torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert not bounds.any()


def test_with_a_generator_the_basis_goes_on_from_a_new_direction():
    A = torch.diag(torch.tensor([2.0, 2.0, 2.0, 5.0, 5.0], dtype=torch.float64))
    start = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    found = lanczos(A, start, 5, generator=seeded())
    assert found.basis.shape == (5, 5)
    assert float(found.off_diagonal[0]) == 0.0
    check(found, A)
    torch.testing.assert_close(found.ritz()[0], A.diagonal())


def test_a_zero_operator_is_exhausted_at_once():
    found = lanczos(torch.zeros(4, 4, dtype=torch.float64), drawn(4), 3)
    assert found.exhausted
    assert found.basis.shape == (4, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_stay_orthogonal_where_plain_lanczos_loses_them(dtype):
    """Eigenvalues that converge early make the three-term recurrence alone lose orthogonality altogether."""
    A = with_spectrum([*torch.linspace(0, 1, 98).tolist(), 100.0, 1000.0]).to(dtype)
    found = lanczos(A, drawn(100).to(dtype), 60)
    Q = found.basis
    eps = torch.finfo(dtype).eps
    assert float((Q.mT @ Q - torch.eye(60, dtype=dtype)).abs().max()) < 20 * eps
    q, before, plain = Q[:, 0], torch.zeros(100, dtype=dtype), []
    beta = torch.zeros((), dtype=dtype)
    for _ in range(60):
        plain.append(q)
        w = A @ q - beta * before
        w = w - (w @ q) * q
        before, beta = q, w.norm()
        q = w / beta
    lost = torch.stack(plain, 1)
    assert float((lost.mT @ lost - torch.eye(60, dtype=dtype)).abs().max()) > 0.1


def test_an_extended_basis_is_the_longer_one_and_costs_only_what_is_new():
    A = Counted(with_spectrum(torch.linspace(-1, 3, 20)))
    start = drawn(20, seed=1)
    short = lanczos(A, start, 6)
    assert A.products == 6
    longer = short.extend(A, 5)
    assert A.products == 11
    whole = lanczos(A, start, 11)
    assert short.basis.shape == (20, 6)
    assert torch.equal(longer.basis[:, :6], short.basis)
    torch.testing.assert_close(longer.basis, whole.basis)
    torch.testing.assert_close(longer.diagonal, whole.diagonal)
    torch.testing.assert_close(longer.off_diagonal, whole.off_diagonal)
    assert longer.residual_norm == pytest.approx(whole.residual_norm)


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 9), seed=st.integers(0, 1000))
def test_an_eigenvalue_lies_within_the_bound_of_each_ritz_value(k, seed):
    A = with_spectrum(drawn(10, seed=seed).sort()[0].tolist(), seed)
    eigenvalues = torch.linalg.eigvalsh(A)
    found = lanczos(A, drawn(10, seed=seed + 1), k)
    values, s, bounds = found.ritz()
    nearest = (values[:, None] - eigenvalues).abs().min(1).values
    assert bool((nearest <= bounds + 1e-12).all())
    vectors = found.basis @ s
    torch.testing.assert_close((A @ vectors - vectors * values).norm(dim=0), bounds, rtol=1e-6, atol=1e-12)


def test_ends_of_a_spectrum_are_found_by_fewer_products_than_it_is_long():
    A = Counted(with_spectrum([-50.0, -40.0, *torch.linspace(0, 1, 196).tolist(), 70.0, 90.0]))
    found = extreme_eigenvalues(A, 2, generator=seeded())
    torch.testing.assert_close(found.smallest, torch.tensor([-50.0, -40.0], dtype=torch.float64))
    torch.testing.assert_close(found.largest, torch.tensor([70.0, 90.0], dtype=torch.float64))
    assert found.converged
    assert found.products == A.products < 100
    assert float(found.largest_bound.max()) < 1e-6


def test_without_products_enough_the_ends_are_said_not_to_have_converged():
    A = with_spectrum(torch.linspace(0, 1, 200))
    found = extreme_eigenvalues(A, generator=seeded(), most=8)
    assert not found.converged
    assert found.products == 8
    assert 0 < 1.0 - float(found.largest) <= float(found.largest_bound)


@settings(max_examples=20, deadline=None)
@given(p=st.integers(1, 8), data=st.data())
def test_small_operators_have_all_their_eigenvalues_found(p, data):
    k = data.draw(st.integers(1, p))
    A = with_spectrum(data.draw(st.lists(st.sampled_from([-2.0, 0.0, 1.0, 1.5, 4.0]), min_size=p, max_size=p)))
    found = extreme_eigenvalues(A, k, generator=seeded(p))
    eigenvalues = torch.linalg.eigvalsh(A)
    torch.testing.assert_close(found.smallest, eigenvalues[:k], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.largest, eigenvalues[p - k :], atol=1e-6, rtol=0)


def test_ends_of_a_hessian_come_by_products_alone():
    w = drawn(40)
    H = hessian(lambda x: (w * x.cos()).sum() + x.sum() ** 2, drawn(40, seed=1))
    found = extreme_eigenvalues(H, 3, generator=seeded())
    assert H.products == found.products
    eigenvalues = torch.linalg.eigvalsh(H.dense())
    torch.testing.assert_close(found.smallest, eigenvalues[:3], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.largest, eigenvalues[-3:], atol=1e-6, rtol=1e-6)


def test_the_same_generator_gives_the_same_numbers():
    A = with_spectrum(torch.linspace(0, 1, 60))
    first, second = (extreme_eigenvalues(A, generator=seeded(3), most=20) for _ in range(2))
    assert torch.equal(first.largest, second.largest)
    one, other = (spectral_density(A, generator=seeded(3), starts=2, steps=9) for _ in range(2))
    assert torch.equal(one.nodes, other.nodes)


def test_moments_of_the_density_are_those_of_the_spectrum():
    spectrum = torch.linspace(-1, 3, 200, dtype=torch.float64)
    found = spectral_density(with_spectrum(spectrum), generator=seeded(), starts=30, steps=12)
    assert float(found.weights.sum()) == pytest.approx(1.0)
    assert bool((found.weights >= 0).all())
    assert bool((found.nodes.diff() >= 0).all())
    for h in (lambda t: t, lambda t: t**2, torch.exp):
        # the spread of one start is at most the root of 2 / p of the largest |h|
        spread = float(h(spectrum).abs().max()) * math.sqrt(2 / 200 / 30)
        assert abs(found.mean(h) - float(h(spectrum).mean())) < 4 * spread


def test_quadrature_is_exact_for_what_one_start_sees():
    """One start b with k steps gives b^T A^j b / b^T b for all j up to 2 k - 1."""
    A = with_spectrum(torch.linspace(-1, 2, 15))
    found = spectral_density(A, generator=seeded(5), starts=1, steps=4)
    b = torch.randn(15, generator=seeded(5), dtype=torch.float64)
    for j in range(8):
        assert found.mean(lambda t, j=j: t**j) == pytest.approx(
            float(b @ torch.linalg.matrix_power(A, j) @ b / (b @ b))
        )
    beyond = float(b @ torch.linalg.matrix_power(A, 8) @ b / (b @ b))
    assert abs(found.mean(lambda t: t**8) - beyond) > 1e-6 * beyond


def test_the_smooth_density_is_a_density_with_its_mass_where_the_spectrum_is():
    found = spectral_density(with_spectrum([0.0] * 90 + [10.0] * 10), generator=seeded(), starts=20)
    grid = torch.linspace(-3, 13, 3201, dtype=torch.float64)
    density = found.smooth(grid, 0.3)
    step = float(grid[1] - grid[0])
    assert float(density.sum()) * step == pytest.approx(1.0, abs=1e-6)
    assert float(density[grid > 5].sum()) * step == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda A: lanczos(A, drawn(4), 2), r"start has shape \(4,\); legal is \(5,\), as the operator is 5 x 5"),
        (lambda A: lanczos(A, drawn(5) * 0, 2), "start has the norm 0.0; legal is a finite direction other than 0"),
        (lambda A: lanczos(A, drawn(5) / 0, 2), "start has the norm inf"),
        (lambda A: lanczos(A, drawn(5), 0), "k is 0; legal is a whole number of at least 1"),
        (lambda A: lanczos(A[:3], drawn(5), 2), r"the operator has shape \(3, 5\); legal is a symmetric one"),
        (lambda A: extreme_eigenvalues(A, 6, generator=seeded()), "k is 6; legal is 1 to 5, as the operator is 5 x 5"),
        (lambda A: extreme_eigenvalues(A, 2, generator=seeded(), most=3), "most is 3; legal is at least 4 for k = 2"),
        (lambda A: spectral_density(A, generator=seeded(), steps=0), "steps is 0; legal is a whole number of at"),
        (lambda A: spectral_density(A, generator=seeded(), starts=1).smooth(drawn(2), 0.0), "width is 0.0; legal"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence(call, words):
    with pytest.raises(UsageError, match=words):
        call(with_spectrum(torch.linspace(1, 2, 5)))
