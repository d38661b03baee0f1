"""Ranks by the measured loss."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lissome._errors import RunError
from lissome.adapt import select_ranks
from tests.adapt.cases import cases, chosen, few, seeded
from tests.oracles import ranks as oracle


def test_measured_takes_infinite_losses_for_the_worst():
    def loss(gates):
        return math.nan if gates[0] == 0 else math.inf if gates[1] == 0 else float(gates.sum())

    assert select_ranks(torch.ones(4), torch.eye(4), 2, rule="measured", loss=loss).kept == {"all": (0, 1)}
    with pytest.raises(RunError, match="^after 2 cuts, the loss is not finite whichever term is cut next"):
        select_ranks(torch.ones(4), torch.eye(4), 1, rule="measured", loss=loss)


def test_measured_evaluates_each_set_once():
    asked = []
    loss = lambda gates: asked.append(tuple(gates.tolist())) or float(gates.sum())  # noqa: E731
    select_ranks(torch.ones(8), torch.eye(8), 4, rule="measured", loss=loss)
    assert len(set(asked)) == len(asked)
    assert 8 + 7 + 6 + 5 <= len(asked) <= 8 + 7 + 6 + 5 + 2 * (1 + 4 * 4)


@few
@given(cases(), st.integers(0, 2**16))
def test_measured_ends_where_no_exchange_lowers_the_loss(case, seed):
    n = len(case.b)
    drawn = torch.rand(2**n, generator=seeded(seed), dtype=torch.float64).tolist()  # any function of sets at all
    assume(case.A.any() or case.b.any())

    def of(kept):
        return drawn[sum(2**i for i in kept)]

    case.loss = lambda gates: of(gates.nonzero().flatten().tolist())
    kept = chosen(case.choose("measured"))
    start = oracle.backward(lambda C, j: of(oracle.without(n, (*C, j))), n, case.legal)
    assert of(kept) <= min(
        of(final) for final in (start, *case.legal) if len({*final} - {*kept}) <= 1 or final == start
    )


def test_measuring_returns_a_copy_that_knows_the_loss():
    A = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    choice = select_ranks(torch.zeros(2, dtype=torch.float64), A, 1)
    after = choice.measure(lambda g: 5.0 + (g - 1) @ A @ (g - 1) / 2)
    assert (choice.before, choice.measured) == (None, None)
    assert after.before == 5.0
    assert after.measured == pytest.approx(choice.predicted) == 1.0
    assert after.seconds > choice.seconds > 0
    assert after.kept == choice.kept
    assert str(after).splitlines() == [
        "reverse keeps 1 of 2 terms: all 1 of 2",
        "change of the loss: predicted 1, measured 1 from 5",
        "no bound is known for this rule",
    ]


@pytest.mark.parametrize(("value", "where"), [(1.0, "with all gates 1"), (0.0, "at the gates that 'reverse' chose")])
def test_measuring_a_loss_that_is_not_finite_fails(value, where):
    choice = select_ranks(torch.zeros(2), torch.eye(2), 1)
    with pytest.raises(RunError, match=f"^the loss is nan {where}; legal is a finite number"):
        choice.measure(lambda gates: torch.tensor(math.nan if gates.min() == value else 1.0))


def test_many_layers_are_not_all_told():
    choice = select_ranks(torch.ones(10), torch.eye(10), 5, layers={f"l{index}": 1 for index in range(10)})
    assert "and 2 more layers\n" in str(choice)
    assert "l8" not in str(choice)
