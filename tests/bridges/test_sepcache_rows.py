"""SepCache after drops: rows are those alone, turns go on, tokens are taken back; copies, half precision."""

import copy
from itertools import pairwise

import pytest
import torch

from lissome._errors import UsageError
from lissome.bridges.transformers import attach
from tests.bridges import seven
from tests.bridges.streams import advance, cached, contents, cuts, made, mask_of, padded, read, rows_of, text


@pytest.mark.parametrize(
    ("name", "positions", "sees"),
    [
        ("llama", "text", "stored"),
        ("llama", "text", "window"),
        ("llama", "cache", "stored"),
        ("llama", "cache", "window"),
        ("gpt_neox", "text", "stored"),
        ("gpt_neox", "cache", "stored"),
    ],
)
def test_a_row_in_a_batch_is_that_row_alone(name, positions, sees):
    model, (ids, mask) = made(name), padded(3)
    settings = dict(positions=positions, sees=sees)
    cache, steps = cached(model, **settings), dict(min_new_tokens=16, max_new_tokens=16)
    told = dict(return_dict_in_generate=True, output_logits=True)
    found = text(model, ids, cache, mask, **steps, **told)
    for row in range(3):
        alone = cached(model, **settings)
        one = text(model, ids[row : row + 1, 2 * row :], alone, **steps, **told)
        assert torch.equal(one.sequences[0], found.sequences[row, 2 * row :])
        for mine, theirs in zip(one.logits, found.logits, strict=True):
            assert (mine[0] - theirs[row]).abs().max() < (1e-12 if positions == "text" else 1e-5)
        assert contents(alone) == [contents(cache)[row]]
        assert alone.ledgers[0].swept


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_turns_go_on_where_the_last_ended(positions):
    """Three turns, the second of which pads a row in its middle, are what one reads that is told all tokens."""
    model, (ids, mask) = made("llama"), padded(2)
    cache = cached(model, positions=positions)
    for turn in range(3):
        ids = text(model, ids, cache, mask, min_new_tokens=5, max_new_tokens=5)
        come, there = padded(2, 4, seed=turn + 7)
        mask = torch.cat((mask, torch.ones(2, 5, dtype=torch.long), there), 1)
        ids = torch.cat((ids, come), 1)
    seen = cache.get_seq_length()
    assert seen == 9 + 3 * 5 + 2 * 4 - 1
    sizes = (9, 1, 1, 1, 1, 5, 1, 1, 1, 1, 5, 1, 1, 1, 1)
    other = cached(model, positions=positions)
    rows = rows_of(other, 2)
    read(model, other, ids[:, :seen], cuts(*sizes, length=seen), mask[:, :seen])
    start = 0
    for size in sizes:
        for number, row in enumerate(rows):
            row.forward([int(ids[number, i]) for i in range(start, start + size) if mask[number, i]])
        start += size
    assert contents(cache) == contents(other) == [row.kept for row in rows]
    for one, two in zip(cache.layers, other.layers, strict=True):
        there = cache.ledgers[0].text >= 0
        difference = (one.keys - two.keys).abs().amax((1, 3))
        assert difference[there].max() < 1e-6


@pytest.mark.parametrize("positions", ["text", "cache"])
@pytest.mark.parametrize("count", [1, 2])
def test_tokens_of_the_last_forward_are_taken_back_exactly(positions, count):
    model, ids, other = made("qwen2"), seven.tokens(2, 26), seven.tokens(2, count, seed=8)
    cache, rows, met = cached(model, positions=positions), [], set()
    rows = rows_of(cache, 2)

    def check(stop):
        """Read other tokens, take them back, and compare with what was, or with lists if the detour dropped keys."""
        detour, own = copy.deepcopy(cache), copy.deepcopy(rows)
        read(model, detour, other, [0, count])
        detour.crop(-count)
        dropped = detour.ledgers[0].gone > cache.ledgers[0].gone
        met.add(dropped)
        assert detour.get_seq_length() == stop
        if not dropped:
            assert torch.equal(detour.kept(), cache.kept())
            for one, two in zip(detour.layers, cache.layers, strict=True):
                assert torch.equal(one.keys, two.keys)
                assert torch.equal(one.values, two.values)
        found = []
        for each in (detour, cache):
            if not dropped:
                found.append(read(model, copy.deepcopy(each), ids, [0, 1]))
        assert dropped or torch.equal(*found)
        for number, row in enumerate(own):
            row.forward(other[number].tolist())
            row.crop(count)
        assert contents(detour) == [row.kept for row in own]

    for start, stop in pairwise(cuts(5, 1, length=26)):
        read(model, cache, ids[:, start:stop], [0, stop - start])
        advance(rows, ids, start, stop)
        check(stop)
    assert met == {True, False}


