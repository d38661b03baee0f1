"""The text of a stream as a file of tokens in its run directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lissome._errors import UsageError
from lissome.language import Corpus, TokenFile, Vocabulary, read_corpus, read_tokens, write_tokens

TOKENS = "tokens.bin"
WHOLE = 1 << 40  # bytes of a piece: a vocabulary that is not over bytes may join words over any cut
NEWLINE = "\n"


class Begun:
    """A vocabulary whose documents begin with a token of our choice; it counts what it has encoded.

    Args:
        inner: the model's.
        begin: the id before each document; None: there is none.
    """

    def __init__(self, inner: Vocabulary, begin: int | None):
        self.inner, self.end, self.count = inner, begin, 0
        self.kind, self.size, self.widths = inner.kind, inner.size, inner.widths
        self.digest = hashlib.sha256(f"{inner.digest} begun by {begin}".encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (n,)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of several texts."""
        found = self.inner.encode_batch(texts)
        self.count += sum(map(len, found))
        return found

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids (n,)."""
        return self.inner.decode(ids)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vocabulary itself."""
        return self.inner.save(path)


def begin_of(vocabulary: Vocabulary, own: int | None, protocol: str) -> int | None:
    """Return the token that begins a text, or each line.

    Args:
        vocabulary: what it is written in.
        own: the model's own such token.
        protocol: text or lines; where lines are to begin and the model has no such token, the end of a line stands for
            it, since lines hold none.

    Raises:
        UsageError: lines, and the vocabulary has neither.

    >>> from lissome.language import Bytes
    >>> begin_of(Bytes(), None, "text"), begin_of(Bytes(), None, "lines")
    (None, 10)
    """
    if own is not None or protocol == "text":
        return own
    ids = vocabulary.encode(NEWLINE)
    if len(ids) != 1:
        raise UsageError(
            "the vocabulary has no token that begins a text, and none for the end of a line to stand for it; legal for "
            "it is protocol text"
        )
    return int(ids[0])


def write_text(
    out: Path, data: str, vocabulary: Vocabulary, begin: int | None, protocol: str, most: int | None
) -> None:
    """Encode a text into a run directory, about as many tokens as are asked for; little of it is held at a time.

    Raises:
        UsageError: a text that is missing, empty, not UTF-8, or has fewer than two tokens.
        RunError: the system refused to write.
    """
    corpus, begun = read_corpus(data), Begun(vocabulary, begin)
    size = {} if vocabulary.widths is not None else {"size": WHOLE}
    documents = corpus.documents(**size) if protocol == "text" else _lines(corpus, size)
    head: list[Iterable[str]] = [] if begin is None else [()]  # nothing, then its end: what begins the first
    write_tokens(out / TOKENS, _enough(head, documents, begun, most), begun, sources=corpus.sources)
    if begun.count < 2:
        raise UsageError(f"{corpus.name} has {begun.count} token, and one has to follow another; take a longer text")


def read_text(out: Path, vocabulary: Vocabulary, begin: int | None) -> TokenFile:
    """Return the tokens that `write_text` wrote.

    Raises:
        UsageError: they are missing, damaged, or of another vocabulary than the model has now.
    """
    return read_tokens(out / TOKENS, Begun(vocabulary, begin))


def _enough(
    head: list[Iterable[str]], documents: Iterable[Iterable[str]], begun: Begun, most: int | None
) -> Iterator[Iterable[str]]:
    """Yield documents until so many tokens are written and one more."""
    yield from head
    for document in documents:
        if most is not None and begun.count > most:
            return
        yield document if most is None else _until(document, begun, most)


def _until(document: Iterable[str], begun: Begun, most: int) -> Iterator[str]:
    for piece in document:
        if begun.count > most:
            return
        yield piece


def _lines(corpus: Corpus, size: dict[str, int]) -> Iterator[Iterable[str]]:
    """Yield each line that holds something, without its end, as a document."""
    for document in corpus.documents(**size):
        held = ""
        for piece in document:
            *whole, held = (held + piece).split(NEWLINE)
            yield from ((line,) for each in whole if (line := each.rstrip("\r")))
        if line := held.rstrip("\r"):
            yield (line,)
