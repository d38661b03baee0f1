"""Self-adjusting softmax: its derivatives, its figures and its edges."""

import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import Frame, Linear, SelfAdjust, attend, attention, softmax
from lissome.attention.attend import SPECIAL
from lissome.attention.normalize import EPS
from tests.oracles import attention as oracle

ROW = torch.tensor([12, 1, 0.5, -1, -2], dtype=torch.float64)  # one dominant key
FLAT = torch.tensor([1.5, -0.3, 0.7, -2.0, 0.1], dtype=torch.float64)


def seen(z):
    return torch.ones(1, 1, 1, len(z)).bool()


def slopes(normalize, z):
    return torch.autograd.functional.jacobian(lambda z: normalize(z[None, None, None], seen(z))[0, 0, 0], z)


@pytest.mark.parametrize(
    ("normalize", "figure"),
    [
        (softmax, 3.0e-5),
        (SelfAdjust(1), 1.0003),
        (SelfAdjust(4), 3.0e-5),
        (SelfAdjust(4, detach_extrema=True), 0.0715),
    ],
)
def test_slope_of_the_dominant_key(normalize, figure):
    """As published variant 4 restores nothing here: the slope of the maximum cancels the gain."""
    assert slopes(normalize, ROW)[0, 0].item() == pytest.approx(figure, rel=2e-2 if figure < 1e-3 else 1e-3)


