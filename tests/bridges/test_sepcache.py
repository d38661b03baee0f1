"""What SepCache stores is what lists store, and logits are those of the model with what lists see as its mask."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.bridges.ledger import Ledger, Rule
from lissome.bridges.marks import Every, Ids
from tests.bridges.seven import tokens
from tests.bridges.streams import (
    ENDS,
    NAMES,
    advance,
    cached,
    contents,
    cuts,
    made,
    mask_of,
    read,
    rows_of,
)
from tests.oracles.sepcache import Row

LENGTH = 30
WAYS = {
    "separators": dict(separators=ENDS),
    "sinks": dict(separators=(), separators_kept=0),
    "every": dict(separators=Every(3)),
    "no sinks": dict(separators=ENDS, initial=0),
    "separators alone": dict(separators=ENDS, initial=0, local=1, separators_kept=5),
}


def logits_of(model, ids, seen):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=seen).logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(9, 1), (22, 1), (3, 3)], ids=str)
def test_logits_are_those_of_the_mask_that_lists_see(name, sizes):
    model, ids, at = made(name), tokens(2, LENGTH), cuts(*sizes, length=LENGTH)
    cache = cached(model)
    got = read(model, cache, ids, at)
    rows = rows_of(cache, 2)
    assert (got - logits_of(model, ids, mask_of(rows, ids, at))).abs().max() < 1e-12
    assert all(row.dropped for row in rows)
    assert contents(cache) == [row.kept for row in rows]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("positions", ["text", "cache"])
def test_contents_are_those_of_lists_after_every_step(way, positions):
    model, ids, at = made("llama"), tokens(3, LENGTH, seed=3), cuts(5, 2, 1, length=LENGTH)
    cache = cached(model, **WAYS[way], positions=positions)
    rows, begun = rows_of(cache, 3), [0]

    def check(stop):
        advance(rows, ids, begun[-1], stop)
        begun.append(stop)
        assert contents(cache) == [row.kept for row in rows]
        assert cache.stored == max(len(row.kept) for row in rows) <= 12
        assert cache.get_seq_length() == stop
        assert [layer.keys.shape[2] for layer in cache.layers] == [cache.stored] * 2

    read(model, cache, ids, at, each=check)
    assert all(row.dropped for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_logits_with_positions_in_the_cache_are_those_of_the_kept_tokens_as_a_text(name):
    model, ids, at = made(name, num_hidden_layers=1), tokens(2, LENGTH, seed=5), cuts(7, 2, 1, length=LENGTH)
    cache = cached(model, positions="cache")
    got, rows = read(model, cache, ids, at), rows_of(cache, 2)
    for start, stop in pairwise(at):
        advance(rows, ids, start, stop)
        for number, row in enumerate(rows):
            alone = ids[number, row.kept][None]  # at 0, 1, 2 ..
            with torch.no_grad():
                want = model(input_ids=alone).logits[0, start - stop :]
            assert (got[number, start:stop] - want).abs().max() < 1e-6  # angles of transformers are float32
    assert all(row.dropped for row in rows)


@pytest.mark.parametrize("settings", [{"rope_type": "linear", "factor": 3.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_scaled_rotary_is_turned_as_the_model_does(settings):
    model = made("llama", num_hidden_layers=1, rope_parameters=settings | {"rope_theta": 10_000.0})
    ids, at = tokens(1, 30), cuts(4, 1, length=30)
    cache = cached(model, positions="cache")
    got, rows = read(model, cache, ids, at), rows_of(cache, 1)
    for start, stop in pairwise(at):
        advance(rows, ids, start, stop)
    with torch.no_grad():
        want = model(input_ids=ids[:, rows[0].kept]).logits[:, -1]
    assert rows[0].dropped
    assert (got[:, -1] - want).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_window_that_slides_is_the_same_with_either_positions(name):
    model, ids, at = made(name), tokens(2, 36), cuts(6, 1, length=36)
    alone = dict(separators=(), separators_kept=0, initial=0, local=4, capacity=9)
    one, other = (read(model, cached(model, **alone, positions=kind), ids, at) for kind in ("text", "cache"))
    assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sizes", [(30,), (3,), (7, 1)], ids=str)
def test_an_exact_window_is_the_mask_however_the_text_is_cut(attention, sizes):
    model, ids = made("llama", attn_implementation=attention), tokens(2, LENGTH)
    enough = dict(separators=ENDS[:2], separators_kept=9, capacity=18, sees="window")
    cache = cached(model, **enough)
    got = read(model, cache, ids, cuts(*sizes, length=LENGTH))
    seen = torch.zeros(2, 1, LENGTH, LENGTH, dtype=torch.bool)
    for row, i, j in product(range(2), range(LENGTH), range(LENGTH)):
        seen[row, 0, i, j] = j <= i and (j < 2 or int(ids[row, j]) in ENDS[:2] or i - j < 4)
    mask = seen if attention == "sdpa" else torch.zeros(seen.shape).double().masked_fill(~seen, -1e30)
    assert (got - logits_of(model, ids, mask)).abs().max() < (1e-12 if attention == "sdpa" else 1e-6)
    assert sizes == (30,) or cache.ledgers[0].swept


def test_eager_attention_sees_the_same_as_sdpa():
    ids, at = tokens(2, LENGTH), cuts(5, 3, 1, length=LENGTH)
    found = [
        read(model, cached(model), ids, at) for model in (made("qwen2"), made("qwen2", attn_implementation="eager"))
    ]
    assert (found[0] - found[1]).abs().max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_ledger_stores_what_lists_store(data):
    draw = data.draw
    a, s, w = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    c, count = a + s + w + draw(st.integers(1, 4)), draw(st.integers(1, 3))
    ledger = Ledger(Rule(Ids([0, 1], 4), a, s, w, c), follows=True)
    rows = [Row(lambda token, place: token < 2, a, s, w, c) for _ in range(count)]
    for _ in range(draw(st.integers(1, 25))):
        size = draw(st.integers(1, 3))
        ids = torch.tensor(
            draw(st.lists(st.lists(st.integers(0, 3), min_size=size, max_size=size), min_size=count, max_size=count))
        )
        there = draw(
            st.none() | st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=count, max_size=count)
        )
        present = None if there is None else torch.tensor(there)
        ledger.note(ids, present, None)
        seen = ledger.seen(size, None)[:, 0] if draw(st.booleans()) else None
        for number, row in enumerate(rows):
            come = [i for i in range(size) if there is None or there[number][i]]
            told = row.forward([int(ids[number, i]) for i in come])
            if seen is not None:
                for i, places in zip(come, told, strict=True):
                    assert ledger.text[number][seen[number, i]].tolist() == places
        ledger.read()
        assert [[int(x) for x in each if x >= 0] for each in ledger.text] == [row.kept for row in rows]
        if ledger.shown is not None:
            assert torch.equal(ledger.shown, ledger.text >= 0)
        elif ledger.swept:
            assert (ledger.text >= 0).all()
        if ledger.swept:
            for number in range(count):
                own = ledger.positions.expand(count, -1)[number]
                last = [int(own[i]) for i in range(size) if there is None or there[number][i]]
                assert last == list(range(len(rows[number].kept)))[len(rows[number].kept) - len(last) :]


@pytest.mark.parametrize("full", ["none", "h", "ht", "hmt", "all", [1]], ids=str)
@pytest.mark.parametrize(("name", "sees"), [("llama", "stored"), ("llama", "window"), ("gpt_neox", "stored")])
def test_each_layer_keeps_and_sees_its_own(name, full, sees):
    # one at a time: its input is taken from the run, its output has to be that under the mask that lists see
    layers, windows = 5, [4, 3, 4, 2, 3]
    whole = {"none": [], "h": [0], "ht": [0, 4], "hmt": [0, 2, 4], "all": range(5)}.get(str(full), [1])
    model, ids, at = made(name, num_hidden_layers=layers), tokens(2, 24), cuts(5, 2, 1, length=24)
    cache = cached(model, local=windows, full=full, sees=sees)
    decoder, taken = model.get_decoder(), [[] for _ in range(layers)]
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, own=own: own.append((inputs[0], output)))
        for layer, own in zip(decoder.layers, taken, strict=True)
    ]
    read(model, cache, ids, at)
    for hook in hooks:
        hook.remove()
    for number, layer in enumerate(decoder.layers):
        hidden, output = (torch.cat([each[i] for each in taken[number]], 1) for i in range(2))
        seen = torch.ones(24, 24).tril().bool()[None, None]
        if number not in whole:
            rule = dict(a=2, s=3, w=windows[number], c=12, window=windows[number] if sees == "window" else None)
            rows = [Row(lambda token, place: token in ENDS, **rule) for _ in range(2)]
            seen = mask_of(rows, ids, at)
            assert contents(cache, number) == [row.kept for row in rows]
        else:
            assert contents(cache, number) == [list(range(24))] * 2
        turned = decoder.rotary_emb(hidden, torch.arange(24)[None])
        with torch.no_grad():
            want = layer(hidden, attention_mask=seen, position_embeddings=turned)
        assert (output - want).abs().max() < 1e-12


@pytest.mark.parametrize("full", ["h", [1]], ids=str)
def test_layers_that_differ_turn_keys_by_their_own_positions(full):
    model, ids, at = made("llama"), tokens(1, 30), cuts(5, 1, length=30)
    none = dict(separators=(), separators_kept=0, initial=0, local=4, capacity=9, full=full)
    one, other = (read(model, cached(model, **none, positions=kind), ids, at) for kind in ("text", "cache"))
    assert (one - other).abs().max() < 1e-5
