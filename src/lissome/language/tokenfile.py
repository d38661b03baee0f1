"""A text as a file of ids that is mapped into memory, and a small JSON beside it that says what it was made of."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lissome._errors import RunError, UsageError
from lissome._files import reason, write_json
from lissome._parsed import json_of
from lissome.language.corpus import Corpus
from lissome.language.vocabulary import Vocabulary, check_vocabulary, describe_vocabulary, dtype_of

CHUNK = 1 << 20  # characters that are encoded at once
FORMAT = 1
LEGAL = {np.dtype(name).name: np.dtype(name) for name in ("u1", "<u2", "<u4")}


@dataclass(frozen=True)
class TokenFile:
    """A file of ids, low byte first, and what stands in the JSON beside it.

    Args:
        path: of the ids.
        dtype: uint8, uint16 or uint32.
        count: how many ids.
        documents: how many documents they are of.
        vocabulary: kind, size and digest of what they were made with.
        sources: digest of the files that they were made of.
        digest: SHA-256 of the ids as they lie in the file.
    """

    path: Path
    dtype: str
    count: int
    documents: int
    vocabulary: dict[str, Any]
    sources: str
    digest: str

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """All ids, (count,), read from the disk as they are asked for; they cannot be written."""
        return np.asarray(np.memmap(self.path, LEGAL[self.dtype], "r", shape=(self.count,)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return some ids, (n,), read anew: of a long text that is read once, `ids` would leave all in memory."""
        start, stop, _ = part.indices(self.count)
        dtype = LEGAL[self.dtype]
        return np.fromfile(self.path, dtype, max(0, stop - start), offset=start * dtype.itemsize)


def write_tokens(
    path: str | os.PathLike[str],
    documents: Iterable[Iterable[str]],
    vocabulary: Vocabulary,
    *,
    sources: str = "",
    chunk: int = CHUNK,
    check: Callable[[str], object] | None = None,
) -> TokenFile:
    """Encode documents into a file of ids, whole or not at all; about `chunk` characters are held at a time.

    Args:
        path: of the ids; the JSON beside it is called the same and .json.
        documents: each as pieces of its text; after each the end of the vocabulary is written, if it has one.
        vocabulary: what they are written in.
        sources: a digest of where the documents come from.
        chunk: characters that are encoded at once.
        check: called with the digest of the ids before they take their place; what it raises leaves all as it was.

    Raises:
        UsageError: there is no text in the documents, or it cannot be read.
        RunError: the system refused, such as on a full disk; what stood there before stands until all ids are written.
    """
    path = Path(path)
    beside, part = _beside(path), path.with_name(f".{path.name}.{os.getpid()}.part")
    dtype, found = dtype_of(vocabulary.size), hashlib.sha256()
    count = ended = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            for ids, ends in _encoded(documents, vocabulary, chunk):
                raw = ids.astype(dtype, copy=False).tobytes()
                file.write(raw)
                found.update(raw)
                count, ended = count + len(ids), ended + ends
            file.flush()
            os.fsync(file.fileno())
        if count == ended * (vocabulary.end is not None):
            raise UsageError(f"there is no text to write to '{path}': {ended:,} documents came, all of them empty")
        if check is not None:
            check(found.hexdigest())
        beside.unlink(missing_ok=True)  # never an old JSON beside new ids
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"'{path}' cannot be written ({reason(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    written = TokenFile(path, dtype.name, count, ended, describe_vocabulary(vocabulary), sources, found.hexdigest())
    told = {"format": FORMAT, **dataclasses.asdict(written)}
    del told["path"]  # a folder may be moved
    write_json(beside, told)
    return written


def read_tokens(path: str | os.PathLike[str], vocabulary: Vocabulary, *, sources: str | None = None) -> TokenFile:
    """Return a file of ids that stands already.

    Args:
        path: of the ids.
        vocabulary: what it is to be written in.
        sources: the digest of what it is to be made of; None takes any.

    Raises:
        UsageError: there is none, it is damaged, of another vocabulary, or of other or changed files.
    """
    path = Path(path)
    if not path.is_file() or not _beside(path).is_file():
        raise UsageError(f"there is no file of tokens '{path}' with its JSON beside it")
    try:
        told = json_of(_beside(path).read_text(encoding="utf-8"))
        if told.pop("format") != FORMAT or told["dtype"] not in LEGAL:
            raise ValueError("of another format")
        if not all(type(number) is int for number in (told["count"], told["vocabulary"]["size"])):
            raise ValueError("its numbers are none")
        found = TokenFile(path, **told)
        size = path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"'{_beside(path)}' does not tell of tokens ({error})") from error
    if size != found.count * LEGAL[found.dtype].itemsize:
        raise UsageError(f"'{path}' has {size:,} bytes, which are not the {found.count:,} ids of {found.dtype} it had")
    check_vocabulary(vocabulary, found.vocabulary, f"'{path}'")
    if sources is not None and sources != found.sources:
        raise UsageError(f"'{path}' was made of other texts than there are now, or they have changed since")
    return found


def keep_tokens(
    path: str | os.PathLike[str],
    corpus: Corpus,
    vocabulary: Vocabulary,
    *,
    digest: str | None = None,
) -> TokenFile:
    """Return the ids of a corpus from a file, which is written if it is not there or not of this text and vocabulary.

    Of several processes, one is to call this first.

    Args:
        path: of the ids.
        corpus: the text.
        vocabulary: what it is written in.
        digest: of the ids that a run was begun with, so that files which have another date alone are no other text;
            None takes any.

    Raises:
        UsageError: a text that cannot be read or is not UTF-8, or one with another digest; what stood there stands.
        RunError: the system refused to write.
    """

    def check(found: str) -> None:
        if digest not in (None, found):
            raise UsageError(
                f"{corpus.name} has changed since the run was begun; put it back, or begin another in another directory"
            )

    try:
        found = read_tokens(path, vocabulary, sources=corpus.sources)
    except UsageError:
        return write_tokens(path, corpus.documents(), vocabulary, sources=corpus.sources, check=check)
    check(found.digest)
    return found


def _encoded(
    documents: Iterable[Iterable[str]], vocabulary: Vocabulary, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield ids, and how many documents end among them, some pieces at once."""
    end = np.array([] if vocabulary.end is None else [vocabulary.end], dtype_of(vocabulary.size))
    nothing, texts, ends, held = end[:0], list[str](), list[bool](), 0

    def encoded() -> tuple[np.ndarray, int]:
        ids = vocabulary.encode_batch(texts)
        parts = [part for own, last in zip(ids, ends, strict=True) for part in (own, end if last else nothing)]
        return np.concatenate(parts), sum(ends)

    for text, last in _marked(documents):
        texts.append(text)
        ends.append(last)
        held += len(text) + 1
        if held >= chunk:
            yield encoded()
            texts, ends, held = [], [], 0
    if texts:
        yield encoded()


def _marked(documents: Iterable[Iterable[str]]) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of all documents, and after those of each an empty one that says that it ends."""
    for document in documents:
        for piece in document:
            yield piece, False
        yield "", True


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
