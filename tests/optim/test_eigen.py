"""Eigenvectors in factors: an orthogonal change of coordinates in which the matrix is diagonal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError
from lissome.optim.eigen import FEW, Factored, eigen


def drawn(n, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return (B + B.mT).to(dtype), torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 3 * FEW), seed=st.integers(0, 10**6))
def test_the_matrix_is_diagonal_in_its_eigenvectors(n, seed):
    B, x = drawn(n, seed)
    values, vectors = eigen(B)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(B), rtol=1e-12, atol=1e-12 * n)
    torch.testing.assert_close(vectors.back(vectors.into(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vectors.back(values * vectors.into(x)), B @ x, rtol=1e-12, atol=1e-12 * n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_lower_half_is_read_and_nothing_is_written(dtype):
    B, x = drawn(2 * FEW, 1, dtype)
    half = B.tril() + torch.full_like(B, float("nan")).triu(1)
    kept = half.clone()
    values, vectors = eigen(half)
    assert isinstance(vectors, Factored)
    assert values.dtype == vectors.into(x).dtype == dtype
    tight = 1e-4 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(vectors.back(values * vectors.into(x)), B @ x, rtol=tight, atol=10 * tight)
    torch.testing.assert_close(half, kept, equal_nan=True, rtol=0, atol=0)


def test_equal_eigenvalues_keep_orthogonal_vectors():
    x = torch.randn(FEW + 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values, vectors = eigen(3 * torch.eye(len(x), dtype=torch.float64))
    assert torch.equal(values, torch.full_like(x, 3.0))
    torch.testing.assert_close(vectors.back(vectors.into(x)), x)


def test_a_matrix_that_is_not_finite_is_refused():
    B, _ = drawn(2 * FEW, 3)
    B[40, 7] = float("nan")
    with pytest.raises(RunError, match="^a matrix whose eigenvectors are wanted is not finite; scale the problem"):
        eigen(B)
