"""B-splines against scipy's, their ends, and knots that cannot be."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from lissome._errors import UsageError
from lissome.models.splines import BSpline
from tests.oracles import splines as oracle

few = settings(max_examples=25, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uneven(basis, seed=0):
    gaps = 0.2 + torch.rand(basis.knots.shape, generator=seeded(seed), dtype=torch.float64)
    basis.set_knots(gaps.cumsum(1) - 4)
    return basis


def points(n=60, inputs=2, reach=2.0, seed=1):
    return (2 * torch.rand(n, inputs, generator=seeded(seed), dtype=torch.float64) - 1) * reach


@few
@given(st.integers(1, 9), st.integers(0, 5), st.booleans(), st.integers(0, 99))
def test_values_and_derivatives_are_those_of_scipy(intervals, order, even, seed):
    basis = BSpline(2, intervals=intervals, order=order)
    basis = basis if even else uneven(basis, seed)
    x = points(seed=seed, reach=1.9)
    found = (basis(x), *basis.taylor(x))
    for p in range(2):
        knots = basis.knots[p].numpy()
        for mine, times in zip(found, (0, 0, 1, 2), strict=True):
            truth = torch.from_numpy(oracle.basis(knots, order, x[:, p].numpy(), times))
            torch.testing.assert_close(mine[:, :, p], truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("even", [True, False])
def test_gradients_of_any_order_are_those_of_the_rule(even):
    basis = BSpline(2) if even else uneven(BSpline(2))
    x = points(20).requires_grad_()
    seeds = torch.randn(basis(x).shape, generator=seeded(4), dtype=torch.float64)
    (first,) = torch.autograd.grad((basis(x) * seeds).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    _, slope, curve = basis.taylor(x.detach())
    torch.testing.assert_close(first.detach(), (slope * seeds).sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(second, (curve * seeds).sum(1), rtol=1e-10, atol=1e-10)


def test_forward_mode_and_reverse_mode_go_through_all_derivatives():
    basis, x = BSpline(2), points(6).requires_grad_()
    for call in (basis, *(lambda x, n=n: basis.taylor(x)[n] for n in range(3))):
        assert torch.autograd.gradcheck(call, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(call, x)


@pytest.mark.parametrize("intervals", [5, 30])
def test_grids_of_inputs_may_differ_and_stay_even(intervals):
    basis = BSpline(2, intervals=intervals)
    basis.set_knots(basis.knots * torch.tensor([[1.0], [0.5]]) + torch.tensor([[0.0], [0.25]]))
    assert basis.even
    x = points()
    torch.testing.assert_close(basis(x), basis._recursion(x, 3), rtol=1e-11, atol=1e-11)


def test_all_ways_to_the_same_splines_agree():
    basis, x = BSpline(3), points(50, 3)
    truth = basis._recursion(x, 3)
    for found in (
        basis._cubes(x, 0),
        basis._scattered(x),
        basis.taylor(x)[0],
        vmap(lambda row: basis(row[None])[0])(x),
    ):
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


def test_they_add_up_to_one_within_the_grid_and_to_nothing_far_outside():
    basis = BSpline(1, intervals=4)
    inside = torch.linspace(-1, 0.999, 101, dtype=torch.float64)[:, None]
    torch.testing.assert_close(basis(inside).sum(1), torch.ones_like(inside), rtol=0, atol=1e-12)
    far = torch.tensor([[-1 - 3 * 0.5], [1 + 3 * 0.5], [1e6], [-1e30]], dtype=torch.float64)
    assert not any(part.any() for part in (basis(far), *basis.taylor(far)))


def test_knots_keep_their_digits_whatever_the_network_is_cast_to():
    basis = BSpline(1)
    before = basis.knots.clone()
    assert torch.equal(basis.float().double().half().knots, before)
    assert basis.half()(torch.zeros(1, 1, dtype=torch.float16)).dtype == torch.float16


def test_knots_come_back_from_a_state_dict_and_a_pickle():
    basis, x = uneven(BSpline(2)), points(reach=1.0)
    again = BSpline(2)
    again.load_state_dict(basis.state_dict())
    assert not again.even
    assert torch.equal(again(x), basis(x))
    assert torch.equal(pickle.loads(pickle.dumps(basis))(x), basis(x))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BSpline(0), "inputs is 0; legal are whole numbers, 1 and more"),
        (lambda: BSpline(1, intervals=0), "intervals is 0; legal are whole numbers, 1 and more"),
        (lambda: BSpline(1, order=-1), "order is -1; legal are whole numbers, 0 and more"),
        (lambda: BSpline(1, low=1.0), "its first end has to lie below the second"),
        (lambda: BSpline(1).set_knots(torch.zeros(1, 12)), "the knots of input 0 do not increase; a knot that is rep"),
        (lambda: BSpline(1).set_knots(torch.zeros(2, 12)), r"knots have shape \(2, 12\); legal is \(1, 12\)"),
        (lambda: BSpline(1).set_knots(torch.full((1, 12), torch.nan)), "not finite"),
    ],
)
def test_what_cannot_be_a_grid_is_told(call, says):
    with pytest.raises(UsageError, match=says):
        call()
