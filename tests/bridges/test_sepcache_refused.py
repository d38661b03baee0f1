"""What SepCache does not serve, it refuses in a sentence."""

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaModel,
    MambaConfig,
    Phi3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from lissome._errors import UsageError
from lissome.bridges.marks import Every, random_ids
from lissome.bridges.sepcache import SepCache, attached
from tests.bridges import seven
from tests.bridges.streams import ENDS, SMALL, cached, contents, cuts, made, read

CONFIG = seven.config("llama")
LONG = dict(rope_type="longrope", short_factor=[1.0] * 2, long_factor=[2.0] * 2, rope_theta=1e4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            dict(capacity=9),
            r"initial 2 \+ separators_kept 3 \+ local 4 \+ 1 to come \(chunk\) are 10, above the capacity",
        ),
        (dict(chunk=4), r"4 to come \(chunk\) are 13, above the capacity of 12; legal is a capacity of 13 and more"),
        (dict(local=[4, 7]), "local 7 .* are 13, above"),
        (dict(local=[4]), "local has 1 numbers and the model 2 layers"),
        (dict(local=0), "local is 0; legal are whole numbers, 1 and more"),
        (dict(initial=-1), "initial is -1; legal are whole numbers, 0 and more"),
        (dict(separators_kept=1.5), "separators_kept is 1.5"),
        (dict(chunk=0), "chunk is 0"),
        (dict(positions="texts"), r"unknown positions 'texts'; legal are: text, cache \(did you mean 'text'\?\)"),
        (dict(sees="all"), "unknown sees 'all'; legal are: stored, window"),
        (dict(full="hm"), "unknown full 'hm'; legal are: none, h, ht, hmt, all"),
        (dict(full=[2]), "a layer of full is 2; legal are whole numbers, 0 to 1"),
        (dict(separators=[40]), "separator 40 is no id of the model's vocabulary; legal are 0 to 39"),
        (dict(separators=".,"), r"separators is '\.,'; legal are ids"),
        (dict(separators=3), "separators is 3; legal are ids"),
    ],
)
def test_sizes_that_cannot_be(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        SepCache(CONFIG, settings.pop("separators", ENDS), **SMALL | settings)


def test_separators_are_ids_in_any_form():
    for separators in (ENDS, torch.tensor(ENDS), iter(ENDS), set(ENDS)):
        assert sorted(cached(made("llama"), separators).ledgers[0].rule.marks.ids) == list(ENDS)
    with pytest.raises(UsageError, match="k of Every is 0"):
        Every(0)
    with pytest.raises(UsageError, match="no separator stands in this text"):
        random_ids([1, 2], [3], torch.Generator())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (seven.config("mistral"), "sliding_window is 3 in this config of type mistral"),
        (seven.config("qwen2"), "layer_types has sliding_attention"),
        (
            MambaConfig(num_hidden_layers=2),
            "of type mamba, and such layers keep something else than a key for each token",
        ),
        (Phi3Config(**seven.SIZES | seven.GROUPS | dict(rope_parameters=LONG)), "of type phi3 is 'longrope'"),
        (seven.config("llama", rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=1e4)), "is 'dynamic'"),
    ],
)
def test_models_whose_keys_would_be_wrong(config, sentence):
    with pytest.raises(UsageError, match=sentence):
        SepCache(config, ENDS, **SMALL)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (CohereForCausalLM, CohereConfig(**seven.SIZES | seven.GROUPS)),
        (
            DeepseekV3ForCausalLM,
            DeepseekV3Config(
                **seven.SIZES, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
                first_k_dense_replace=2,
            ),
        ),
    ],
    ids=["interleaved", "latent"],
)  # fmt: skip
def test_keys_of_another_layout_stay_where_they_are(model, config):
    torch.manual_seed(0)
    network, ids, at = model(config).eval(), seven.tokens(1, 24), cuts(5, 1, length=24)
    with pytest.raises(UsageError, match="not turned half against half .* legal for it is positions='text'"):
        read(network, SepCache(config, ENDS, **SMALL, positions="cache"), ids, at)
    cache = SepCache(config, ENDS, **SMALL)
    assert read(network, cache, ids, at).isfinite().all()
    assert cache.ledgers[0].swept


def test_positions_that_are_learned_are_those_of_the_text():
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    torch.manual_seed(0)
    model, ids, at = GPT2LMHeadModel(config).eval(), seven.tokens(2, 24), cuts(5, 1, length=24)
    cache = SepCache(config, ENDS, **SMALL)
    assert read(model, cache, ids, at).isfinite().all()
    assert all(len(row) < 24 for row in contents(cache))


