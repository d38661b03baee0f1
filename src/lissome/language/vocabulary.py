"""Vocabularies: text to whole numbers and back; here the one of bytes, in `bpe` the ones that are trained."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lissome._errors import UsageError
from lissome._files import write_json

BYTES = {"kind": "bytes"}  # the whole file of a vocabulary of bytes


class Vocabulary(Protocol):
    """What text is written in: ids 0 to `size` - 1."""

    @property
    def kind(self) -> str:
        """The word `bytes` or `bpe`."""
        ...

    @property
    def size(self) -> int:
        """How many ids there are."""
        ...

    @property
    def end(self) -> int | None:
        """The id that ends a document; None where documents run on."""
        ...

    @property
    def widths(self) -> np.ndarray | None:
        """The bytes of UTF-8 that each id stands for, (size,) int64; None where that is not known."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of all that the ids hang on, in hexadecimal."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (n,), of the narrowest unsigned type."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of several texts."""
        ...

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids (n,); a character that is cut becomes U+FFFD."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vocabulary as JSON, whole or not at all."""
        ...


class Bytes:
    """The 256 bytes of UTF-8: nothing to train, no text that it cannot write.

    >>> Bytes().encode("Ähm").tolist()
    [195, 132, 104, 109]
    >>> Bytes().decode([132, 104, 109])
    '\ufffdhm'
    """

    kind = "bytes"
    size = 256
    end = None
    digest = hashlib.sha256(b"bytes of UTF-8").hexdigest()

    @property
    def widths(self) -> np.ndarray:
        """The bytes of each id: one."""
        return np.ones(self.size, np.int64)

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes of a text, (n,) uint8.

        Raises:
            UsageError: the text holds half a surrogate pair, which no UTF-8 has.
        """
        return np.frombuffer(utf8(text), np.uint8)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the bytes of several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids (n,); a character that is cut becomes U+FFFD.

        Raises:
            UsageError: an id is none of the vocabulary's.
        """
        return checked(ids, self.size).astype(np.uint8).tobytes().decode(errors="replace")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write that the vocabulary is bytes.

        Raises:
            RunError: the system refused.
        """
        return write_json(path, BYTES)


def dtype_of(size: int) -> np.dtype:
    """Return the narrowest unsigned type that holds ids below `size`: 1, 2 or 4 bytes, the least first.

    >>> [dtype_of(size).name for size in (256, 257, 65_536, 65_537)]
    ['uint8', 'uint16', 'uint16', 'uint32']
    """
    return np.dtype("u1" if size <= 1 << 8 else "<u2" if size <= 1 << 16 else "<u4")


def describe_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a checkpoint or a token file keeps of a vocabulary: kind, size and digest."""
    return {"kind": vocabulary.kind, "size": vocabulary.size, "digest": vocabulary.digest}


def check_vocabulary(vocabulary: Vocabulary, kept: Mapping[str, Any], owner: str) -> None:
    """Refuse a vocabulary that is not the one that `describe_vocabulary` told of.

    Args:
        vocabulary: the one that came.
        kept: what `describe_vocabulary` returned when the owner was made.
        owner: a checkpoint or a file, as the sentence is to name it.

    Raises:
        UsageError: it is another.

    >>> check_vocabulary(Bytes(), describe_vocabulary(Bytes()), "the checkpoint")
    """
    if kept.get("digest") != vocabulary.digest:
        came = _label(describe_vocabulary(vocabulary))
        raise UsageError(f"{owner} was made with {_label(kept)}, and {came} came; give the one it was made with")


def utf8(text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        UsageError: it holds half a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"character {error.start} of the text is half a surrogate pair ({text[error.start]!r}); legal is UTF-8 text"
        ) from error


def checked(ids: ArrayLike, size: int) -> np.ndarray:
    """Return ids (n,) as an array of whole numbers.

    Raises:
        UsageError: one of them is not below `size`.
    """
    found = np.asarray(ids)
    if found.size and not 0 <= found.min() <= found.max() < size:
        bad = found[(found < 0) | (found >= size)].flat[0]
        raise UsageError(f"id {bad} is none of the vocabulary's; legal are 0 to {size - 1:,}")
    return found.reshape(-1).astype(np.int64)


def _label(kept: Mapping[str, Any]) -> str:
    return f"a vocabulary of {kept.get('size', 0):,} ({kept.get('kind')}, {str(kept.get('digest'))[:8]})"
