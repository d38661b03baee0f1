"""The tokenizer of a transformers folder, `tokenizer.json` with its settings, and a vocabulary of bytes as one.

Nothing here needs transformers; the file is that of the library `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from lissome._errors import UsageError

Told = dict[str, Any]
PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves, as in GPT-2


def letters() -> dict[str, int]:
    """Return the letter of each byte in a tokenizer over bytes, as GPT-2 has them.

    >>> letters()["a"], letters()["Ġ"]
    (97, 32)
    """
    others = [byte for byte in range(256) if byte not in PRINTED]
    return {chr(byte): byte for byte in PRINTED} | {chr(256 + number): byte for number, byte in enumerate(others)}


def of_bytes() -> Told:
    """Return tokenizer.json of the 256 bytes of UTF-8: a vocabulary of pairs without a pair.

    >>> import json
    >>> Tokenizer.from_str(json.dumps(of_bytes())).encode("Äh").ids
    [195, 132, 104]
    """
    over = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": over,
        "post_processor": None,
        "decoder": over,
        "model": {"type": "BPE", "vocab": letters(), "merges": []},
    }


def is_of_bytes(told: Mapping[str, Any]) -> bool:
    """Say whether a tokenizer gives each byte of a text its own number, and nothing else.

    >>> is_of_bytes(of_bytes())
    True
    """
    model, cut = (told.get(name) or {} for name in ("model", "pre_tokenizer"))
    plain = not told.get("added_tokens") and told.get("normalizer") is None and not model.get("merges")
    over = cut.get("type") == "ByteLevel" and not cut.get("add_prefix_space")
    return plain and over and model.get("type") == "BPE" and model.get("vocab") == letters()


def without_frame(told: Mapping[str, Any]) -> Told:
    """Return a tokenizer that adds no token of its own around a text."""
    return dict(told) | {"post_processor": None}


def settings_of(told: Mapping[str, Any], end: int | None) -> Told:
    """Return tokenizer_config.json.

    Args:
        told: tokenizer.json.
        end: the token that ends a text and begins one; None: there is none.
    """
    name = next((token["content"] for token in told["added_tokens"] if token["id"] == end), None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "clean_up_tokenization_spaces": False,  # decoding gives the text as it was
        "split_special_tokens": True,  # the name of a special token in a text is text
    }


def filled(tokenizer: Tokenizer, size: int, source: str) -> Tokenizer:
    """Give a tokenizer as many tokens as a model has; those that are added stand for no text.

    Args:
        tokenizer: changed in place.
        size: of the model's vocabulary, which is often rounded up.
        source: the tokenizer, as a sentence is to name it.

    Raises:
        UsageError: it has more than the model.
    """
    own = _size(tokenizer)
    if own > size:
        raise UsageError(f"{source} has {own:,} tokens and the model {size:,}; give the model's own tokenizer")
    names = [f"<|unused_{number}|>" for number in range(own, size)]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    if _size(tokenizer) != size:
        raise UsageError(f"{source} has {own:,} tokens with gaps between them, and the model {size:,}; close the gaps")
    return tokenizer


def _size(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
