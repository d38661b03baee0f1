"""The contract says yes to our stages, and names what is wrong with broken ones."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Kerple, SelfAdjust, Validity, attention, causal, everything, softmax
from lissome.testing import PROPERTIES, hold_attention


class Distance(nn.Module):
    """An honest bias: a slope for each head."""

    def __init__(self, heads):
        super().__init__()
        self.slope = nn.Parameter(torch.rand(heads))

    def forward(self, frame):
        return -self.slope[:, None, None] * frame.distance.clamp(min=0)[:, None]


class Columns(Distance):
    """Counts columns where it should read positions."""

    def forward(self, frame):
        rows, columns = frame.queries.shape[1], frame.keys.shape[1]
        distance = torch.arange(rows)[:, None] - torch.arange(columns)
        return -self.slope[None, :, None, None] * distance.clamp(min=0)


class Ahead(nn.Module):
    """Takes the mean of a row off its scores, the future's too."""

    def forward(self, scores, bias, valid):
        return scores * (1 + scores.mean(-1, keepdim=True))


class Cut(nn.Module):
    """Loses the gradient of what it adds."""

    def forward(self, scores, bias, valid):
        return scores + scores.detach().tanh()


def blind(scores, valid):
    """A softmax that divides by 0 in a row that sees nothing."""
    return torch.softmax(scores.masked_fill(~valid, float("-inf")), -1)


def all_minimum(scores, valid):
    """The minimum over all keys, the ones that nobody may see among them."""
    return (scores - scores.amin(-1, keepdim=True)) * softmax(scores, valid)


def open_mask(scores, valid):
    return softmax(scores, valid) + 0.01


def rounded(scores, valid):
    return softmax(scores.half().float(), valid).to(scores.dtype)


class Wide(Distance):
    def forward(self, frame):
        return super().forward(frame)[:, :, :, :1]


def late(frame):
    return frame.distance >= -1


def short(frame):
    return frame.keys[:, None, :].expand(frame.distance.shape) <= frame.keys.shape[1] - 2


def names(**stages):
    return lambda heads: Attention(**{name: make(heads) for name, make in stages.items()})


BROKEN = {
    "looks ahead": (names(refine=lambda heads: Ahead()), {"future", "unseen"}),
    "counts columns": (names(bias=Columns), {"cache", "tiles"}),
    "minimum over all": (lambda heads: Attention(normalize=all_minimum), {"future", "unseen", "left", "right"}),
    "nan in an empty row": (lambda heads: Attention(normalize=blind), {"empty", "half"}),
    "weights of hidden keys": (lambda heads: Attention(normalize=open_mask), {"shapes", "future", "unseen", "empty"}),
    "detached": (names(refine=lambda heads: Cut()), {"gradients"}),
    "constant extrema": (lambda heads: Attention(normalize=SelfAdjust(4, detach_extrema=True)), {"gradients"}),
    "rounded": (lambda heads: Attention(normalize=rounded), {"gradients"}),
    "another shape": (names(bias=Wide), {"shapes"}),
    "says that it is causal": (lambda heads: Attention(Validity(late, "late", causal=True)), {"future", "cache"}),
    "a length in a rule": (lambda heads: Attention(causal & Validity(short)), {"cache", "left"}),
    "published V2": (
        names(bias=Kerple, refine=lambda heads: Dape(heads, kernel=3, hidden="published")),
        {"cache", "left", "right"},
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_stage_is_caught_and_named(fault):
    make, promised = BROKEN[fault]
    for name in promised:
        with pytest.raises(AssertionError, match=f"^({name}: |future: the validity)") as error:
            hold_attention(make, heads=(3,), seeds=2, without=set(PROPERTIES) - {name})
        assert "\n" not in str(error.value)
    with pytest.raises(AssertionError):
        hold_attention(make, seeds=1)


def test_a_sentence_says_property_size_and_cause():
    only = set(PROPERTIES) - {"cache"}
    with pytest.raises(
        AssertionError,
        match=r"^cache: a text read in parts differs from the whole, by \d\S* where 1e-09 is allowed; "
        "usually a stage counts columns or takes a length where it should read the frame's positions",
    ):
        hold_attention(names(bias=Columns), without=only)


def test_what_a_stage_lacks_on_purpose_is_left_out_by_name():
    make, lacking = BROKEN["published V2"]
    hold_attention(make, heads=(2,), seeds=1, without=lacking)
    hold_attention(BROKEN["constant extrema"][0], heads=(2,), seeds=1, without=("gradients",))


@pytest.mark.parametrize("validity", [causal, everything], ids=["causal", "everything"])
def test_an_honest_stage_holds(validity):
    hold_attention(lambda heads: Attention(validity, Distance(heads), normalize=SelfAdjust(2)), seeds=2)


def test_a_last_layer_at_0_hides_nothing():
    """Without a move from the start the fault would not be seen."""

    class Hidden(Ahead):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, scores, bias, valid):
            return scores + self.gain * super().forward(scores, bias, valid)

    with pytest.raises(AssertionError, match="^future: "):
        hold_attention(lambda heads: Attention(refine=Hidden()), seeds=1)


def test_randomness_of_the_caller_is_left_alone():
    before = torch.get_rng_state()
    hold_attention(names(bias=Kerple), heads=(2,), seeds=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_property():
    with pytest.raises(UsageError, match="unknown property 'cash'; legal are: .*did you mean 'cache'?"):
        hold_attention(names(bias=Kerple), without=("cash",))


MAKE = "legal is a function heads -> Attention"


@pytest.mark.parametrize(
    ("make", "values", "sentence"),
    [
        (3, {}, f"make is 3; {MAKE}"),
        (attention(2, 8), {}, f"make is of type Attention; {MAKE}"),
        (lambda heads: None, {}, "what make gives for 1 heads is None; legal is an Attention"),
        (names(bias=Kerple), {"without": "gradients"}, "without is 'gradients'; legal is several, such as "),
        (names(bias=Kerple), {"heads": 3}, "heads is 3; legal is several, such as "),
        (names(bias=Kerple), {"heads": ("a",)}, "heads is 'a'; legal are whole numbers, 1 and more"),
        (names(bias=Kerple), {"seeds": 0}, "seeds is 0; legal are whole numbers, 1 and more"),
        (lambda heads: attention(heads, 8), {}, "this rotary was made for heads of 8 numbers, and 4 came"),
    ],
)
def test_wrong_arguments_are_one_sentence(make, values, sentence):
    with pytest.raises(UsageError) as told:
        hold_attention(make, **values)
    assert str(told.value).startswith(sentence)
    assert "\n" not in str(told.value)


def test_nothing_but_torch_is_needed():
    code = "import sys; sys.modules['hypothesis'] = sys.modules['pytest'] = None; import lissome.testing"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
