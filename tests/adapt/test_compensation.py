"""Kept gates that make up for those that go."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given

from lissome.adapt import select_ranks
from tests.adapt.cases import blocks_of, cases, chosen, few, seeded
from tests.oracles import ranks as oracle


@few
@given(case=cases(blocks=True))
def test_blocks_are_compensated_as_a_block_diagonal_matrix(case):
    assume(solvable(case, chosen(case.choose("reverse"))))
    whole, apart = (case.choose("reverse", hessian, compensate=True) for hessian in (None, blocks_of(case)))
    assert apart.damping == pytest.approx(whole.damping)
    torch.testing.assert_close(apart.gates, whole.gates, rtol=1e-6, atol=1e-6)


@few
@given(case=cases())
def test_compensation_solves_for_the_kept_gates(case):
    plain = case.choose("reverse")
    kept = list(chosen(plain))
    assume(solvable(case, kept))
    choice = case.choose("reverse", compensate=True)
    assert choice.kept == plain.kept
    if choice.damping:
        inner = case.A[np.ix_(kept, kept)]
        start, lowest = 1e-6 * np.abs(np.diag(inner)).mean(), np.linalg.eigvalsh(inner)[0]
        assert lowest + choice.damping / 2 > -1e-9
        assert choice.damping == pytest.approx(start) or lowest + choice.damping / 20 < 1e-9
    truth = oracle.compensated(case.b, case.A, kept, choice.damping) if choice.damping else plain.gates.numpy()
    np.testing.assert_allclose(choice.gates.numpy(), truth, rtol=1e-6, atol=1e-6)
    assert choice.predicted == pytest.approx(case.loss(choice.gates.tolist()), rel=1e-6, abs=1e-6)
    assert choice.predicted <= plain.predicted + 1e-9


def solvable(case, kept):
    """Say whether the kept terms have a curvature, or nothing to compensate."""
    kept, cut = list(kept), list(oracle.without(len(case.b), kept))
    slope = case.b[kept] - case.A[np.ix_(kept, cut)].sum(1)
    return bool(np.diag(case.A)[kept].any()) or not slope.any()


@pytest.mark.parametrize("curvature", [-1.0, -3.0, -0.7])
def test_a_damping_never_just_cancels_a_negative_curvature(curvature):
    A = torch.diag(torch.tensor([curvature, curvature], dtype=torch.float64))
    choice = select_ranks(torch.ones(2, dtype=torch.float64), A, 1, compensate=True)
    assert choice.damping == pytest.approx(-10 * curvature)
    assert choice.values["all"].item() == pytest.approx(1 + 1 / (9 * curvature))


def test_compensated_change_is_the_surgeons_formula():
    drawn = torch.randn(9, 6, generator=seeded(1), dtype=torch.float64)
    A, b = drawn.T @ drawn, torch.randn(6, generator=seeded(2), dtype=torch.float64)
    choice = select_ranks(b, A, 3, compensate=True)
    S, C = list(choice.kept["all"]), list(oracle.without(6, choice.kept["all"]))
    slope = b[S] - A[S][:, C].sum(1)
    formula = -b[C].sum() + A[C][:, C].sum() / 2 - slope @ torch.linalg.solve(A[S][:, S], slope) / 2
    assert choice.predicted == pytest.approx(float(formula), rel=1e-5)
    assert choice.values["all"].tolist() == choice.gates[S].tolist() != [1.0, 1.0, 1.0]


def test_a_compensated_gate_may_be_0_and_its_term_still_stays():
    choice = select_ranks(torch.zeros(2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), 1, compensate=True)
    assert choice.ranks == {"all": 1}
    assert choice.values["all"].abs().max() < 1e-5
