"""Rows of a linear model: sparse products are those of the dense matrix, whatever the rows look like."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lissome.optim import design as module
from lissome.optim.design import Dense, Sparse, design


def drawn(rows, columns, density, seed, ones=False):
    generator = np.random.default_rng(seed)
    A = np.where(generator.random((rows, columns)) < density, generator.standard_normal((rows, columns)), 0.0)
    return (A != 0).astype(float) if ones else A


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    seed=st.integers(0, 10**6),
    ones=st.booleans(),
    pairs=st.sampled_from([0, 10**6]),
    chunk=st.sampled_from([1, 7, 10**6]),
)
def test_sparse_products_are_the_dense_ones(rows, columns, density, seed, ones, pairs, chunk):
    A = drawn(rows, columns, density, seed, ones)
    x, r = torch.randn(columns, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", pairs)
        patch.setattr(module, "CHUNK", chunk)
        held, dense = Sparse(sparse.csr_array(A)), Dense(torch.from_numpy(A))
        torch.testing.assert_close(held.times(x), dense.times(x))
        torch.testing.assert_close(held.back(r), dense.back(r))
        torch.testing.assert_close(held.sandwich(r), dense.sandwich(r))
        torch.testing.assert_close(held.sandwich(-r), dense.sandwich(-r))


def test_entries_given_twice_count_twice_and_the_callers_matrix_stays_as_it_is():
    twice = sparse.csr_array((np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1]), np.array([0, 3])), shape=(1, 2))
    d = torch.tensor([3.0], dtype=torch.float64)
    torch.testing.assert_close(Sparse(twice).sandwich(d), 3 * torch.tensor([[4.0, 10.0], [10.0, 25.0]]).double())
    assert twice.nnz == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype):
    held = design(torch.eye(3, dtype=dtype).to_sparse_coo())
    assert isinstance(held, Sparse)
    assert held.dtype == held.sandwich(torch.ones(3, dtype=dtype)).dtype == dtype
