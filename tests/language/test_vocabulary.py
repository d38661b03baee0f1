"""What is encoded comes back; what is of another vocabulary is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lissome._errors import UsageError
from lissome.language.bpe import END, Bpe, read_vocabulary
from lissome.language.vocabulary import Bytes, check_vocabulary, checked, describe_vocabulary, dtype_of

TEXTS = ["the cat sat on the mat, the dog did not sit\n" * 9, "Ähren wären währschaft, 例えば 🜁\n" * 9, ""]
BPE = Bpe.train(TEXTS, 290)
WHOLE = Bpe.train(TEXTS, 280, end=None)
EVERY = pytest.mark.parametrize("vocabulary", [Bytes(), BPE, WHOLE], ids=["bytes", "bpe", "bpe without an end"])


@EVERY
@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_text_comes_back(vocabulary, text):
    ids = vocabulary.encode(text)
    assert ids.dtype == dtype_of(vocabulary.size)
    assert vocabulary.decode(ids) == vocabulary.decode(ids.tolist()) == text
    assert vocabulary.widths[ids].sum() == len(text.encode())


@EVERY
def test_several_texts_are_encoded_as_each_alone(vocabulary):
    for text, ids in zip(TEXTS, vocabulary.encode_batch(TEXTS), strict=True):
        assert np.array_equal(ids, vocabulary.encode(text))


@EVERY
def test_a_character_that_is_cut_is_replaced(vocabulary):
    ids = vocabulary.encode("🜂")
    assert len(ids) > 2
    assert "\ufffd" in vocabulary.decode(ids[:-1])
    assert vocabulary.decode(torch.as_tensor(ids.astype(np.int64))) == "🜂"


@EVERY
def test_a_saved_vocabulary_is_the_same(vocabulary, tmp_path):
    path = vocabulary.save(tmp_path / "vocabulary.json")
    again = read_vocabulary(path)
    assert type(again) is type(vocabulary)
    assert (again.digest, again.size, again.end) == (vocabulary.digest, vocabulary.size, vocabulary.end)
    assert np.array_equal(again.encode(TEXTS[1]), vocabulary.encode(TEXTS[1]))
    check_vocabulary(again, json.loads(json.dumps(describe_vocabulary(vocabulary))), "the checkpoint")


def test_bytes_are_the_bytes():
    assert Bytes().encode("aé").tolist() == [97, 195, 169]
    assert Bytes().size == 256
    assert Bytes().end is None


def test_training_repeats_itself_and_depends_on_the_text():
    assert Bpe.train(iter(TEXTS), 290).digest == BPE.digest
    assert Bpe.train(iter(TEXTS), 289).digest != BPE.digest
    assert Bpe.train([text.swapcase() for text in TEXTS], 290).digest != BPE.digest


def test_frequent_pairs_become_one_id():
    bpe = Bpe.train(["abab abab abab cd"], 258)
    assert bpe.size == 258
    assert bpe.encode("abab").tolist() == [257, 257]  # after the end and the 256 bytes
    assert len(bpe.encode("cd")) == 2


def test_the_name_of_a_special_token_in_a_text_is_text():
    ids = BPE.encode(f"a{END}b")
    assert BPE.end == 0
    assert BPE.end not in ids
    assert BPE.decode(ids) == f"a{END}b"
    assert BPE.decode([*ids, BPE.end]) == f"a{END}b{END}"


def test_a_file_of_somebody_else_is_read_without_its_truncation(tmp_path):
    words = {"[UNK]": 0, "cat": 1, "the": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_vocabulary(tmp_path / "tokenizer.json")
    assert found.encode("the cat the dog").tolist() == [7, 1, 7, 0]
    assert (found.size, found.end) == (8, tokenizer.token_to_id("</s>"))
    assert found.widths is None  # nobody knows how many bytes an unknown word had


def test_sizes_choose_the_narrowest_type():
    assert [dtype_of(size).itemsize for size in (2, 256, 257, 65_536, 65_537, 1 << 31)] == [1, 1, 2, 2, 4, 4]


def test_another_vocabulary_is_refused_by_both_names():
    with pytest.raises(
        UsageError,
        match=rf"^the checkpoint was made with a vocabulary of 290 \(bpe, {BPE.digest[:8]}\), and a vocabulary of 256 "
        rf"\(bytes, {Bytes.digest[:8]}\) came; give the one it was made with$",
    ):
        check_vocabulary(Bytes(), describe_vocabulary(BPE), "the checkpoint")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Bpe.train(TEXTS, 256), "size is 256; legal are whole numbers from 257 to 4,194,304$"),
        (lambda: Bpe.train(TEXTS, 255, end=None), "size is 255; legal are whole numbers from 256 to 4,194,304$"),
        (lambda: Bpe.train(["aaaa"], 900), "size is 900, and the text has pairs for 259; legal are 257 to 259"),
        (lambda: BPE.decode([3, 290]), "id 290 is none of the vocabulary's; legal are 0 to 289"),
        (lambda: Bytes().decode([-1]), "id -1 is none of the vocabulary's; legal are 0 to 255"),
        (lambda: checked(np.array([300], np.uint16), 256), "id 300"),
        (lambda: Bytes().encode("a\ud800"), "character 1 of the text is half a surrogate pair"),
        (lambda: BPE.encode("a\ud800"), "character 1 of the text is half a surrogate pair"),
    ],
)
def test_what_is_asked_wrongly_is_told(ask, words):
    with pytest.raises(UsageError, match=words):
        ask()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON: byte 0 is not UTF-8"),
        (b"{}", "cannot be read .*; legal is a tokenizer.json of the library tokenizers"),
    ],
)
def test_a_broken_file_is_told(tmp_path, content, words):
    if content is not None:
        (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(UsageError, match=f"the vocabulary '.*v.json' {words}"):
        read_vocabulary(tmp_path / "v.json")


def test_an_error_while_texts_are_read_for_training_is_kept():
    def texts():
        yield "abc"
        raise UsageError("a file is broken")

    with pytest.raises(UsageError, match="^a file is broken$"):
        Bpe.train(texts(), 300)
