"""Texts are read in one order, piece by piece, and broken ones are told with the place."""

import os
import sysconfig

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.language.bpe import Bpe
from lissome.language.corpus import SUFFIXES, read_corpus


def whole(corpus, size=1 << 16):
    return ["".join(pieces) for pieces in corpus.documents(size)]


def test_the_library_of_python_is_the_default():
    corpus = read_corpus()
    names = [path.relative_to(corpus.root).as_posix() for path in corpus.files]
    assert corpus.root == type(corpus.root)(sysconfig.get_path("stdlib"))
    assert {"abc.py", "json/decoder.py", "argparse.py"} <= set(names)
    assert not [name for name in names if "site-packages" in name or "/test/" in name or name.startswith("test/")]
    assert len(set(names)) == len(names) > 400
    assert read_corpus() == corpus
    assert read_corpus().sources == corpus.sources
    assert sum(path.stat().st_size for path in corpus.files) > 5_000_000


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name in ("b.txt", "a/z.md", "a/c.TXT", ".hidden/x.txt", ".h.txt", "picture.png", "c.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    corpus = read_corpus(tmp_path)
    assert whole(corpus) == ["b.txt", "c.py", "a/c.TXT", "a/z.md"]
    assert all(path.suffix.lower() in SUFFIXES for path in corpus.files)


def test_a_file_may_have_any_name(tmp_path):
    (tmp_path / "log").write_bytes("\ufeffone\r\ntwo".encode())
    assert whole(read_corpus(tmp_path / "log")) == ["one\r\ntwo"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab1.é🜁 \n\r\t"), min_size=1), size=st.integers(1, 40))
def test_pieces_together_are_the_text(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("t") / "t"
    path.write_bytes(text.encode())
    assert whole(read_corpus(path), size) == [text]


def test_a_text_in_one_piece_takes_no_more_memory_than_it_has(tmp_path):
    text = "one line\nand a second, without an end"
    (tmp_path / "t").write_text(text)
    assert [list(pieces) for pieces in read_corpus(tmp_path / "t").documents(1 << 60)] == [[text]]


def test_pieces_have_the_ids_of_the_whole_text(tmp_path):
    text = "".join(path.read_text() for path in read_corpus().files[:5])
    (tmp_path / "t").write_text(text)
    bpe = Bpe.train([text], 400)
    pieces = list(read_corpus(tmp_path / "t").texts(500))
    assert len(pieces) > 20
    assert np.array_equal(np.concatenate(bpe.encode_batch(pieces)), bpe.encode(text))


def test_sources_tell_of_names_sizes_and_changes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, ns=(0, 10**9))
    seen = {read_corpus(tmp_path).sources}
    os.utime(path, ns=(0, 2 * 10**9))
    seen.add(read_corpus(tmp_path).sources)
    path.write_text("ones")
    os.utime(path, ns=(0, 10**9))
    seen.add(read_corpus(tmp_path).sources)
    path.rename(tmp_path / "b.txt")
    seen.add(read_corpus(tmp_path).sources)
    assert len(seen) == 4


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 16])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"abcdef\xe9 and more", r"invalid continuation byte at byte 6"),
        (b"\xff", "invalid start byte at byte 0"),
        ("é".encode() * 9 + b"\xf0\x9f", "unexpected end of data at byte 18"),
        (b"\xef\xbb\xbfab\xff", "invalid start byte at byte 5"),
    ],
)
def test_what_is_not_utf8_is_told_with_its_byte(tmp_path, content, words, size):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^'.*bad.txt' is not UTF-8 \({words}\); legal is UTF-8 text$"):
        whole(read_corpus(tmp_path / "bad.txt"), size)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="^there is no text '.*nothing'; legal is a file of UTF-8 text, or a folder"):
        read_corpus(tmp_path / "nothing")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(UsageError, match=r"holds no text; legal are files that end in \.md, \.py"):
        read_corpus(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match="^'.*' is empty; legal is a file"):
        read_corpus(tmp_path / "a.txt")
    (tmp_path / "b.txt").touch()
    with pytest.raises(UsageError, match="^the 2 texts of '.*' are empty"):
        read_corpus(tmp_path)


def test_a_file_that_goes_away_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    corpus = read_corpus(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UsageError, match="^the text '.*a.txt' cannot be read: No such file"):
        whole(corpus)
    with pytest.raises(UsageError, match="^the text '.*a.txt' cannot be read: No such file"):
        _ = corpus.sources


def test_a_standard_library_without_source_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UsageError, match="has no source in '.*'; name a file or folder of text"):
        read_corpus()
