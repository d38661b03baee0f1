"""What a choice of ranks is bound to lose, and where nothing is claimed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissome.adapt import select_ranks
from lissome.adapt.quadratic import Quadratic
from tests.adapt.cases import cases, chosen, few
from tests.oracles import ranks as oracle


def test_gains_on_the_path_alone_give_no_bound():
    A = torch.zeros(6, 6, dtype=torch.float64)
    A[0, 1:] = A[1:, 0] = 1.0
    A[0, 0] = -7.8
    b = torch.zeros(6, dtype=torch.float64)
    nothing = oracle.change(b, A, range(6))
    for rule in ("greedy", "sublora"):
        choice = select_ranks(b, A, 4, rule=rule)
        assert nothing - choice.predicted == pytest.approx(1.1)
    assert nothing - select_ranks(b, A, 4, rule="exhaustive").predicted == pytest.approx(4.0)
    assert "1 - 1/e does not hold: 1 of 6 diagonal entries are negative, this is no minimum" in choice.certificate


@few
@given(case=cases(safe=True, bounded=False))
def test_the_bound_holds_where_it_is_claimed(case):
    choice = case.choose("sublora")
    assert "the bound 1 - 1/e holds:" in choice.certificate
    assert within(case, choice, 1 / math.e)


@few
@given(case=cases(safe=True))
def test_half_is_claimed_where_layers_have_bounds(case):
    choice = case.choose("sublora")
    fraction = 1 / math.e if "the bound 1 - 1/e holds:" in choice.certificate else 1 / 2
    assert fraction != 1 / 2 or "the bound 1/2 holds, 1/2 since layers have bounds" in choice.certificate
    assert within(case, choice, fraction)


@few
@given(case=cases(bounded=False))
def test_no_bound_is_claimed_unless_the_curvature_allows_it(case):
    choice, diagonal = case.choose("sublora"), np.diag(case.A)
    safe = bool((diagonal >= 0).all() and (diagonal / 2 >= case.b).all())
    assert ("1 - 1/e holds" in choice.certificate) == safe
    assert ("1 - 1/e does not hold" in choice.certificate) == (not safe)
    assert not safe or within(case, choice, 1 / math.e)


def within(case, choice, fraction):
    """Say whether the projected model at a choice is near its best set, by looking at all of them."""
    n, A = len(case.b), oracle.projected(case.A)
    best = oracle.change(case.b, A, oracle.without(n, oracle.exhaustive(case.b, A, case.legal)))
    found = oracle.change(case.b, A, oracle.without(n, chosen(choice)))
    return found <= best + fraction * (oracle.change(case.b, A, range(n)) - best) + 1e-9


def test_half_is_all_that_greedy_may_reach_where_layers_have_bounds():
    """Keeping j gains -b_j and the pairs that it is the first to touch; of the first two terms one may stay."""
    b, A = torch.tensor([0.0, -1.0, 0.0]), torch.zeros(3, 3)
    A[0, 2] = A[2, 0] = 1.0
    layers, most = {"pair": 2, "other": 1}, {"pair": 1}
    found, best = (select_ranks(b, A, 2, rule=rule, layers=layers, most=most) for rule in ("sublora", "exhaustive"))
    assert "the bound 1/2 holds" in found.certificate
    nothing = select_ranks(b, A, 0).predicted
    assert (nothing - found.predicted, nothing - best.predicted) == (1.0, 2.0)


@few
@given(case=cases(bounded=False))
def test_submodular_is_no_negative_pair(case):
    n = len(case.b)
    off = case.A[~np.eye(n, dtype=bool)]
    assert oracle.submodular(case.b, case.A) == bool((off >= 0).all())
    model = Quadratic(case.b, (case.A,)).projected()
    assert np.array_equal(model.blocks[0], oracle.projected(case.A))
    assert oracle.submodular(case.b, model.blocks[0])


@few
@given(case=cases(), seed=st.integers(0, 100))
def test_projection_is_the_nearest(case, seed):
    n = len(case.b)
    other = np.random.default_rng(seed).normal(size=(n, n)) + oracle.projected(case.A)
    other = (other + other.T) / 2
    other = np.where(np.eye(n, dtype=bool), other, np.maximum(other, 0.0))
    (found,) = Quadratic(case.b, (case.A,)).projected().blocks
    assert np.linalg.norm(found - case.A) <= np.linalg.norm(other - case.A)


def test_what_was_projected_is_counted():
    A = torch.tensor([[2.0, -3.0, 4.0], [-3.0, 2.0, 0.0], [4.0, 0.0, 2.0]])
    certificate = select_ranks(torch.zeros(3), A, 2, rule="sublora").certificate
    assert certificate.startswith("1 of 3 pairs had negative curvature, 0.6 of the off-diagonal norm, projected to 0;")
    assert certificate.endswith("of the projected model and not of the loss")


def test_a_gradient_above_half_the_curvature_takes_the_bound():
    certificate = select_ranks(torch.tensor([0.75, 0.0]), torch.eye(2), 1, rule="sublora").certificate
    assert certificate.endswith("the bound 1 - 1/e does not hold: A_jj / 2 < b_j for 1 of 2 terms")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("exhaustive", "the best set of the model, which is not the loss"),
        ("swap", "no exchange of one kept and one cut term betters the model, to rounding"),
        ("measured", "no exchange of one kept and one cut term lowers the loss, to rounding"),
        ("reverse", "no bound is known for this rule"),
    ],
)
def test_certificates_of_other_rules(rule, words):
    choice = select_ranks(torch.ones(3), torch.eye(3), 1, rule=rule, loss=lambda gates: gates.sum())
    assert choice.certificate == words
