"""SepCache in generate(): token for token a dynamic cache while nothing is dropped, in every way of generating."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from lissome.bridges.sepcache import SepCache, attached
from tests.bridges import seven
from tests.bridges.streams import ENDS, NAMES, NEW, cached, cuts, made, padded, read, text

ROOM = dict(initial=2, separators_kept=3, local=4, capacity=40)
MORE = dict(min_new_tokens=20, max_new_tokens=20)
WAYS = {
    "greedy": {},
    "beams": dict(num_beams=3),
    "beams that are drawn": dict(num_beams=2, do_sample=True),
    "drawn": dict(do_sample=True, top_k=10),
    "several": dict(do_sample=True, num_return_sequences=2),
    "parts": dict(prefill_chunk_size=3),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["greedy", "beams", "parts"])
def test_texts_are_those_of_a_dynamic_cache_while_nothing_is_dropped(name, way):
    model, (ids, mask) = made(name), padded(2)
    want = text(model, ids, DynamicCache(config=model.config), mask, **WAYS[way])
    for positions in ("text", "cache"):
        cache = SepCache(model.config, ENDS, **ROOM, positions=positions)
        assert torch.equal(text(model, ids, cache, mask, **WAYS[way]), want)
        assert not cache.ledgers[0].swept


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_way_of_generating_is_that_of_a_dynamic_cache(way, attention):
    model, ids = made("llama", attn_implementation=attention), seven.tokens(2, 9)
    caches = DynamicCache(config=model.config), SepCache(model.config, ENDS, **ROOM)
    want, got = (text(model, ids, cache, **WAYS[way]) for cache in caches)
    assert torch.equal(got, want)


def test_beams_after_drops_are_those_of_rows_that_are_read_anew():
    model, ids = made("llama"), seven.tokens(1, 9)
    told = dict(num_beams=3, return_dict_in_generate=True, output_scores=True) | MORE
    cache = cached(model)
    found = text(model, ids, cache, **told)
    assert cache.ledgers[0].swept
    again = cached(model)
    length = found.sequences.shape[1]
    logits = read(model, again, found.sequences, cuts(9, 1, length=length))[:, 8:-1]
    scores = logits.log_softmax(-1).gather(2, found.sequences[:, 9:, None]).sum()
    assert (scores / 20 - found.sequences_scores).abs().max() < 1e-6


def test_memory_is_bounded_when_a_prompt_comes_in_parts():
    model, ids = made("llama"), seven.tokens(2, 120)
    cache = cached(model, chunk=3)
    text(model, ids, cache, prefill_chunk_size=3)
    assert cache.most_stored <= 12
    assert cache.get_seq_length() == 120 + NEW - 1
    assert 9 <= cache.mean_stored <= 12
    tensors = [each for layer in cache.layers for each in (layer.keys, layer.values)]
    assert all(each.shape[2] <= 12 and each.untyped_storage().nbytes() == each.nbytes for each in tensors)
    assert cache.kept().shape[1] == cache.stored


def test_a_plain_function_attaches_too():
    model, ids = made("llama"), seven.tokens(2, 9)
    for way in ("greedy", "beams", "drawn"):
        torch.manual_seed(4)
        settings = dict(do_sample=False) | MORE | WAYS[way]
        got = model.generate(ids, past_key_values=cached(model), custom_generate=attached, **settings)
        assert torch.equal(got, text(model, ids, cached(model), **settings))
    assert not model.model._forward_pre_hooks


def test_assisted_decoding_runs_and_is_plain_decoding_while_nothing_is_dropped():
    model, ids = made("llama"), seven.tokens(1, 9)
    draft = made("llama", num_hidden_layers=1)
    want = text(model, ids, SepCache(model.config, ENDS, **ROOM))
    assert torch.equal(text(model, ids, SepCache(model.config, ENDS, **ROOM), assistant_model=draft), want)
    tight = cached(model)
    assert text(model, ids, tight, assistant_model=draft).shape == (1, 9 + NEW)
    assert tight.ledgers[0].swept


def test_a_model_with_a_lora_is_served_as_it_is():
    model, ids = made("llama").float(), seven.tokens(2, 9)
    want = text(model, ids, cached(model), **MORE)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    cache = cached(adapted)
    with cache.attach(adapted):
        got = adapted.generate(input_ids=ids, past_key_values=cache, do_sample=False, **MORE)
    assert torch.equal(got, want)
    assert cache.ledgers[0].swept
