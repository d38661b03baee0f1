"""DAPE and DAPE V2: numbers, starts, causality, and why the hidden map is masked."""

import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Frame, Kerple, attend, attention, causal, stages
from lissome.testing import PROPERTIES, Case, made


def scores(heads=2, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, heads, length, length, generator=generator, dtype=torch.float64) for _ in "SP"]


def triangle(length=6):
    return torch.ones(length, length).tril().bool()[None, None]


@pytest.mark.parametrize(("kernel", "numbers"), [(1, 1196), (3, 3500)])
def test_numbers_of_twelve_heads(kernel, numbers):
    assert sum(p.numel() for p in Dape(12, kernel=kernel).parameters()) == numbers


@pytest.mark.parametrize("position", ["none", "rotary"])
def test_without_a_bias_the_scores_alone_are_read(position):
    recipe = attention(3, 4, position=position, refine="dape(3)")
    assert recipe.refine.inner.in_channels == 3
    x = torch.randn(1, 3, 5, 4)
    assert attend(x, x, x, Frame.full(5), recipe).shape == (1, 3, 5, 4)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("position", ["none", "kerple", "rotary"])
def test_zero_init_is_exactly_no_refinement(kernel, position):
    plain = attention(4, 4, position=position)
    refined = attention(4, 4, position=position, refine=f"dape({kernel}, zero_init=True)")
    if plain.bias is not None:
        refined.bias.load_state_dict(plain.bias.state_dict())
    x = torch.randn(2, 4, 7, 4)
    assert torch.equal(
        attend(x, x, x, Frame.full(7), refined, backend="naive"), attend(x, x, x, Frame.full(7), plain, backend="naive")
    )


def test_zero_init_learns():
    """The last layer moves first, and the first one after it."""
    dape = Dape(2, zero_init=True).double()
    S, P = scores()
    found = torch.autograd.grad(dape(S, P, triangle()).square().sum(), list(dape.parameters()))
    assert [bool(slope.any()) for slope in found] == [False, False, True, True]


def leak(dape):
    """Return how much scores at j <= i move when those of the future do."""
    (S, P), (other, _) = scores(), scores(seed=1)
    future = ~triangle()
    S2, P2 = torch.where(future, other, S), torch.where(future, other, P)
    difference = dape(S2, P2, triangle()) - dape(S, P, triangle())
    return difference.masked_fill(future, 0).abs().max().item()


@pytest.mark.parametrize("hidden", ["masked", "published"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("form", ["residual", "plain", "sum"])
def test_nothing_leaks_from_the_future(kernel, form, hidden):
    assert leak(Dape(2, kernel=kernel, form=form, hidden=hidden).double()) == 0


def test_without_the_zeros_before_the_convolution_the_future_leaks():
    """The test above can fail: everything is called visible where the zeros would be set."""

    class Open(Dape):
        def forward(self, scores, bias, valid):
            return super().forward(scores, bias, torch.ones_like(valid))

    assert leak(Open(2, kernel=3).double()) > 1e-2


def published(heads):
    return Attention(causal, Kerple(heads), Dape(heads, kernel=3, hidden="published"))


@pytest.mark.parametrize("name", ["cache", "left", "right"])
def test_as_published_v2_is_not_what_its_cache_gives(name):
    """Row i reads the hidden map at column i + 1, which a step of one token does not have: the reason for `masked`."""
    with pytest.raises(AssertionError, match=f"{name}: a .*differs"):
        PROPERTIES[name](made(published, 4, 0), Case())
    masked = made(lambda heads: Attention(causal, Kerple(heads), Dape(heads, kernel=3)), 4, 0)
    PROPERTIES[name](masked, Case())


def test_as_published_every_row_but_the_last_differs_from_a_step_of_one_token():
    torch.manual_seed(0)
    S, P = scores(heads=4, length=8)
    dape = Dape(4, kernel=3, hidden="published").double()
    whole = dape(S, P, triangle(8))
    gaps = []
    for i in range(8):
        part = slice(0, i + 1)
        step = dape(S[:, :, i : i + 1, part], P[:, :, i : i + 1, part], torch.ones(1, 1, 1, i + 1).bool())
        gaps.append((step[:, :, 0] - whole[:, :, i, part]).abs().max().item())
    assert min(gaps[:-1]) > 1e-2
    assert max(gaps[:-1]) < 1
    assert gaps[-1] < 1e-12


def test_a_kernel_of_one_has_one_hidden_map():
    """Columns do not meet, so that both names give the same."""
    torch.manual_seed(0)
    masked = Dape(2).double()
    other = Dape(2, hidden="published").double()
    other.load_state_dict(masked.state_dict())
    S, P = scores()
    assert torch.equal(masked(S, P, triangle()), other(S, P, triangle()))
    assert other.ahead == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_held_in_half_precision_keeps_its_scores(dtype):
    recipe = Attention(causal, Kerple(2), Dape(2, kernel=3)).to(dtype)
    x = torch.randn(1, 2, 5, 4).to(dtype)
    found = stages(x, x, Frame.full(5), recipe)
    assert found.refined.dtype is torch.float32
    assert attend(x, x, x, Frame.full(5), recipe).dtype is dtype


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kernel": 2}, "the kernel of dape is 2; legal are odd numbers: 1, 3, 5, ..."),
        ({"kernel": -1}, "the kernel of dape is -1; legal are odd numbers"),
        ({"width": 0}, "the width of dape is 0; legal are whole numbers, 1 to 4096"),
        ({"form": "plan"}, "unknown form of dape 'plan'; legal are: residual, plain, sum .did you mean 'plain'?"),
        ({"hidden": "open"}, "unknown hidden of dape 'open'; legal are: masked, published"),
        ({"form": "plain", "zero_init": True}, "zero_init keeps a model as it was in the residual form alone"),
        ({"zero_init": "no"}, "zero_init of dape is 'no'; legal are True and False"),
    ],
)
def test_settings_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UsageError, match=sentence) as error:
        Dape(2, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("biased", "given"), [(True, False), (False, True)])
def test_a_bias_comes_where_it_was_promised(biased, given):
    S, P = scores()
    with pytest.raises(UsageError, match=f"made with biased={biased}; with this bias it has to be {given}"):
        Dape(2, biased=biased).double()(S, P if given else None, triangle())


def test_other_heads_are_refused():
    S, P = scores(heads=3)
    with pytest.raises(UsageError, match="this dape was made for 2 heads, and 3 came"):
        Dape(2).double()(S, P, triangle())
