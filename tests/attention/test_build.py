"""Recipes by name, and every sentence that refuses one."""

import copy
import pickle

import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Frame, Kerple, SelfAdjust, attend, attention, causal, explain
from lissome.attention.notation import rule


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({}, "causal; rotary; softmax"),
        ({"position": "none"}, "causal; softmax"),
        ({"position": "kerple(power)", "normalize": "self_adjust"}, "causal; kerple(power); self_adjust(4)"),
        ({"position": "alibi", "refine": "dape"}, "causal; alibi; dape(1)"),
        (
            {"position": "fire", "length": 64, "refine": "dape(3, form=plain)"},
            "causal; fire; dape(3, form=plain); softmax",
        ),
        ({"refine": "dape(3, hidden=published)"}, "causal; rotary; dape(3, hidden=published); softmax"),
        (
            {"position": "none", "normalize": "self_adjust(1, detach_extrema=true)"},
            "causal; self_adjust(1, detach_extrema=True)",
        ),
        (
            {"position": "none", "validity": "causal&(window( 4 )|every_kth(8))"},
            "causal & (window(4) | every_kth(8)); softmax",
        ),
        (
            {"position": "none", "validity": "causal & (sinks(4)|separators(198,13,13)|window(8))"},
            "causal & (sinks(4) | separators(13, 198) | window(8)); softmax",
        ),
    ],
)
def test_names_become_stages(names, said):
    assert attention(4, 8, **names).explain().startswith(said)


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("position", "rotary(base=500000)"),
        ("position", "kerple(power)"),
        ("refine", "dape(5, form=plain, hidden=published, width=8)"),
        ("refine", "dape(1, form=sum)"),
        ("normalize", "self_adjust(2, detach_extrema=True)"),
    ],
)
def test_what_is_said_of_a_stage_builds_it_again(stage, text):
    recipe = attention(4, 8, **{stage: text})
    assert text in recipe.explain().split("; ")


def test_values_reach_their_stages():
    recipe = attention(4, 8, position="rotary(base=500000)", refine="dape(kernel=5, width=8, zero_init=true)")
    assert recipe.rotary.base == 500_000
    assert recipe.refine.kernel == 5
    assert recipe.refine.inner.out_channels == 8
    assert not recipe.refine.outer.weight.any()
    assert attention(4, 8, refine="dape(3, zero_init=false)").refine.outer.weight.any()


def test_rules_bind_as_in_python():
    frame = Frame.full(9)
    first = (causal & rule("window(2)")) | rule("every_kth(4)")
    assert torch.equal(rule("causal & window(2) | every_kth(4)")(frame), first(frame))
    assert not torch.equal(rule("causal & (window(2) | every_kth(4))")(frame), first(frame))


