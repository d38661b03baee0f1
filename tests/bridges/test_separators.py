"""Ids that end a segment, from tokenizers of three libraries; the published lists; drawn ids and every k-th token."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lissome._errors import UsageError
from lissome.bridges.marks import Every, Ids, random_ids
from lissome.bridges.separators import CHARACTERS, PAPER, is_separator, listed, separator_ids, texts
from lissome.language import Bpe, Bytes

TEXT = "one, two. three\tfour!\nfive; six: seven? eight " * 20
# the pieces of the published ids, as the vocabularies of Llama-3 and GPT-NeoX spell them
LLAMA = [".", ",", "?", "!", ";", ":", "\n", " ", " .", " ,", " ?", " !", " ;", " :", " \n", "  ", "   "]
NEOX = [".", ",", "?", "!", ";", ":", " ", "\t", "\n"]


def word_level(pieces):
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def test_every_token_of_the_published_lists_counts():
    assert {name: len(ids) for name, ids in PAPER.items()} == {"llama-3": len(LLAMA), "gpt-neox": len(NEOX)}
    assert all(map(is_separator, [*LLAMA, *NEOX]))
    assert separator_ids(word_level(["a", *LLAMA, "a.", " a"])) == tuple(range(1, 1 + len(LLAMA)))


@pytest.mark.parametrize("text", ["", "a", "a.", ".a", "{\n", "\u00a0", "\ufffd", "<|end|>", "\r\n", "'"])
def test_other_tokens_do_not(text):
    assert not is_separator(text)


def test_characters_are_a_choice():
    assert is_separator("\r\n", CHARACTERS + "\r")
    assert separator_ids(Bytes(), characters="\n") == (10,)  # spaces stand between words there
    with pytest.raises(UsageError, match=r"no id of this Tokenizer is made of '\.' ',' .* alone; give ids of your own"):
        separator_ids(word_level(["a", "b"]))


def test_tokenizers_of_three_libraries_give_the_same_ids():
    bpe = Bpe.train([TEXT], 280)  # nearly all ids are one character, so spaces do not count
    one = separator_ids(bpe)
    assert (
        separator_ids(bpe._tokenizer) == separator_ids(PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)) == one
    )
    spelled = texts(bpe)
    assert {spelled[id] for id in one} >= set(CHARACTERS)
    assert list(one) == [id for id, text in spelled.items() if text.strip(" ") and not text.strip(" " + CHARACTERS)]


def test_a_lone_space_of_sentencepiece_counts_though_it_decodes_to_nothing():
    pieces = ("<unk>", "▁", "▁,", "▁a", "▁▁", "<0x0A>", "▁ab", "abc")
    tokenizer = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    assert tokenizer.decode([1]) == ""
    assert separator_ids(tokenizer) == (1, 2, 4, 5)


@pytest.mark.parametrize("value", ["gpt2", None, 3, torch.nn.Linear(1, 1)])
def test_what_is_no_tokenizer(value):
    with pytest.raises(UsageError, match=f"tokenizer is of type {type(value).__name__}; legal is one of transformers"):
        separator_ids(value)


def test_a_list_counts_as_python_does(tmp_path):
    bpe = Bpe.train([TEXT], 280)  # nearly all ids are one character, so spaces do not count
    bpe._tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(TEXT)
    found = listed(tmp_path, tmp_path / "text.txt")
    ids = bpe.encode(TEXT).tolist()
    assert found["tokens"] == len(ids)
    assert {row["id"]: row["count"] for row in found["separators"]} == {id: ids.count(id) for id in separator_ids(bpe)}
    assert found["share"] == sum(id in separator_ids(bpe) for id in ids) / len(ids) > 0
    assert listed(tmp_path / "tokenizer.json") == {
        "tokenizer": str(tmp_path / "tokenizer.json"),
        "size": 280,
        "separators": [{"id": id, "text": texts(bpe)[id]} for id in separator_ids(bpe)],
    }


def test_files_that_hold_no_tokenizer_or_no_text(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.json").write_text(json.dumps({"kind": "words"}))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    Bpe.train([TEXT], 280)._tokenizer.save(str(tmp_path / "good.json"))
    with pytest.raises(UsageError, match=r"there is no tokenizer '.*'; legal is tokenizer\.json, a folder"):
        listed(tmp_path)
    with pytest.raises(UsageError, match=r"bad\.json' is no file of the tokenizers library"):
        listed(tmp_path / "bad.json")
    with pytest.raises(UsageError, match=r"empty\.txt' holds no token"):
        listed(tmp_path / "good.json", tmp_path / "empty.txt")
    for name in ("binary", "nowhere"):
        with pytest.raises(UsageError, match=f"{name}' cannot be read"):
            listed(tmp_path / "good.json", tmp_path / name)


def test_a_run_is_listed_by_the_vocabulary_that_it_saved(tmp_path):
    bpe = Bpe.train([TEXT], 280)
    for name, vocabulary in (("bytes", Bytes()), ("bpe", bpe)):
        (tmp_path / name).mkdir()
        vocabulary.save(tmp_path / name / "vocabulary.json")
        assert [row["id"] for row in listed(tmp_path / name)["separators"]] == list(separator_ids(vocabulary))


def test_drawn_ids_are_as_frequent_as_separators_and_none_of_them():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 400, (20_000,), generator=generator)
    separators = list(range(40))
    share = torch.isin(tokens, torch.tensor(separators)).double().mean()
    found = random_ids(tokens, separators, generator)
    assert not set(found) & set(separators)
    assert share - torch.isin(tokens, torch.tensor(found)).double().mean() < 0.002
    assert found != random_ids(tokens, separators, generator)
    again = [random_ids(tokens, separators, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert again[0] == again[1]


def test_every_kth_goes_by_the_place_in_the_text():
    places = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    assert Every(3)(places * 0, places).tolist() == [[True, False, False, True], [False, False, True, False]]
    assert Ids([], 4)(torch.zeros(1, 2, dtype=torch.long), places[:1, :2]).tolist() == [[False, False]]
