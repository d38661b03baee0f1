"""Shares of attention are those of a slow count, and sum to one."""

import json

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome.language import Bytes
from lissome.recipes.language.separators import CLASSES, LONGEST, separators
from tests.recipes.decoders import WORDS, decoder, seen


def slowly(weights, valid, tokens):
    """Return the shares of one head's weights (T, T) and of its keys, class by class, pair by pair."""
    found, keys, rows = dict.fromkeys(CLASSES, 0.0), dict.fromkeys(CLASSES, 0.0), 0
    for i in range(20, len(tokens)):
        total = sum(abs(float(weights[i, j])) for j in range(len(tokens)))
        sees = sum(bool(valid[i, j]) for j in range(len(tokens)))
        rows += 1
        for j in range(i + 1):
            ends = chr(tokens[j]) in ".,?!;:\n\t"
            first, near = j < 4, i - j < 16
            classes = {"separators": ends, "first": j == 0, "first_4": first, "nearest_16": near}
            classes |= {"far_separators": ends and not first and not near}
            classes["rest"] = not (ends or first or near)
            for name, holds in classes.items():
                found[name] += holds * abs(float(weights[i, j])) / total
                keys[name] += holds * bool(valid[i, j]) / sees
    return {name: value / rows for name, value in found.items()}, {name: value / rows for name, value in keys.items()}


@pytest.mark.parametrize("normalize", ["softmax", "self_adjust(1)", "self_adjust(4)"])
def test_shares_of_attention_are_those_of_a_slow_count(normalize):
    model = decoder(normalize=normalize, refine="dape(3)").double()
    told = separators(model, Bytes(), WORDS, length=48, windows=1)
    (first, second) = seen(model, torch.tensor(WORDS[:48].astype(int))[None])
    for layer, each in enumerate((first, second)):
        for head in range(4):
            shares, keys = slowly(each.weights[0, head], each.valid[0, 0], WORDS[:48])
            for name in CLASSES:
                assert told["attention"][name][layer][head] == pytest.approx(shares[name], abs=1e-9)
                assert told["keys"][name] == pytest.approx(keys[name], abs=1e-12)
        sums = each.weights[0, :, 20:].sum(-1).mean(-1)
        assert told["row_sum"][layer] == pytest.approx(sums.tolist())
    assert (told["rows"], told["windows"], told["length"]) == (28, 1, 48)


@pytest.mark.parametrize("normalize", ["softmax", "self_adjust(4)"])
def test_parts_sum_to_one(normalize):
    told = separators(decoder(normalize=normalize), Bytes(), WORDS, length=64)
    for source in (told["attention"], {name: [[value]] for name, value in told["keys"].items()}):
        parts = sum(np.array(source[name]) for name in ("first_4", "nearest_16", "far_separators", "rest"))
        assert parts == pytest.approx(np.ones_like(parts))
        assert (np.array(source["separators"]) >= np.array(source["far_separators"])).all()
    assert np.allclose(told["row_sum"], 1) == (normalize == "softmax")
    assert told["windows"] == len(WORDS) // 64


def test_attention_that_is_even_falls_on_separators_as_often_as_there_are():
    model = decoder(position="none")
    with torch.no_grad():
        for block in model.blocks:
            block.heads.qkv.weight.zero_()
    told = separators(model, Bytes(), WORDS, length=40)
    for name in CLASSES:
        assert np.array(told["attention"][name]) == pytest.approx(np.full((2, 4), told["keys"][name]), abs=1e-6)
    assert told["kinds"] == sorted(",;.\n:?!")


def test_shares_are_written_where_they_are_asked_for_and_short_texts_are_refused(tmp_path):
    told = separators(decoder(), Bytes(), torch.from_numpy(WORDS.copy()), length=30, out=tmp_path)
    assert json.loads((tmp_path / "separators.json").read_text()) == told
    with pytest.raises(UsageError, match="20 tokens are too few to look for separators; legal are 21 and more"):
        separators(decoder(), Bytes(), WORDS[:20], length=64)
    assert separators(decoder(), Bytes(), np.tile(WORDS, 3), length=5000)["length"] == LONGEST
