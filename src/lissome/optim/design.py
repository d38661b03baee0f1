r"""The rows a_i of a linear model, and the three products that are asked of them.

A^T diag(d) A of a sparse A is two products too: with K (p^2, N) holding a_ij a_ik, j > k, in column i, what lies below
its diagonal is K d, and the diagonal is that of squares, (A * A)^T d. Where rows have 12 entries K has some 70 a row;
made once in less than the time of one product of two sparse matrices, it then answers ten times as fast as such a
product: in 3 ms in place of 32 for 32,560 x 122, in 8 in place of 78 for 49,749 x 300 (one thread).
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lissome._errors import UsageError

PAIRS = 50_000_000  # entries of K, 12 bytes each
CHUNK = 50_000  # entries of K that are made at once


class Design(Protocol):
    """What is asked of A (N, p): A x, A^T r and A^T diag(d) A."""

    shape: tuple[int, int]
    dtype: torch.dtype

    def times(self, x: Tensor) -> Tensor:
        """Return A x (N,)."""
        ...

    def back(self, r: Tensor) -> Tensor:
        """Return A^T r (p,)."""
        ...

    def sandwich(self, d: Tensor) -> Tensor:
        """Return A^T diag(d) A (p, p) for d (N,)."""
        ...


def design(A: Any) -> Design:
    """Return A, a dense or sparse tensor or a matrix of scipy.sparse, as a design.

    Raises:
        UsageError: something else, not two-dimensional, or not of float32 or float64.
    """
    if not (isinstance(A, Tensor) or sparse.issparse(A)) or A.ndim != 2:
        what = f"of {A.ndim} dimensions" if isinstance(A, Tensor) else f"a {type(A).__name__}"
        raise UsageError(f"A is {what}; legal is a tensor (N, p), or a matrix of scipy.sparse")
    if str(A.dtype).removeprefix("torch.") not in ("float32", "float64"):
        raise UsageError(f"A is {A.dtype}; legal are float32 and float64")
    if not isinstance(A, Tensor):
        return Sparse(A)
    if A.layout == torch.strided:
        return Dense(A)
    coo = A.to_sparse_coo().coalesce()
    row, column = coo.indices().numpy()
    return Sparse(sparse.csr_array((coo.values().numpy(), (row, column)), shape=tuple(A.shape)))


class Dense:
    """A as a tensor."""

    def __init__(self, A: Tensor):
        self.A, self.shape, self.dtype = A, (A.shape[0], A.shape[1]), A.dtype

    def times(self, x: Tensor) -> Tensor:
        """Return A x."""
        return self.A @ x

    def back(self, r: Tensor) -> Tensor:
        """Return A^T r."""
        return self.A.mT @ r

    def sandwich(self, d: Tensor) -> Tensor:
        """Return A^T diag(d) A."""
        return self.A.mT @ (d[:, None] * self.A)


class Sparse:
    """A as rows of scipy.sparse, whose products beat torch's."""

    def __init__(self, A: Any):
        self.A: Any = sparse.csr_array(A)  # scipy's own types are loose
        if not self.A.has_canonical_format:
            self.A = self.A.copy()  # the caller's stays as it is
            self.A.sum_duplicates()
        self.transposed: Any = self.A.T  # by columns: a view
        self.counts = np.diff(self.A.indptr)
        self.pairs = int((self.counts.astype(np.int64) * (self.counts - 1) // 2).sum())  # entries of K
        self.shape = (self.A.shape[0], self.A.shape[1])
        self.dtype = torch.from_numpy(self.A.data[:0]).dtype

    def times(self, x: Tensor) -> Tensor:
        """Return A x."""
        return torch.from_numpy(self.A @ x.numpy())

    def back(self, r: Tensor) -> Tensor:
        """Return A^T r."""
        return torch.from_numpy(self.transposed @ r.numpy())

    def sandwich(self, d: Tensor) -> Tensor:
        """Return A^T diag(d) A."""
        if self.pairs <= PAIRS:
            order, pairs, squares = self._pairs
            lower = torch.from_numpy(pairs @ d.numpy()[order]).view(self.shape[1], self.shape[1])
            B = lower + lower.mT
            B.diagonal().add_(torch.from_numpy(squares @ d.numpy()))
            return B
        weighted = self.A.data * np.repeat(d.numpy(), self.counts)
        scaled = sparse.csr_array((weighted, self.A.indices, self.A.indptr), shape=self.A.shape)
        back: Any = sparse.csr_array(self.transposed)
        return torch.from_numpy((back @ scaled).toarray())

    @cached_property
    def _pairs(self) -> tuple[Any, Any, Any]:
        """Return the order in which K takes the rows, those of one length together, K, and (A * A)^T."""
        width, short = self.shape[1], self.counts.astype(np.min_scalar_type(int(self.counts.max(initial=0))))
        order = np.argsort(short, kind="stable")  # by digits where they are few
        counts = self.counts[order]
        ends = np.concatenate([[0], np.cumsum(counts * (counts - 1) // 2)])
        where = np.empty(ends[-1], np.int32 if max(width * width, ends[-1]) < 2**31 else np.int64)
        values = np.ones(ends[-1], self.A.data.dtype)
        alike, sorted_ = bool((self.A.data == 1).all()), self.A[order]
        columns, numbers = sorted_.indices.astype(where.dtype), sorted_.data
        lefts, rights = np.tril_indices(int(counts[-1]) if len(counts) else 0, -1)
        begins = np.flatnonzero(np.diff(counts, prepend=-1))  # of the rows of each length
        for begin, end in itertools.pairwise([*begins, len(counts)]):
            count, at = int(counts[begin]), slice(sorted_.indptr[begin], sorted_.indptr[end])
            j, k = (each[: count * (count - 1) // 2] for each in (lefts, rights))  # the first pairs are those of fewer
            # a few rows at a time: new memory is dearer than the work
            step = max(1, CHUNK // max(1, len(j)))
            of_rows, own = columns[at].reshape(end - begin, count), numbers[at].reshape(end - begin, count)
            for row in range(0, end - begin, step):
                some, place = of_rows[row : row + step], slice(ends[begin + row], ends[min(begin + row + step, end)])
                shape = len(some), len(j)
                # taken with clipping, which no index needs: a third faster than with a check
                first, second = (some * width).take(j, 1, mode="clip"), some.take(k, 1, mode="clip")
                np.add(first, second, out=where[place].reshape(shape))
                if not alike:
                    each = own[row : row + step]
                    first, second = each.take(j, 1, mode="clip"), each.take(k, 1, mode="clip")
                    np.multiply(first, second, out=values[place].reshape(shape))
        pairs = sparse.csc_array((values, where, ends.astype(where.dtype)), shape=(width * width, len(order)))
        return order, pairs, self.transposed if alike else self.transposed.power(2)
