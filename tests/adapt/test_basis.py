"""The change of basis of two factors: the product stays, the moments become diagonal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.adapt.basis import nearest_kronecker, rotation
from tests.adapt.moments import drawn, moment, relative, turned
from tests.contracts.test_adapt import ROUNDING, every_dtype
from tests.oracles import basis as oracle

shapes = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 7))  # out, r, in


def factors(shape, seed, dtype=torch.float64):
    out, r, into = shape
    return drawn(out, r, seed=seed, dtype=dtype), drawn(r, into, seed=seed + 1, dtype=dtype)


def off_diagonal(matrix):
    return float((matrix - torch.diag(matrix.diagonal())).abs().max())


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    inputs=st.booleans(),
    outputs=st.booleans(),
    lost=st.integers(0, 4),
)
def test_the_product_stays_whatever_the_moments(shape, seed, dtype, inputs, outputs, lost):
    (B, A), r = factors(shape, seed, dtype), shape[1]
    M = moment(r, seed + 2, max(0, r - lost)) if inputs else None
    K = moment(r, seed + 3, max(0, r - lost)) if outputs else None
    X = rotation(B, A, inputs=M, outputs=K)
    left, right = turned(B, A, X)
    assert all(bool(part.isfinite().all()) for part in (*X, left, right))
    rounding = 100 * torch.finfo(dtype).eps ** (2 / 3) if M is not None and lost else ROUNDING[dtype] * 100
    assert relative(left @ right, B.double() @ A.double()) < rounding
    assert relative(left.to(dtype) @ right.to(dtype), B.double() @ A.double()) < 3 * rounding


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_both_moments_become_diagonal_largest_first(shape, seed, dtype):
    (B, A), r = factors(shape, seed, dtype), shape[1]
    M, K = moment(r, seed + 2), moment(r, seed + 3)
    X = rotation(B, A, inputs=M, outputs=K)
    y, h = X.back @ M @ X.back.mT, X.forth.mT @ K @ X.forth  # moments of X^-1 y and of X^T h
    scale = y.diagonal().sqrt()  # of each term, by which its two vectors became equally long
    assert off_diagonal(y / scale[:, None] / scale) < 1e-8
    assert off_diagonal(h * scale[:, None] * scale) < 1e-8 * float(h.abs().max() * scale.max() ** 2)
    sizes = y.diagonal() * h.diagonal()  # S^2, which the lengths leave alone
    assert bool((sizes[:-1] >= sizes[1:] * (1 - 1e-8)).all())
    whole = torch.linalg.svdvals(_root(K) @ _root(M)).square()
    torch.testing.assert_close(sizes, whole, rtol=1e-7, atol=1e-10 * float(whole[0]))


def _root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_without_moments_the_terms_are_those_of_the_svd(shape, seed):
    B, A = factors(shape, seed)
    found, truth = oracle.terms(*turned(B, A, rotation(B, A))), oracle.singular_terms(B, A)
    sizes = np.linalg.norm(truth.reshape(len(truth), -1), axis=1)
    apart = np.abs(np.diff(sizes, append=0.0)).min() / sizes[0]  # equal singular values share their vectors
    for k in range(min(len(found), len(truth))):
        assert np.abs(found[k] - truth[k]).max() < 1e-7 * sizes[0] / max(apart, 1e-3)
    assert np.abs(found[len(truth) :]).max(initial=0.0) < 1e-8 * sizes[0]


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_the_two_vectors_of_a_term_are_equally_long(shape, seed):
    B, A = factors(shape, seed)
    M, K = moment(shape[1], seed + 2), moment(shape[1], seed + 3)
    left, right = turned(B, A, rotation(B, A, inputs=M, outputs=K))
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1), rtol=1e-9, atol=1e-12)


def test_the_moments_of_the_factors_are_the_usual_ones():
    B, A = factors((5, 3, 6), 0)
    usual, given = rotation(B, A), rotation(B, A, inputs=A @ A.mT, outputs=B.mT @ B)
    torch.testing.assert_close(usual.forth.abs(), given.forth.abs(), rtol=1e-9, atol=1e-12)


def test_whitening_by_the_inputs_gives_the_best_cut_of_the_outputs():
    """B' y' with y' white: the terms are the principal parts of what the layer adds on these inputs."""
    B, A = factors((6, 4, 5), 3)
    x = drawn(200, 5, seed=9) * torch.tensor([10.0, 3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    y = x @ A.mT
    left, right = turned(B, A, rotation(B, A, inputs=y.mT @ y / len(y)))
    out = x @ (B @ A).mT
    for k in range(1, 4):
        cut = x @ (left[:, :k] @ right[:k]).mT
        best = float(torch.linalg.svdvals(out)[k:].square().sum().sqrt())
        assert float((out - cut).norm()) == pytest.approx(best, rel=1e-8)


@every_dtype
def test_a_direction_that_no_input_reaches_is_neither_lost_nor_blown_up(dtype):
    B, A = factors((5, 3, 6), 1, dtype)
    reached = drawn(50, 3, seed=2)
    reached[:, 1] = 0.0
    X = rotation(B, A, inputs=reached.mT @ reached, outputs=moment(3, 4))
    left, right = turned(B, A, X)
    assert relative(left @ right, B.double() @ A.double()) < 10 * torch.finfo(dtype).eps ** (2 / 3)
    assert float(right.norm(dim=1).max()) < 1e3 * float(A.norm()) * torch.finfo(dtype).eps ** (-1 / 3)


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 5), (2, 5, 3), (3, 4, 1), (1, 3, 6)], ids=str)
def test_ranks_that_are_more_than_the_sides_stay_finite(shape, dtype):
    B, A = factors(shape, 5, dtype)
    left, right = turned(B, A, rotation(B, A))
    assert relative(left @ right, B.double() @ A.double()) < ROUNDING[dtype] * 10
    spare = min(shape[0], shape[2])
    sizes = left.norm(dim=0) * right.norm(dim=1)
    assert float(sizes[spare:].sum()) < 1e-9 * float(sizes[0])