@pytest.mark.parametrize(
    ("variant", "analytic"), [(1, oracle.slopes_of_first), (4, oracle.slopes_of_fourth)], ids=["1", "4"]
)
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])  # both signs, all positive, all negative
def test_slopes_are_the_analytic_ones(variant, analytic, shift):
    z = FLAT + shift
    torch.testing.assert_close(slopes(SelfAdjust(variant), z), analytic(z), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
@pytest.mark.parametrize("detach", [False, True])
def test_a_row_is_the_formula(variant, detach):
    visible = torch.tensor([[[[True, False, True, True, False]]]])
    found = SelfAdjust(variant, detach_extrema=detach)(ROW[None, None, None], visible)[0, 0, 0]
    truth = oracle.weights([ROW[j] for j in (0, 2, 3)], variant)
    torch.testing.assert_close(found[[0, 2, 3]], torch.stack(truth))
    assert found[[1, 4]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("variant", "z", "weight"),
    [(1, 2.0, 2.0), (2, 2.0, 0.0), (3, 2.0, 0.0), (4, 2.0, 1.0), (4, -2.0, 0.0), (4, 0.0, 0.0)],
)
def test_one_visible_key(variant, z, weight):
    """The first token of a text may attend to nothing."""
    scores = torch.tensor([[[[z, 9.0, -9.0]]]], requires_grad=True)
    found = SelfAdjust(variant)(scores, torch.tensor([[[[True, False, False]]]]))
    torch.testing.assert_close(found, torch.tensor([[[[weight, 0, 0]]]]), rtol=0, atol=2 * EPS)
    assert weight or found.tolist() == [[[[0, 0, 0]]]]
    (slope,) = torch.autograd.grad(found.sum(), scores)
    assert slope.isfinite().all()


@pytest.mark.parametrize("variant", [3, 4])
def test_one_visible_key_has_no_slope_when_extrema_are_held(variant):
    """Its weight is constant; held extrema would give slopes up to 1 / eps at the first token of every text."""
    scores = torch.tensor([[[[2.0, 9.0]]]], requires_grad=True)
    found = SelfAdjust(variant, detach_extrema=True)(scores, torch.tensor([[[[True, False]]]]))
    assert torch.autograd.grad(found.sum(), scores)[0].abs().max() == 0


def test_ties_split_the_slope_of_the_extrema():
    """Of two keys at the minimum each carries one half, as of two at the maximum."""
    z = torch.tensor([-1, 2, -1, 2, 0.5], dtype=torch.float64)
    found = slopes(SelfAdjust(4), z)
    torch.testing.assert_close(found[:, 0], found[:, 2][[2, 1, 0, 3, 4]])
    torch.testing.assert_close(found[:, 1], found[:, 3][[0, 3, 2, 1, 4]])
    moved = torch.tensor([1, 0, 1, 0, 0], dtype=torch.float64)  # both at once: the minimum moves by the whole step
    step = 1e-6
    ends = [SelfAdjust(4)((z + sign * step * moved)[None, None, None], seen(z))[0, 0, 0] for sign in (1, -1)]
    torch.testing.assert_close(found @ moved, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", [1, 4])
def test_a_constant_added_to_a_row_matters(variant):
    z, normalize = FLAT[None, None, None], SelfAdjust(variant)
    assert (normalize(z + 5, seen(FLAT)) - normalize(z, seen(FLAT))).abs().max() > 0.01
    torch.testing.assert_close(softmax(z + 5, seen(FLAT)), softmax(z, seen(FLAT)))


@pytest.mark.parametrize("variant", [2, 3])
def test_differences_to_the_minimum_do_not_feel_a_constant(variant):
    z, normalize = ROW[None, None, None], SelfAdjust(variant)
    torch.testing.assert_close(normalize(z + 3, seen(ROW)), normalize(z, seen(ROW)))


def test_long_linear_decay_turns_variant_4_into_softmax():
    """Under ALiBi the minimum is far down, and the near keys all have a quotient of nearly 1."""
    z = -0.5 * torch.arange(4096.0).double().flip(0) + torch.randn(4096, dtype=torch.float64)
    z = z[None, None, None]
    visible = torch.ones(1, 1, 1, 4096).bool()
    assert (SelfAdjust(4)(z, visible) - softmax(z, visible)).abs().max() < 5e-3


@pytest.mark.parametrize("normalize", [softmax, *(SelfAdjust(variant) for variant in (1, 2, 3, 4))])
def test_rows_that_see_nothing(normalize):
    scores = torch.full((1, 1, 2, 3), 1e30, requires_grad=True)
    found = normalize(scores, torch.zeros(1, 1, 2, 3).bool())
    assert found.tolist() == [[[[0, 0, 0], [0, 0, 0]]]]
    assert torch.autograd.grad(found.sum(), scores)[0].abs().max() == 0


def test_the_minimum_is_over_visible_keys():
    """A published code takes it over a row in which masked scores are -inf or 0."""
    scores = torch.tensor([[[[3.0, 2.0, -50.0]]]])
    found = SelfAdjust(2)(scores, torch.tensor([[[[True, True, False]]]]))
    assert found[0, 0, 0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert found[0, 0, 0, 1:].tolist() == [0, 0]


@pytest.mark.parametrize("variant", [0, 5, "4"])
def test_other_variants_are_refused(variant):
    with pytest.raises(UsageError, match=f"the variant of self_adjust is {variant!r}; legal are 1, 2, 3 and 4"):
        SelfAdjust(variant)


def test_a_word_is_no_truth_value():
    with pytest.raises(UsageError, match="detach_extrema of self_adjust is 'no'; legal are True and False"):
        SelfAdjust(4, detach_extrema="no")


@pytest.mark.parametrize("mean", [False, True])
def test_linear_weights_are_the_scores_that_are_seen(mean):
    visible = torch.tensor([[[[True, False, True, True, False], [False] * 5]]])
    found = Linear(mean=mean)(ROW.expand(1, 1, 2, 5), visible)[0, 0]
    truth = oracle.weights([ROW[j] for j in (0, 2, 3)], Linear(mean=mean).name)
    torch.testing.assert_close(found[0, [0, 2, 3]], torch.stack(truth))
    assert found[0, [1, 4]].tolist() == [0, 0]
    assert found[1].tolist() == [0] * 5


@pytest.mark.parametrize("name", ["linear", "linear(mean=True)"])
def test_linear_is_built_by_the_name_it_tells_and_fused_ways_refuse_it(name):
    recipe, x = attention(2, 4, normalize=name), torch.randn(1, 2, 3, 4)
    assert recipe.normalize.name == name
    assert recipe.explain() == f"causal; rotary; {name}"
    for way in SPECIAL:
        with pytest.raises(UsageError, match=f"backend {way} cannot run this: "):
            attend(x, x, x, Frame.full(3), recipe, backend=way)
    torch.testing.assert_close(*(attend(x, x, x, Frame.full(3), recipe, backend=way) for way in ("naive", "tiled")))


def test_mean_of_linear_is_a_flag():
    with pytest.raises(UsageError, match="mean of linear is 2; legal are True and False"):
        Linear(mean=2)
