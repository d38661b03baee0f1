"""Models of transformers that are given other stages: their numbers, with padding, caches and windows."""

import pytest
import torch

from lissome.attention import Kerple
from lissome.bridges.transformers import attach, detach
from tests.bridges.seven import LENGTH, MODELS, NEAR, SEVEN, STAGES, in_parts, logits, made, padded, tokens, told
from tests.oracles import attention as oracle

# each way of a model to have windows and groups with all stages, the others with one
WIDE = ("llama", "mistral", "qwen2")
EACH = pytest.mark.parametrize(
    ("name", "stages"), [(name, each) for name in MODELS for each in STAGES if name in WIDE or each == "kerple"]
)


def given(name, stages=None, **settings):
    return attach(made(name, **settings), **STAGES["kerple"] if stages is None else stages)


def bias_of(recipe):
    bias = recipe.bias
    if isinstance(bias, Kerple):
        return oracle.kerple_log(bias.p, bias.a)
    layers = bias.network
    numbers = (layers[0].weight, layers[0].bias, layers[2].weight, layers[2].bias)
    return oracle.fire(bias.c, bias.multiplier, bias.threshold, *numbers)


def refine_of(recipe):
    inner, outer = recipe.refine.inner, recipe.refine.outer
    return oracle.dape(inner.weight[:, :, 0], inner.bias, outer.weight[:, :, 0], outer.bias)


@SEVEN
@pytest.mark.parametrize(("stages", "variant"), [("kerple", 4), ("fire", 0)])
def test_each_layer_computes_its_formulas(name, stages, variant, spy):
    model, length = given(name, STAGES[stages]), 5
    logits(model, tokens(1, length))
    for layer, added in enumerate(each for key, each in model.named_modules() if key.endswith(".lissome")):
        formulas = dict(bias=bias_of(added.recipe), refine=refine_of(added.recipe), variant=variant)
        with torch.no_grad():
            right = told(name, spy.seen, torch.ones(1, length), **formulas)[layer]
        torch.testing.assert_close(spy.seen[layer][3], right, rtol=0, atol=1e-12)
        assert spy.seen[layer][1].whole


@EACH
def test_a_text_read_in_parts_gives_what_it_gives_whole(name, stages):
    model, ids = given(name, STAGES[stages]), tokens(2, 9)
    torch.testing.assert_close(in_parts(model, ids, [0, 4, 6, 7, 8]), logits(model, ids), **NEAR)


@EACH
def test_padding_leaves_a_text_as_it_is_alone(name, stages):
    model, ids = given(name, STAGES[stages]), tokens(1)
    alone = logits(model, ids)
    for left, right in ((4, 0), (0, 3), (2, 1)):
        more, mask = padded(ids, left, right)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        found = logits(model, more, attention_mask=mask, position_ids=places)
        torch.testing.assert_close(found[:, left : left + LENGTH], alone, **NEAR)


@SEVEN
def test_a_padded_text_read_in_parts_gives_what_it_gives_alone(name):
    model, ids = given(name, STAGES["fire"]), tokens(1, 9)
    more, mask = padded(ids, 3, 0)
    found = in_parts(model, more, [0, 5, 8, 10, 11], attention_mask=mask)
    torch.testing.assert_close(found[:, 3:], logits(model, ids), **NEAR)


@SEVEN
def test_generate_says_the_same_with_a_cache_and_without(name):
    model, ids = given(name, STAGES["fire"]), tokens(2)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=None)
    found = model.generate(ids, attention_mask=mask, **settings)
    assert torch.equal(found, model.generate(ids, attention_mask=mask, use_cache=False, **settings))
    assert torch.equal(found[:1, 3:], model.generate(ids[:1, 3:], **settings))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_generate_says_the_same_by_beams_and_with_a_cache_of_fixed_size(name):
    model, ids = given(name), tokens(2)
    settings = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
    greedy = model.generate(ids, **settings)
    assert torch.equal(greedy, model.generate(ids, cache_implementation="static", **settings))
    beams = model.generate(ids, num_beams=3, **settings)
    assert torch.equal(beams, model.generate(ids, num_beams=3, use_cache=False, **settings))


@SEVEN
@pytest.mark.parametrize(("stages", "silent"), [("fire", True), ("own rotary", False)])
def test_without_rotary_position_ids_say_nothing(name, stages, silent):
    model, ids = given(name, STAGES[stages]), tokens()
    other = logits(model, ids, position_ids=3 * torch.arange(LENGTH)[None] + 5)
    assert torch.equal(other, logits(model, ids)) == silent


@SEVEN
@pytest.mark.parametrize("refine", ["dape", "dape(3)"])
def test_a_refinement_from_zero_leaves_outputs_as_they_were(name, refine):
    model, ids = made(name), tokens()
    before = logits(model, ids)
    torch.testing.assert_close(logits(attach(model, refine=refine, zero_init=True), ids), before, **NEAR)
    assert "zero_init=True" in model.config.lissome["refine"]
    loss = model(ids, labels=ids).loss
    loss.backward()
    grown = [p.grad.abs().max() for key, p in model.named_parameters() if key.endswith("outer.weight")]
    assert min(grown) > 0


@SEVEN
def test_detached_it_is_what_it_was(name):
    model, ids, stages = made(name), tokens(), STAGES["kerple"]
    before, weights = logits(model, ids), list(model.state_dict())
    assert not torch.equal(logits(attach(model, **stages), ids), before)
    assert torch.equal(logits(detach(model), ids), before)
    assert list(model.state_dict()) == weights
    assert not hasattr(model.config, "lissome")
    assert not torch.equal(logits(attach(model, **stages), ids), before)