def test_forwards_that_the_cache_is_not_told_of():
    model, ids = made("llama"), seven.tokens(1, 9)
    cache = cached(model)
    for length in (9, 1):
        with pytest.raises(
            UsageError, match=f"{length} tokens came that the cache was not told of; call the model inside"
        ):
            model(ids[:, :length], past_key_values=cache)
    read(model, cache, ids, [0, 9])
    with pytest.raises(UsageError, match="1 tokens came that the cache was not told of"):
        model(ids[:, :1], past_key_values=cache)


def test_a_second_attachment():
    model, other = made("llama"), made("llama")
    cache = cached(model)
    with cache.attach(model):
        for each in (model, other):
            with pytest.raises(UsageError, match="attached to a LlamaForCausalLM already"), cache.attach(each):
                pass
        assert len(model.model._forward_pre_hooks) == 1
        with cached(other).attach(model):
            pass
    assert not model.model._forward_pre_hooks
    with cache.attach(other):
        pass


def test_what_is_no_model_or_another_one():
    cache = cached(made("llama"))
    with (
        pytest.raises(UsageError, match="the cache was made for 2 layers and this LlamaForCausalLM has 3"),
        cache.attach(made("llama", num_hidden_layers=3)),
    ):
        pass
    with (
        pytest.raises(UsageError, match="model is a Linear; legal is a decoder of transformers"),
        cache.attach(nn.Linear(1, 1)),
    ):
        pass
    with pytest.raises(UsageError, match="model is 'gpt'"), cache.attach("gpt"):
        pass
    small = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    with (
        pytest.raises(UsageError, match="model is a T5ForConditionalGeneration; legal is a decoder"),
        cache.attach(T5ForConditionalGeneration(small)),
    ):
        pass
    with cache.attach(LlamaModel(CONFIG)):
        pass


def test_embeddings_in_place_of_tokens():
    model = made("llama")
    cache = cached(model)
    with cache.attach(model), pytest.raises(UsageError, match="inputs_embeds came in place of input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 16).double(), past_key_values=cache)


def test_gradient_checkpointing_in_training():
    model = made("llama")
    model.activation_checkpointing_enable()
    cache = cached(model)
    with cache.attach(model.train()), pytest.raises(UsageError, match="gradient checkpointing in training takes"):
        model(seven.tokens(1, 3), past_key_values=cache)
    model.eval()
    read(model, cache, seven.tokens(1, 3), [0, 3])


def test_positions_in_the_cache_in_training():
    model = made("llama").train()
    with (
        pytest.raises(UsageError, match=r"this LlamaModel is in training; call model\.eval\(\)"),
        cached(model, positions="cache").attach(model),
    ):
        pass


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 9, 9).bool(), torch.ones(1, 5).long(), {"full_attention": None}])
def test_masks_of_another_shape(mask):
    model = made("llama")
    cache = cached(model)
    with cache.attach(model), pytest.raises(UsageError, match=r"attention_mask is of shape .* legal .* is \(B, 9\)"):
        model(seven.tokens(1, 9), past_key_values=cache, attention_mask=mask)


def test_a_forward_longer_than_the_chunk():
    model = made("llama")
    cache = cached(model, chunk=3)
    with cache.attach(model):
        with pytest.raises(UsageError, match=r"brings 9 tokens and chunk is 3; give generate\(prefill_chunk_size=3\)"):
            model.generate(seven.tokens(1, 9), past_key_values=cache, max_new_tokens=2)
        assert model.generate(seven.tokens(1, 9), past_key_values=cache, max_new_tokens=2, prefill_chunk_size=3).shape


def test_a_forward_that_stopped_halfway():
    model, cache = made("llama"), None
    cache, stop = cached(model), model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(model, cache, seven.tokens(1, 9), [0, 9])
    stop.remove()
    with pytest.raises(UsageError, match=r"stopped halfway; call cache\.reset\(\)"):
        read(model, cache, seven.tokens(1, 9), [0, 9])
    cache.reset()
    assert read(model, cache, seven.tokens(1, 9), [0, 9]).isfinite().all()


def test_masks_that_an_attention_function_cannot_read():
    model = made("llama", attn_implementation="flex_attention")
    with pytest.raises(
        UsageError, match="attention 'flex_attention' reads no mask .* legal for them are sdpa and eager"
    ):
        read(model, cached(model, sees="window"), seven.tokens(1, 9), [0, 9])


def test_a_plain_function_wants_the_cache():
    model = made("llama")
    with pytest.raises(UsageError, match="past_key_values of type DynamicCache; legal is a SepCache"):
        model.generate(seven.tokens(1, 4), custom_generate=attached, max_new_tokens=2)