@pytest.mark.parametrize("text", ["causal", "causal & (window(3) | every_kth(2)) & window(5)", "causal | window(2)"])
def test_a_name_of_a_rule_reads_back(text):
    frame = Frame.full(7)
    assert rule(rule(text).name).name == rule(text).name
    assert torch.equal(rule(rule(text).name)(frame), rule(text)(frame))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"position": "rotery"}, "unknown position 'rotery'; legal are: none, .*did you mean 'rotary'?"),
        ({"position": "fire"}, "the position 'fire' needs the training length, and none is given; say length=512"),
        ({"position": "fire", "length": 1}, "the training length of FIRE is 1; legal are whole numbers, 2 and more"),
        ({"position": "kerple(powr)"}, "unknown kind of Kerple 'powr'; legal are: log, power .did you mean 'power'?"),
        ({"position": "rotary(base=abc)"}, "the base of rotary is 'abc'; legal are finite numbers above 1"),
        ({"position": "rotary(base=nan)"}, "the base of rotary is 'nan'; legal are finite numbers above 1"),
        ({"position": "rotary(base=1e999)"}, "the base of rotary is inf; legal are finite numbers above 1"),
        ({"position": "alibi(3)"}, "the position 'alibi\\(3\\)' is given wrongly; alibi takes no values"),
        ({"position": "fire(length=0)"}, "the position 'fire\\(length=0\\)' is given wrongly; fire takes no values"),
        ({"position": "fire", "length": "a"}, "the training length is 'a'; legal are whole numbers, 1 and more"),
        ({"position": ""}, "the position '' cannot be read; legal are: none, rotary, alibi, kerple, fire$"),
        ({"position": None}, "the position is None; legal are the texts none, rotary, alibi, kerple, fire$"),
        ({"position": 3}, "the position is 3; legal are the texts none, rotary, "),
        ({"position": "rotary(base=1)"}, "the base of rotary is 1; legal are finite numbers above 1"),
        ({"position": "rotary(base=-5)"}, "the base of rotary is -5; legal are finite numbers above 1"),
        ({"refine": "dapo(3)"}, "unknown refine 'dapo'; legal are: none, dape .did you mean 'dape'?"),
        ({"refine": "dape(2)"}, "the kernel of dape is 2; legal are odd"),
        ({"refine": "dape(-3)"}, "the kernel of dape is -3; legal are odd"),
        ({"refine": "dape(3, form=plain, zero_init=True)"}, "zero_init keeps a model as it was"),
        ({"refine": "dape(3, zero_init=no)"}, "zero_init of dape is 'no'; legal are True and False"),
        ({"refine": 3}, "the refine is 3; legal are the texts none, dape$"),
        ({"refine": "dape(a)"}, "the kernel of dape is 'a'; legal are odd numbers: 1, 3, 5, ..., 255$"),
        ({"refine": "dape(257)"}, "the kernel of dape is 257; legal are odd"),
        ({"refine": "dape(99999999999)"}, "the kernel of dape is 99999999999; legal are odd"),
        (
            {"refine": "dape(3, width=99999999999)"},
            "the width of dape is 99999999999; legal are whole numbers, 1 to 4096",
        ),
        ({"refine": "dape(3, form=plain, form=sum)"}, "cannot be read; legal are: none, dape$"),
        (
            {"refine": "dape(3, bogus=1)"},
            "dape takes kernel=1, form=residual, hidden=masked, width=32, zero_init=False$",
        ),
        ({"refine": "dape(3, heads=2)"}, "is given wrongly"),
        ({"refine": "dape(3, kernel=3)"}, "is given wrongly"),
        ({"refine": "dape(3"}, "cannot be read; legal are: none, dape$"),
        ({"refine": ""}, "cannot be read"),
        ({"refine": "dape(**x)"}, "cannot be read"),
        ({"refine": "dape(*x)"}, "holds something that is no number and no word"),
        ({"refine": "dape(__import__('os'))"}, "holds something that is no number and no word"),
        ({"refine": "__import__('os').getcwd()"}, "cannot be read"),
        ({"refine": "[x for x in ()]"}, "cannot be read"),
        ({"refine": "dape(3); 1"}, "cannot be read"),
        ({"refine": "dape\0"}, "cannot be read"),
        ({"normalize": "softmaxx"}, "unknown normalize 'softmaxx'; legal are: softmax, .*did you mean 'softmax'?"),
        ({"normalize": "self_adjust(7)"}, "the variant of self_adjust is 7; legal are 1, 2, 3 and 4"),
        ({"normalize": "softmax(2)"}, "the normalize 'softmax\\(2\\)' is given wrongly; softmax takes no values$"),
        ({"validity": None}, "the validity is None; legal are the texts causal, everything, every_kth, separators, "),
        (
            {"validity": "causal &"},
            "cannot be read; legal are: causal, everything, every_kth, separators, sinks, window, joined by & and |$",
        ),
        ({"validity": "causl"}, "unknown validity 'causl'; legal are: causal, .*did you mean 'causal'?"),
        ({"validity": "causal(1)"}, "the validity 'causal' takes no values"),
        ({"validity": "window"}, "the validity 'window' takes one whole number, such as window"),
        ({"validity": "window(2.5)"}, "takes one whole number"),
        ({"validity": "window(size=2)"}, "takes one whole number"),
        ({"validity": "window(True)"}, "takes one whole number"),
        ({"validity": "window(0)"}, "the window is 0; legal are whole numbers, 1 and more"),
        ({"validity": "window(-2)"}, "the window is -2; legal are whole numbers, 1 and more"),
        ({"validity": "sinks(0)"}, "the number of sinks is 0; legal are whole numbers, 1 and more"),
        ({"validity": "sinks(1, 2)"}, "the validity 'sinks' takes one whole number, such as sinks"),
        ({"validity": "separators"}, "the validity 'separators' takes whole numbers, such as separators"),
        ({"validity": "separators(13, a)"}, "the validity 'separators' takes whole numbers, such as separators"),
        ({"validity": "separators(-1)"}, "ids of separators is .-1,.; legal are several whole numbers, 0 and more"),
        ({"validity": "ht(causal)"}, "unknown validity 'ht'; legal are: causal, "),
        ({"validity": "every_kth(0)"}, "k of every_kth is 0; legal are whole numbers, 1 and more"),
        ({"validity": "causal + window(2)"}, "cannot be read"),
        ({"validity": "~causal"}, "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_sentence(names, sentence):
    with pytest.raises(UsageError, match=sentence) as error:
        attention(4, 8, **names)
    assert "\n" not in str(error.value)


def test_odd_heads_do_not_turn():
    with pytest.raises(UsageError, match="rotary turns pairs of numbers, and a head has 7; legal are even ones"):
        attention(4, 7)


@pytest.mark.parametrize("wrong", [0, -1, "a", 2.5, True, None])
def test_heads_and_dimensions_are_whole_numbers(wrong):
    with pytest.raises(UsageError, match=f"the number of heads is {wrong!r}; legal are whole numbers, 1 and more"):
        attention(wrong, 8)
    with pytest.raises(UsageError, match=f"the dimension of a head is {wrong!r}; legal are whole numbers, 1 and more"):
        attention(2, wrong)


def test_a_recipe_survives_copies_and_pickles():
    recipe = attention(2, 4, position="kerple", refine="dape(3)", validity="causal & (window(3) | every_kth(2))")
    x = torch.randn(1, 2, 6, 4)
    truth = attend(x, x, x, Frame.full(6), recipe)
    for twin in (copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
        assert torch.equal(attend(x, x, x, Frame.full(6), twin), truth)
        assert twin.explain() == recipe.explain()


def test_a_copy_of_plain_attention_keeps_its_fast_way():
    x = torch.randn(1, 2, 6, 4)
    for twin in (copy.deepcopy(Attention()), pickle.loads(pickle.dumps(Attention()))):
        assert explain(x, x, Frame.full(6), twin).startswith("causal; softmax; by sdpa: ")


def test_what_is_trained_is_found():
    recipe = Attention(causal, Kerple(2), Dape(2), SelfAdjust(4))
    assert {name.split(".")[0] for name, _ in recipe.named_parameters()} == {"bias", "refine"}
    assert not list(attention(2, 4, position="alibi").parameters())
