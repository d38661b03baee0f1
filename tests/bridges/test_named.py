"""Models of transformers whose attention is asked for by its name."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, Gemma2Config, Gemma2ForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lissome._errors import UsageError
from lissome.attention import Frame
from lissome.bridges.transformers import NAMES
from tests.bridges.seven import GROUPS, LENGTH, NEAR, SEVEN, SIZES, in_parts, logits, made, padded, tokens, told

NAME = "lissome_sa_softmax"


def asked(name, **settings):
    return made(name, attn_implementation=NAME, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_a_mask_and_takes_no_other_way(name):
    assert name in ALL_ATTENTION_FUNCTIONS
    assert name in ALL_MASK_ATTENTION_FUNCTIONS
    assert not any(word in name for word in ("sdpa", "flash", "flex", "paged", "/"))


@SEVEN
def test_the_weights_are_those_of_the_formula(name, spy):
    model = asked(name)
    logits(model, tokens(1))
    wanted = told(name, spy.seen, torch.ones(1, LENGTH), variant=4)
    for (*_, out), right in zip(spy.seen, wanted, strict=True):
        torch.testing.assert_close(out, right, rtol=0, atol=1e-12)
    assert spy.seen[0][1].whole


@pytest.mark.parametrize(("name", "variant"), [(name, rule.variant) for name, rule in NAMES.items()])
def test_each_name_is_its_variant_and_its_gradient(name, variant, spy):
    model = made("llama", attn_implementation=name)
    model(tokens(1, 5))
    detached = name.endswith("detached")
    wanted = told("llama", spy.seen, torch.ones(1, 5), variant=variant, detach_extrema=detached)
    for ((q, *_), *_, out), right in zip(spy.seen, wanted, strict=True):
        torch.testing.assert_close(out, right, rtol=0, atol=1e-12)
        slopes = [torch.autograd.grad(each.square().sum(), q, retain_graph=True)[0] for each in (out, right)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


@SEVEN
def test_padding_and_a_cache_leave_a_text_as_it_is_alone(name):
    model, ids = asked(name), tokens(1)
    alone = logits(model, ids)
    for left, right in ((3, 0), (0, 3), (2, 1)):
        more, mask = padded(ids, left, right)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        found = logits(model, more, attention_mask=mask, position_ids=places)
        torch.testing.assert_close(found[:, left : left + LENGTH], alone, **NEAR)
    torch.testing.assert_close(in_parts(model, ids, [0, 3, 5, 6]), alone, **NEAR)


@SEVEN
def test_generate_says_the_same_with_a_cache_and_without(name):
    model, ids = asked(name), tokens(2)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    settings = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
    found = model.generate(ids, attention_mask=mask, **settings)
    assert torch.equal(found, model.generate(ids, attention_mask=mask, use_cache=False, **settings))
    assert torch.equal(found[:1, 2:], model.generate(ids[:1, 2:], **settings))


def test_a_model_is_trained_and_differs_from_softmax():
    model, ids = asked("llama").train(), tokens(4)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(25):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    other = made("llama")
    other.load_state_dict(model.state_dict())
    assert (logits(other, ids) - logits(model.eval(), ids)).abs().max() > 0.1


def test_dropout_of_the_config_acts_in_training_alone(spy):
    model, ids = asked("llama", attention_dropout=0.5), tokens()
    once = logits(model, ids)
    assert torch.equal(once, logits(model, ids))
    assert not torch.equal(once, logits(model.train(), ids))
    assert [each[2]["dropout"] for each in spy.seen] == [0.0] * 4 + [0.5] * 2


def test_weights_come_where_they_are_asked_for(spy):
    model = asked("llama")
    weights = model(tokens(), output_attentions=True).attentions
    for ((*_, v), *_, out), each in zip(spy.seen, weights, strict=True):
        torch.testing.assert_close(each @ v.repeat_interleave(2, 1), out)
    assert model(tokens()).attentions is None


def test_an_encoder_sees_both_sides_and_no_padding():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES, attn_implementation=NAME)).double().eval()
    ids, other = tokens(1), tokens(1)
    other[0, -1] = 3 + (other[0, -1] + 1) % 30
    assert (logits(model, ids) - logits(model, other))[0, 0].abs().max() > 1e-5
    more, mask = padded(ids, 0, 3)
    torch.testing.assert_close(logits(model, more, attention_mask=mask)[:, :LENGTH], logits(model, ids), **NEAR)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_a_mask_of_ones_own_is_the_rule(kind):
    model, ids = asked("llama"), tokens(1)
    mask = torch.ones(1, 1, LENGTH, LENGTH).tril().bool()
    mask[..., 0] = False
    mask[..., 0, 0] = True
    seen = mask if kind == torch.bool else torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(kind).min)
    first = logits(model, ids, attention_mask=seen)
    ids[0, 0] = 3 + (ids[0, 0] + 1) % 30
    assert torch.equal(logits(model, ids, attention_mask=seen)[:, 1:], first[:, 1:])
    assert not torch.equal(logits(model, ids)[:, 1:], first[:, 1:])


def test_a_frame_of_the_callers_own_goes_before_the_mask(spy):
    model, ids = asked("llama"), tokens(1)
    frame = Frame.full(LENGTH)
    assert torch.equal(logits(model, ids, lissome_frame=frame), logits(model, ids))
    assert spy.seen[0][1] is frame


def test_packed_rows_are_apart_without_a_cache_and_refused_with_one():
    model, ids, places = asked("llama"), tokens(1), torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    found = logits(model, ids, position_ids=places, use_cache=False)
    torch.testing.assert_close(found[:, :3], logits(model, ids[:, :3]), **NEAR)
    torch.testing.assert_close(found[:, 3:], logits(model, ids[:, 3:]), **NEAR)
    with pytest.raises(UsageError, match="a row holds several texts"):
        model(ids, position_ids=places, use_cache=True)
    with pytest.raises(UsageError, match="a row holds several texts"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 3, 7]))


def test_what_would_be_left_out_is_refused():
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES | GROUPS, head_dim=4, attn_implementation=NAME))
    with pytest.raises(UsageError, match=r"caps its scores \(softcap\)"):
        model(tokens())
    model, ids = asked("llama"), tokens()
    mask = torch.ones(2, 1, LENGTH, LENGTH).tril()
    with pytest.raises(UsageError, match=r"adds numbers to scores"):
        model(ids, attention_mask=mask)
    with pytest.raises(UsageError, match=r"attention_mask has shape \(2, 4, 7, 7\)"):
        model(ids, attention_mask=mask.bool().expand(-1, 4, -1, -1))
    for shape in ((LENGTH,), (2, LENGTH - 2), (2, LENGTH, LENGTH)):
        with pytest.raises(UsageError, match=r"tokens have been read with these; legal is \(B, 7\)"):
            model(ids, attention_mask=torch.ones(shape, dtype=torch.long))
