"""The share of an update that a form can follow, held to least squares over the form's own derivative."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.adapt import adapt
from lissome.adapt.forms import lora, lora_xs, lotra, pissa, svd, tucker
from lissome.adapt.reach import reach
from lissome.adapt.tucker import Tucker

OUT, IN = 6, 5
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_least_squares(form, update):
    """Fit the update by the derivative in the trained part, column by column, which is exact where that is linear."""
    (name,) = form.trained
    start = getattr(form, name).detach()

    def weight(part):
        return torch.func.functional_call(
            form, {name: part}, (torch.eye(IN).double(), torch.zeros(OUT, IN).double())
        ).mT

    J = torch.autograd.functional.jacobian(weight, start).reshape(OUT * IN, -1)
    fitted = J @ torch.linalg.lstsq(J, update.reshape(-1, 1), driver="gelsd").solution
    return 1 - float((update.reshape(-1, 1) - fitted).square().sum() / update.square().sum())


@few
@given(seed=seeds, rank=st.integers(1, 5), train=st.sampled_from(["core", "factor0", "factor1"]),
       core=st.sampled_from(["full", "diagonal"]))  # fmt: skip
def test_linear_forms_reach_what_least_squares_says(seed, rank, train, core):
    middle = drawn(rank, rank, seed=seed + 2) if core == "full" else drawn(rank, seed=seed + 2)
    form = Tucker([drawn(OUT, rank, seed=seed), drawn(IN, rank, seed=seed + 1)], middle, scale=0.5, train=[train])
    update = drawn(OUT, IN, seed=seed + 3)
    assert reach(form, update) == pytest.approx(by_least_squares(form, update), abs=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda W: svd(W, None),
        lambda W: lora_xs(W, 3),
        lambda W: pissa(W, 2),
        lambda W: lora(W, 2, generator=torch.Generator().manual_seed(0)),
    ],
)
@few
@given(seed=seeds)
def test_what_a_form_did_itself_it_can_follow_whole(make, seed):
    W = drawn(OUT, IN, seed=seed)
    form = make(W)
    before = form.dense(W).detach().clone()
    fresh = make(W)
    with torch.no_grad():
        for index, part in enumerate(form.parameters()):
            part.add_(drawn(*part.shape, seed=seed + index))
    assert reach(fresh, form.dense(W).detach() - before) == pytest.approx(1, abs=1e-9)


def test_a_larger_rank_reaches_more_and_a_whole_one_all():
    W, update = drawn(OUT, IN, seed=0), drawn(OUT, IN, seed=1)
    shares = [reach(lora(W, r, generator=torch.Generator().manual_seed(0)), update) for r in range(1, IN + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    values = torch.linalg.svdvals(update).square()
    assert shares[1] == pytest.approx(float(values[:2].sum() / values.sum()))


def test_float32_and_a_network_of_its_own():
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh())
    network.append(torch.nn.Linear(8, 1))
    form = adapt(network, "svd").get_submodule("form.2.weight")
    assert isinstance(form, Tucker)
    update = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    assert 0 < reach(form, update) < 0.6


@pytest.mark.parametrize(
    ("form", "update", "sentence"),
    [
        (svd(torch.eye(3), None), torch.ones(3, 2), r"the update has shape \(3, 2\); legal is the form's"),
        (svd(torch.eye(3), None), torch.zeros(3, 3), "the update is zero or not finite"),
        (svd(torch.eye(3), None), torch.full((3, 3), torch.nan), "the update is zero or not finite"),
        (Tucker([torch.eye(3), torch.eye(3)]), torch.ones(3, 3), "has no trained part"),
    ],
)
def test_what_cannot_be_followed_is_refused(form, update, sentence):
    with pytest.raises(UsageError, match=sentence):
        reach(form, update)


@few
@given(seed=seeds, ranks=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)))
def test_a_tensor_of_the_ranks_is_followed_whole_and_another_as_far_as_it_can_be_truncated(seed, ranks):
    W = drawn(4, 3, 5, seed=seed)
    form = lotra(W, ranks, generator=torch.Generator().manual_seed(seed))
    inside = tucker(drawn(4, 3, 5, seed=seed + 1), ranks)
    low = Tucker(inside.factors, inside.core.detach(), base="replace").dense()
    assert reach(form, low) == pytest.approx(1.0, abs=1e-9)
    any_ = drawn(4, 3, 5, seed=seed + 2)
    cut = tucker(any_, ranks)
    left = (any_ - Tucker(cut.factors, cut.core.detach(), base="replace").dense()).square().sum() / any_.square().sum()
    assert reach(form, any_) == pytest.approx(1 - left.item(), abs=1e-9)


@few
@given(seed=seeds)
def test_a_core_of_a_tensor_reaches_what_its_factors_span(seed):
    form = tucker(drawn(4, 3, 5, seed=seed), (2, 2, 3))
    moved = Tucker(form.factors, drawn(2, 2, 3, seed=seed + 1), base="replace").dense()
    assert reach(form, moved) == pytest.approx(1.0, abs=1e-9)
    update = drawn(4, 3, 5, seed=seed + 2)
    kept = torch.einsum("abc,ai,bj,ck->ijk", update, *form.factors)
    assert reach(form, update) == pytest.approx((kept.square().sum() / update.square().sum()).item(), abs=1e-9)
