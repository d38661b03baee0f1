"""What a decoder refuses: sizes, stages, tokens and masks that cannot be."""

import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import Attention, GrowingCache, everything
from lissome.models import Decoder, DecoderShape
from tests.models.decoders import SMALL, decoder, drawn, equal


@pytest.mark.parametrize("name", ["vocabulary", "layers", "width", "heads", "key_heads", "feed_width", "length"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True])
def test_sizes_are_whole_numbers(name, value):
    end = ", or none" if name in ("key_heads", "feed_width", "length") else ""
    with pytest.raises(UsageError, match=f"^{name} is {value}; legal are whole numbers, 1 and more{end}$"):
        DecoderShape(**{**SMALL, name: value})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"heads": 5}, "5 heads do not divide the width 16; legal are: 1, 2, 4, 8, 16"),
        ({"key_heads": 3}, "3 key heads do not divide 4 heads; legal are: 1, 2, 4"),
        ({"key_heads": 8}, "8 key heads do not divide 4 heads; legal are: 1, 2, 4"),
        ({"feed": "geglu"}, "unknown feed 'geglu'; legal are: swiglu, gelu (did you mean 'gelu'?)"),
        ({"dropout": 1.0}, "dropout is 1.0; legal are numbers from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is -0.1; legal are numbers from 0 to below 1"),
        ({"dropout": math.nan}, "dropout is nan; legal are numbers from 0 to below 1"),
        ({"dropout": "a"}, "dropout is 'a'; legal are numbers from 0 to below 1"),
        ({"tied": "no"}, "tied is 'no'; legal are True and False"),
        ({"position": None}, "position is None; legal are the texts none, rotary, alibi, kerple, fire"),
    ],
)
def test_what_does_not_go_together_is_named(values, sentence):
    with pytest.raises(UsageError) as told:
        DecoderShape(**{**SMALL, **values})
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"position": "rotery"}, "unknown position 'rotery'"),
        ({"position": "fire"}, "the position 'fire' needs the training length"),
        ({"width": 12}, "rotary turns pairs of numbers, and a head has 3"),
        ({"refine": "dape(2)"}, "the kernel of dape is 2"),
    ],
)
def test_stages_that_cannot_be_are_named(values, sentence):
    with pytest.raises(UsageError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        Decoder(DecoderShape(**{**SMALL, **values}))


IDS = "legal is (B, T) of torch.int64"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, ids: Decoder(3), "shape is 3; legal is a DecoderShape"),
        (lambda model, ids: Decoder(model.shape, 3), "recipe is 3; legal is a function layer -> Attention, or None"),
        (
            lambda model, ids: Decoder(model.shape, Attention()),
            "recipe is Attention(); legal is a function layer -> Attention, or None",
        ),
        (
            lambda model, ids: Decoder(model.shape, lambda layer: None),
            "what the recipe gives for a layer is None; legal is an Attention",
        ),
        (lambda model, ids: model(ids + 17), "the tokens reach from 17 to 18; legal are 0 to 16"),
        (lambda model, ids: model(-ids), "the tokens reach from -1 to 0; legal are 0 to 16"),
        (lambda model, ids: list(model.stages(-ids)), "the tokens reach from -1 to 0; legal are 0 to 16"),
        (lambda model, ids: model(ids[0]), f"tokens has shape (2,) and dtype torch.int64; {IDS}"),
        (lambda model, ids: list(model.stages(ids[0])), f"tokens has shape (2,) and dtype torch.int64; {IDS}"),
        (lambda model, ids: model(ids.float()), f"tokens has shape (1, 2) and dtype torch.float32; {IDS}"),
        (lambda model, ids: model([1]), "tokens is [1]; legal is a tensor (B, T) of torch.int64"),
        (
            lambda model, ids: model(ids, present=ids),
            "present has shape (1, 2) and dtype torch.int64; legal is (B, T) of torch.bool",
        ),
        (lambda model, ids: model(ids, last=0), "last is 0; legal are whole numbers, 1 and more"),
        (lambda model, ids: model(ids, cache=3), "cache is 3; legal is such as model.cache()"),
        (
            lambda model, ids: model(ids, cache=GrowingCache(1)),
            "layer 1 adds to a cache for 1; legal are 0 and more, below that",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(call, sentence):
    with pytest.raises(UsageError) as told:
        call(decoder(), torch.tensor([[0, 1]]))
    assert str(told.value) == sentence


def test_tokens_that_are_refused_leave_a_cache_as_it_was():
    model, tokens = decoder(), drawn(1, 4)
    cache = model.cache()
    with pytest.raises(UsageError, match="the tokens reach from"):
        model(tokens + 17, cache=cache)
    equal(model(tokens, cache=cache), model(tokens))


def test_what_lets_tokens_see_later_ones_is_refused():
    with pytest.raises(UsageError, match=r"validity 'window\(4\)' lets a token see later .* 'causal & window\(4\)'"):
        decoder(validity="window(4)")
    with pytest.raises(UsageError, match="validity 'everything' lets a token see later"):
        Decoder(decoder().shape, lambda layer: Attention(everything))


@pytest.mark.parametrize(
    ("validity", "said"),
    [
        ("causal, causal", "names 2 rules for 3 layers; legal is one each"),
        ("ht()", r"the validity 'ht' takes one rule, such as ht\(causal & window\(64\)\), and came as 'ht\(\)'"),
        ("ht(window(3))", r"validity 'window\(3\)' lets a token see later ones"),
        ("hm(causal)", "unknown validity 'hm'"),
        ("causal & h(causal)", "unknown validity 'h'"),
    ],
)
def test_masks_by_layer_that_are_none(validity, said):
    with pytest.raises(UsageError, match=said):
        decoder(validity=validity, layers=3)