@every_dtype
@pytest.mark.parametrize("zero", ["a column of B", "a row of A", "B", "A", "both"])
def test_factors_that_are_0_in_part_stay_finite(zero, dtype):
    B, A = factors((4, 3, 5), 6, dtype)
    if zero == "a column of B":
        B[:, 1] = 0
    elif zero == "a row of A":
        A[1] = 0
    else:
        B, A = (B * (zero == "A"), A * (zero == "B"))
    for M, K in ((None, None), (moment(3, 7), None), (None, moment(3, 8)), (moment(3, 7), moment(3, 8))):
        X = rotation(B, A, inputs=M, outputs=K)
        left, right = turned(B, A, X)
        assert all(bool(part.isfinite().all()) for part in (*X, left, right))
        assert relative(left @ right, B.double() @ A.double()) < ROUNDING[dtype] * 10


@every_dtype
def test_moments_of_nothing_leave_the_product(dtype):
    B, A = factors((4, 3, 5), 6, dtype)
    none = torch.zeros(3, 3, dtype=torch.float64)
    for M, K in ((none, None), (None, none), (none, none)):
        left, right = turned(B, A, rotation(B, A, inputs=M, outputs=K))
        assert relative(left @ right, B.double() @ A.double()) < ROUNDING[dtype] * 10


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), small=st.sampled_from([1e-30, 1e-12, 1e-6, 1e6, 1e12, 1e30]))
def test_the_size_of_the_moments_does_not_matter(seed, small):
    (B, A), M, K = factors((4, 3, 5), seed), moment(3, seed + 2), moment(3, seed + 3)
    one, other = rotation(B, A, inputs=M, outputs=K), rotation(B, A, inputs=small * M, outputs=K / small)
    for left, right in zip(oracle.terms(*turned(B, A, one)), oracle.terms(*turned(B, A, other)), strict=True):
        assert np.abs(left - right).max() < 1e-6


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        ({"inputs": torch.eye(2)}, r"inputs has shape \(2, 2\); legal is \(3, 3\) for 3 terms"),
        ({"outputs": torch.ones(3)}, r"outputs has shape \(3,\); legal is \(3, 3\)"),
        ({"inputs": torch.full((3, 3), torch.nan)}, "inputs holds numbers that are not finite"),
        ({"outputs": torch.full((3, 3), torch.inf)}, "outputs holds numbers that are not finite"),
    ],
)
def test_moments_that_do_not_fit_are_refused(moments, words):
    with pytest.raises(UsageError, match=words):
        rotation(*factors((4, 3, 5), 0), **moments)


@settings(max_examples=25, deadline=None)
@given(r=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_a_kronecker_product_is_found_again(r, seed):
    K, M = moment(r, seed), moment(r, seed + 1)
    found = nearest_kronecker(torch.from_numpy(oracle.kronecker(K, M)))
    size = float(K.abs().max() * M.abs().max())
    assert np.abs(oracle.kronecker(*found) - oracle.kronecker(K, M)).max() < 1e-11 * size
    share = found[0].trace() / K.trace()
    torch.testing.assert_close(found[0], share * K, rtol=1e-9, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(r=st.integers(2, 3), seed=st.integers(0, 10**6))
def test_no_other_pair_is_nearer(r, seed):
    rows = drawn(2 * r, r * r, seed=seed)
    G = (rows.mT @ rows).reshape(r, r, r, r)
    K, M = nearest_kronecker(G)
    ours = oracle.distance(G, K, M)
    assert ours <= oracle.alternating(G) * (1 + 1e-9)
    for trial in range(20):
        near = [each + 0.05 * drawn(r, r, seed=seed + trial + j) for j, each in enumerate((K, M), 1)]
        far = moment(r, seed + trial + 3), moment(r, seed + trial + 4)
        assert ours <= min(oracle.distance(G, *near), oracle.distance(G, *far))


@settings(max_examples=30, deadline=None)
@given(r=st.integers(1, 4), rows=st.integers(0, 6), seed=st.integers(0, 10**6))
def test_both_factors_are_positive_semidefinite_where_the_matrix_is(r, rows, seed):
    J = drawn(rows, r * r, seed=seed)
    for factor in nearest_kronecker((J.mT @ J).reshape(r, r, r, r)):
        assert torch.equal(factor, factor.mT)
        assert float(torch.linalg.eigvalsh(factor)[0]) >= -1e-9 * float(factor.abs().max() + 1)


def test_the_sign_is_not_lost_where_the_trace_is_0():
    K, M = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64), moment(2, 1)
    found = nearest_kronecker(torch.from_numpy(oracle.kronecker(K, M)))
    assert np.abs(oracle.kronecker(*found) - oracle.kronecker(K, M)).max() < 1e-12
