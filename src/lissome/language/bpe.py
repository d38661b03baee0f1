"""Byte pairs: a vocabulary starts as the bytes, and again and again the most frequent pair of ids becomes one more id.

Reference: R. Sennrich, B. Haddow, A. Birch, arXiv 1508.07909, section 3.2; over bytes: A. Radford et al., "Language
Models are Unsupervised Multitask Learners", section 2.2. By the library `tokenizers`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from lissome._errors import UsageError
from lissome._files import reason, write
from lissome._parsed import json_of
from lissome.language.vocabulary import BYTES, Bytes, Vocabulary, checked, dtype_of, utf8

END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "</s>")  # what published vocabularies call it
LARGEST = 1 << 22  # ids; memory is set aside for all of them at once
OWN = ("added_tokens", "normalizer", "pre_tokenizer", "model")  # what ids hang on


class Bpe:
    """A vocabulary of `tokenizers`: trained here over bytes, or a file that somebody else trained.

    Text is always text: the name of a special token in a text is read as the characters it is made of.

    >>> bpe = Bpe.train(["low lower lowest " * 9], size=262)
    >>> bpe.size, bpe.decode(bpe.encode("lower"))
    (262, 'lower')

    Args:
        tokenizer: of any kind; its truncation and padding are switched off.
    """

    kind = "bpe"

    def __init__(self, tokenizer: Tokenizer):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # read special tokens as text
        self._tokenizer = tokenizer
        told: dict[str, Any] = json.loads(tokenizer.to_str())
        added = told["added_tokens"]
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.end = _end({token["content"]: token["id"] for token in added if token["special"]})
        self.digest = hashlib.sha256(
            json.dumps({name: told[name] for name in OWN}, sort_keys=True).encode()
        ).hexdigest()
        over_bytes = (told["decoder"] or {}).get("type") == "ByteLevel"
        self.widths = _widths(tokenizer.get_vocab(with_added_tokens=False), added, self.size) if over_bytes else None

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, end: str | None = END) -> Bpe:
        """Learn a vocabulary from texts; the same texts give the same one.

        Args:
            texts: read once, one after another; only the counts of their words are kept.
            size: ids, the 256 bytes and the end among them.
            end: the name of the token that ends a document; None has none.

        Raises:
            UsageError: a size below that of the bytes or above 4,194,304, or more than the texts have pairs for.
        """
        least = Bytes.size + (end is not None)
        if not least <= size <= LARGEST:
            raise UsageError(f"the vocabulary's size is {size:,}; legal are whole numbers from {least} to {LARGEST:,}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[] if end is None else [AddedToken(end, special=True)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        found = cls(tokenizer)
        if found.size < size:
            raise UsageError(
                f"the vocabulary's size is {size:,}, and the text has pairs for {found.size:,}; legal are {least} to "
                f"{found.size:,}, or a longer text"
            )
        return found

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Bpe:
        """Read a vocabulary as `save` and the library `tokenizers` write it (`tokenizer.json`).

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        try:
            return cls(Tokenizer.from_str(_text(path)))
        except UsageError:
            raise
        except Exception as error:  # the tokenizers library raises plain Exception
            raise UsageError(
                f"the vocabulary '{path}' cannot be read ({error}); legal is a tokenizer.json of the library tokenizers"
            ) from error

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (n,), of the narrowest unsigned type.

        Raises:
            UsageError: the text holds half a surrogate pair, which no UTF-8 has.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of several texts, on all cores."""
        try:
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            for text in texts:
                utf8(text)
            raise
        return [np.array(each.ids, dtype_of(self.size)) for each in found]

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids (n,); a character that is cut becomes U+FFFD.

        Raises:
            UsageError: an id is none of the vocabulary's.
        """
        return self._tokenizer.decode(checked(ids, self.size).tolist(), skip_special_tokens=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vocabulary as the library's own JSON.

        Raises:
            RunError: the system refused.
        """
        return write(path, self._tokenizer.to_str(pretty=True))


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read any vocabulary that was saved, or a `tokenizer.json` of somebody else.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        told = json_of(_text(path))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the vocabulary '{path}' is no JSON ({error}); legal is a saved one") from error
    return Bytes() if told == BYTES else Bpe.read(path)


def _end(special: Mapping[str, int]) -> int | None:
    """Return the special token that ends a document: by its name, or the only one."""
    for name in ENDS:
        if name in special:
            return special[name]
    return next(iter(special.values())) if len(special) == 1 else None


def _widths(vocabulary: Mapping[str, int], added: Sequence[Mapping[str, Any]], size: int) -> np.ndarray:
    """Return the bytes of each id, (size,): a character of a token stands for one."""
    widths = np.zeros(size, np.int64)
    for token, number in vocabulary.items():
        widths[number] = len(token)
    for token in added:
        widths[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    return widths


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the vocabulary '{path}' cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the vocabulary '{path}' is no JSON: byte {error.start} is not UTF-8") from error
