"""Caches by words, and the sentence where lm-evaluation-harness is missing."""

import importlib
import sys

import pytest
from transformers import LlamaConfig

from lissome._errors import UsageError
from lissome.bridges.chosen import chosen, ids_of
from lissome.bridges.marks import Every
from lissome.bridges.separators import PAPER
from lissome.language import Bytes

SMALL = LlamaConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=256, pad_token_id=0, bos_token_id=None
)
SIZES = {"initial": 1, "separators_kept": 2, "local": 4, "capacity": 10}


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("auto", (9, 10, 33, 44, 46, 58, 59, 63)),
        ("paper:llama-3", PAPER["llama-3"]),
        ("13 11", (13, 11)),
        ("[13, 11]", (13, 11)),
        ([13, 11], (13, 11)),
        (13, (13,)),
    ],
)
def test_ids_by_words(words, ids):
    assert ids_of(words, Bytes()) == ids


@pytest.mark.parametrize("words", ["dots", "", "13.5", True, None, "1 two"])
def test_other_words_are_refused(words):
    with pytest.raises(UsageError, match="legal are auto, paper:llama-3, paper:gpt-neox, and ids such as '13 11 30'"):
        ids_of(words, Bytes())


def test_auto_without_a_tokenizer():
    with pytest.raises(UsageError, match="separators is 'auto' and there is no tokenizer to take them from"):
        chosen("separators")


def test_each_cache_keeps_what_its_name_says():
    rules = {
        name: chosen(name, "46", **SIZES)(SMALL).ledgers[0].rule
        for name in ("separators", "sinks", "fixed", "fixed(3)", "full")
    }
    assert rules["separators"].marks.ids == (46,)
    assert (rules["sinks"].marks.ids, rules["sinks"].kept) == ((), 0)
    assert (rules["fixed"].marks, rules["fixed(3)"].marks) == (Every(5), Every(3))
    assert rules["full"].capacity is None
    assert all(rule.initial == 1 for rule in rules.values())


@pytest.mark.parametrize("cache", ["sinks", "fixed", "full"])
def test_caches_without_separators_ask_for_no_tokenizer(cache):
    assert chosen(cache, "auto", None, **SIZES)(SMALL).capacity == 10


def test_a_missing_harness_is_told_in_a_sentence(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lissome.bridges.lm_eval", raising=False)
    with pytest.raises(UsageError, match=r"needs lm-eval; install it with: pip install 'lissome\[lm-eval\]'$"):
        importlib.import_module("lissome.bridges.lm_eval")