def test_what_stood_before_a_drop_is_not_taken_back():
    model, ids = made("llama"), seven.tokens(1, 13)
    cache = cached(model)
    read(model, cache, ids, [0, 12, 13])
    with pytest.raises(UsageError, match="crop would take back 2 tokens, and 1 came since keys were last dropped"):
        cache.crop(-2)
    with pytest.raises(UsageError, match=r"crop\(3\); legal are 0 and less"):
        cache.crop(3)
    cache.crop(0)
    cache.crop(-1)
    assert cache.get_seq_length() == 12


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_half_precision_is_near_single(positions):
    model, ids = made("llama").float(), seven.tokens(2, 40)
    at = cuts(9, 1, length=40)
    want = read(model, cached(model, positions=positions), ids, at)
    cache = cached(model, positions=positions)
    got = read(model.bfloat16(), cache, ids, at)
    assert cache.layers[0].keys.dtype == got.dtype == torch.bfloat16
    assert (got - want).norm() < 0.05 * want.norm()


def test_a_copy_goes_on_by_itself():
    model, ids = made("llama"), seven.tokens(2, 40)
    prompt = cached(model)
    with prompt.attach(model):
        read_on = copy.deepcopy(prompt)
    read(model, prompt, ids, cuts(9, 1, length=20))
    both = [prompt, copy.deepcopy(prompt)]
    found = []
    for cache in both:
        with torch.no_grad(), cache.attach(model):
            found.append(torch.cat([model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(20, 40)], 1))
    assert torch.equal(*found)
    assert read_on.get_seq_length() == 0
    with read_on.attach(model):
        pass


def test_a_cache_that_is_reset_serves_another_text():
    model, ids = made("llama"), seven.tokens(2, 40)
    cache, at = cached(model, positions="cache"), cuts(9, 1, length=40)
    first = read(model, cache, ids, at)
    cache.reset()
    assert (cache.get_seq_length(), cache.stored) == (0, 0)
    assert torch.equal(read(model, cache, ids, at), first)


def test_rows_are_repeated_and_chosen():
    model, ids = made("llama"), seven.tokens(2, 40)
    one, other = (cached(model, positions="cache") for _ in range(2))
    at = cuts(9, 1, length=25)
    read(model, one, ids, at)
    one.batch_repeat_interleave(2)
    one.batch_select_indices(torch.tensor([3, 0]))
    read(model, other, ids[[1, 0]], at)
    more = seven.tokens(2, 15, seed=3)
    found = []
    for cache in (one, other):
        with torch.no_grad(), cache.attach(model):
            found.append(torch.cat([model(more[:, i : i + 1], past_key_values=cache).logits for i in range(15)], 1))
    assert (found[0] - found[1]).abs().max() < 1e-12


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_stages_of_attention_go_by_distances_in_the_text_or_in_the_cache(positions):
    model = attach(made("llama", num_hidden_layers=1), position="alibi", normalize="self_adjust(2)")
    ids, at = seven.tokens(1, 30), cuts(5, 2, 1, length=30)
    cache = cached(model, positions=positions)
    got, rows = read(model, cache, ids, at), rows_of(cache, 1)
    seen = mask_of(rows, ids, at)
    with torch.no_grad():
        by_text = model(ids, attention_mask=seen).logits[0, -1]
        by_cache = model(ids[:, rows[0].kept]).logits[0, -1]
    want, other = (by_text, by_cache) if positions == "text" else (by_cache, by_text)
    assert rows[0].dropped
    assert (got[0, -1] - want).abs().max() < 1e-12
    assert (got[0, -1] - other).abs().max() > 1e-3
