"""A file of ids holds all of a text, needs little memory, and is never taken for that of another one."""

import hashlib
import json
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome.language import tokenfile
from lissome.language.bpe import Bpe
from lissome.language.corpus import read_corpus
from lissome.language.tokenfile import keep_tokens, read_tokens, write_tokens
from lissome.language.vocabulary import Bytes

BPE = Bpe.train(["one two three four " * 9], 270)
EITHER = pytest.mark.parametrize("vocabulary", [Bytes(), BPE], ids=["bytes", "bpe"])


def corpus_of(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return read_corpus(folder)


@EITHER
@settings(max_examples=30, deadline=None)
@given(documents=st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=1), chunk=st.integers(1, 12))
def test_ids_are_those_of_the_documents_each_with_its_end(tmp_path_factory, vocabulary, documents, chunk):
    documents[0].append("a")
    path = tmp_path_factory.mktemp("t") / "t"
    found = write_tokens(path, documents, vocabulary, chunk=chunk)
    end = [] if vocabulary.end is None else [vocabulary.end]
    expected = [id for pieces in documents for id in [*(i for p in pieces for i in vocabulary.encode(p)), *end]]
    assert found.ids.tolist() == expected
    assert (found.count, found.documents) == (len(expected), len(documents))
    assert read_tokens(path, vocabulary) == found


@EITHER
def test_what_is_written_is_read(tmp_path, vocabulary):
    written = write_tokens(tmp_path / "t", [["one two"], ["three"]], vocabulary, sources="here")
    found = read_tokens(tmp_path / "t", vocabulary, sources="here")
    assert found == written
    raw = (tmp_path / "t").read_bytes()
    assert found.digest == hashlib.sha256(raw).hexdigest()
    assert np.array_equal(found.ids, np.frombuffer(raw, {"uint8": "u1", "uint16": "<u2"}[found.dtype]))
    with pytest.raises(ValueError, match="read-only"):
        found.ids[0] = 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "t.json"]


class Piece(str):
    """A text that may be watched."""


def test_documents_larger_than_the_buffer_pass_through_it(tmp_path):
    """64 MB of documents in pieces of 64 kB, of which never more than a chunk of 256 kB and the next is alive."""
    size, chunk = 1 << 16, 1 << 18
    alive = weakref.WeakValueDictionary()
    most = 0

    def document(number):
        nonlocal most
        for part in range(4):
            piece = Piece(chr(97 + number % 26) * size)
            alive[number, part] = piece
            most = max(most, len(alive))
            yield piece

    tracemalloc.start()
    try:
        found = write_tokens(tmp_path / "t", map(document, range(256)), Bytes(), chunk=chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == 256 * 4 * size == 1 << 26
    assert most <= chunk // size + 1
    assert peak < 8 * chunk
    assert found.ids[:: 4 * size].tolist() == [97 + number % 26 for number in range(256)]


def test_a_file_larger_than_the_buffer_passes_through_it(tmp_path):
    line = b"a line of text\n" * 4096
    with open(tmp_path / "large.txt", "wb") as file:
        for _ in range(512):
            file.write(line)
    corpus = read_corpus(tmp_path / "large.txt")
    tracemalloc.start()
    try:
        found = keep_tokens(tmp_path / "t", corpus, Bytes())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == 512 * len(line) > 30_000_000
    assert peak < 8_000_000
    assert hashlib.sha256(line * 512).hexdigest() == found.digest


def test_a_file_of_this_text_is_kept_and_another_is_written_anew(tmp_path, monkeypatch):
    path = tmp_path / "out" / "t"
    corpus = corpus_of(tmp_path / "in", a="one two", b="three")
    first = keep_tokens(path, corpus, BPE)
    with monkeypatch.context() as patch:
        patch.setattr(tokenfile, "write_tokens", lambda *given, **named: pytest.fail("written again"))
        assert keep_tokens(path, corpus, BPE) == first
    corpus_of(tmp_path / "in", b="four")
    second = keep_tokens(path, corpus, BPE)
    assert BPE.decode([id for id in second.ids if id != BPE.end]) == "one twofour"
    third = keep_tokens(path, corpus, Bytes())
    assert third.ids.tobytes() == b"one twofour"
    path.write_bytes(b"one")
    assert keep_tokens(path, corpus, Bytes()) == third


def test_ids_of_another_digest_are_refused_and_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "out" / "t"
    corpus = corpus_of(tmp_path / "in", a="one two", b="three")
    first = keep_tokens(path, corpus, BPE)
    corpus_of(tmp_path / "in", b="four")
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(UsageError, match="has changed since the run was begun; put it back, or begin another"):
        keep_tokens(path, corpus, BPE, digest=first.digest)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    corpus = corpus_of(tmp_path / "in", b="three")  # the same text at another time
    assert keep_tokens(path, corpus, BPE, digest=first.digest).digest == first.digest
    with pytest.raises(UsageError, match="has changed since"):
        keep_tokens(path, corpus, BPE, digest="0" * 64)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "t"
    with pytest.raises(UsageError, match="there is no file of tokens '.*t' with its JSON beside it"):
        read_tokens(path, BPE)
    write_tokens(path, [["one"]], BPE, sources="here")
    with pytest.raises(UsageError, match=r"'.*t' was made with a vocabulary of 270 \(bpe, .* of 256 \(bytes, .* came"):
        read_tokens(path, Bytes())
    with pytest.raises(UsageError, match="was made of other texts than there are now"):
        read_tokens(path, BPE, sources="there")
    beside = tmp_path / "t.json"
    told = json.loads(beside.read_text())
    changes = [
        {"format": 9},
        {"dtype": "float32"},
        {"count": "3"},
        {"vocabulary": "bpe"},
        {"vocabulary": {"size": None}},
    ]
    for bad in ("{", "[]", "{}", *(json.dumps(told | change) for change in changes)):
        beside.write_text(bad)
        with pytest.raises(UsageError, match="'.*t.json' does not tell of tokens"):
            read_tokens(path, BPE)


def test_a_text_that_breaks_off_leaves_what_stood_there(tmp_path):
    path = tmp_path / "t"
    before = write_tokens(path, [["one"]], Bytes())

    def broken():
        yield "two"
        raise UsageError("a file is broken")

    with pytest.raises(UsageError, match="^a file is broken$"):
        write_tokens(path, [broken()], Bytes(), chunk=1)
    assert read_tokens(path, Bytes()) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t", "t.json"]


def test_ids_whose_json_was_not_written_are_not_taken_for_those_before(tmp_path, monkeypatch):
    path = tmp_path / "t"
    write_tokens(path, [["one"]], Bytes())

    def full(*given):
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(tokenfile, "write_json", full)
        with pytest.raises(RunError, match="^the disk is full$"):
            write_tokens(path, [["two"]], Bytes())
    with pytest.raises(UsageError, match="there is no file of tokens"):
        read_tokens(path, Bytes())


def test_documents_without_text_are_told(tmp_path):
    for vocabulary in (Bytes(), BPE):
        for documents in ([], [[]], [["", ""], []]):
            with pytest.raises(UsageError, match=f"there is no text to write to '.*t': {len(documents)} documents"):
                write_tokens(tmp_path / "t", documents, vocabulary)
    assert not list(tmp_path.iterdir())


def test_a_system_that_refuses_is_told(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(RunError, match="^'.*t' cannot be written"):
        write_tokens(tmp_path / "t", [["one"]], Bytes())
    assert [each.name for each in tmp_path.iterdir()] == ["t"]
