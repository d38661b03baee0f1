"""What cannot be attached is told in one sentence, and the model is as it was."""

import re

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Kerple, Rotary, causal, everything
from lissome.bridges.transformers import attach, detach
from tests.bridges.seven import HEADS, LENGTH, SIZES, STAGES, logits, made, tokens
from tests.bridges.small import same, snapshot

SHARED = Kerple(HEADS)
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4, n_routed_experts=4)
OTHERS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**SIZES | LATENT | dict(n_group=2, topk_group=1, num_experts_per_tok=2))
    ),
}


def of(*stages, **named):
    return lambda layer: Attention(*stages, **named)


@pytest.mark.parametrize("name", OTHERS)
def test_models_whose_attention_is_not_known(name):
    model = OTHERS[name]()
    before = snapshot(model)
    said = f"the attention modules of a {type(model).__name__} (model type '{name}') are not known; legal are the types"
    with pytest.raises(UsageError, match=re.escape(said)):
        attach(model, position="kerple")
    assert same(snapshot(model), before)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(position="kerpel"), r"unknown position 'kerpel'; legal are: .* \(did you mean 'kerple'\?\)"),
        (dict(refine="dapo"), r"unknown refine 'dapo'.*did you mean 'dape'"),
        (dict(normalize="self_ajust(4)"), r"unknown normalize 'self_ajust'.*did you mean 'self_adjust'"),
        (dict(validity="casual"), r"unknown validity 'casual'.*did you mean 'causal'"),
        (dict(position="fire"), r"the position 'fire' needs the training length, and none is given; say length=512"),
        (dict(position="fire", length=1), r"the training length of FIRE is 1; legal are whole numbers, 2 and more"),
        (dict(position="rotary(base=500)"), r"the model turns by its own base, which its config has: say rotary"),
        (dict(position=3), r"the position is 3; legal are the texts"),
        (dict(refine="dape(2)"), r"the kernel of dape is 2; legal are odd numbers"),
        (dict(validity="window(8)"), r"validity 'window\(8\)' lets a token see later ones.*'causal & window\(8\)'"),
        (dict(validity="causal & separators(5)"), r"validity 'causal & separators\(5\)' reads tokens, which"),
        (dict(zero_init=True), r"zero_init starts a refinement at 0, and there is none; say refine='dape'"),
        (dict(zero_init="yes"), r"zero_init is 'yes'; legal are True and False"),
        (dict(refine="dape(form=plain)", zero_init=True), r"zero_init keeps a model as it was in the residual form"),
        (dict(recipe=Attention()), r"recipe is .*; legal is a function layer -> Attention"),
        (dict(recipe=lambda layer: None), r"what the recipe gives for layer 0 is None; legal is an Attention"),
        (dict(recipe=of(causal, Kerple(3))), r"the bias is for 3 heads, and q has 4"),
        (dict(recipe=of(causal, None, Dape(8, biased=False))), r"this dape was made for 8 heads, and 4 came"),
        (dict(recipe=of(causal, SHARED)), r"the recipes of layers 0 and 1 share a stage"),
        (dict(recipe=of(everything)), r"validity 'everything' lets a token see later ones"),
        (dict(recipe=of(rotary=Rotary(4))), r"the recipe of layer 0 turns q and k, which the model does itself"),
        (dict(recipe=of(), refine="dape", zero_init=True), r"refine, zero_init came beside a recipe"),
        (dict(recipe=of(), position="kerple"), r"position is 'kerple' beside a recipe; legal are rotary and None"),
    ],
)
def test_what_is_asked_wrongly_leaves_the_model_as_it_was(asked, said):
    model, ids = made("llama"), tokens()
    before, out = snapshot(model), logits(model, ids)
    with pytest.raises(UsageError, match=said) as error:
        attach(model, **asked)
    assert "\n" not in str(error.value)
    assert same(snapshot(model), before)
    assert torch.equal(logits(model, ids), out)
    assert not hasattr(model.config, "lissome")


def test_no_model_of_transformers():
    with pytest.raises(UsageError, match="model is a Linear that holds no transformers model"):
        attach(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="model is 'llama'; legal is a transformers model"):
        attach("llama")  # type: ignore[arg-type]


def test_twice_and_not_at_all():
    model = attach(made("llama"), **STAGES["kerple"])
    before = snapshot(model)
    with pytest.raises(UsageError, match="this LlamaForCausalLM has stages already; take them off by detach"):
        attach(model, refine="dape")
    assert same(snapshot(model), before)
    with pytest.raises(UsageError, match="has no stages of Lissome; attach gives it some"):
        detach(detach(model))


def test_tensor_parallelism():
    model = made("llama")
    model._tp_size = 2
    with pytest.raises(UsageError, match=r"splits its heads over 2 devices \(tensor parallelism\)"):
        attach(model, refine="dape")
    model._tp_size = None
    attach(model, refine="dape")
    for layer in model.model.layers:  # half of the heads, as a plan that is applied later would leave
        layer.self_attn.q_proj = nn.Linear(16, 8, bias=False).double()
        layer.self_attn.o_proj = nn.Linear(8, 16, bias=False).double()
        layer.self_attn.num_key_value_groups = 1
    with pytest.raises(UsageError, match="the stages were made for 4 heads and 2 came; tensor parallelism"):
        model(tokens())


def test_another_attention_that_would_pass_the_stages_by():
    model = attach(made("gpt_neox"), **STAGES["kerple"])
    model.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match="attention was set to 'sdpa', which passes its stages by"):
        model(tokens())
    model.set_attn_implementation("lissome_attached")
    model(tokens())


def test_the_name_of_attached_stages_without_any():
    with pytest.raises(UsageError, match="'lissome_attached' is the attention of models that have stages"):
        made("llama", attn_implementation="lissome_attached")(tokens())


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mistral"])
def test_packed_rows(name, cache):
    model, ids = attach(made(name), **STAGES["fire"]), tokens()
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    with pytest.raises(UsageError, match="a row holds several texts"):
        model(ids, position_ids=places, use_cache=cache)
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    model(ids, position_ids=places, attention_mask=mask, use_cache=cache)  # what goes back is padding
    assert places.shape == (1, LENGTH)
