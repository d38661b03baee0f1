r"""Which ids of a vocabulary end a segment of text (SepLLM, arXiv 2412.12094).

An id counts when its text, spaces stripped, is made only of . , ? ! ; : newline and tab, or was spaces alone. So " ,",
".\n" and "  " count, and "a." does not, nor "{\n". Where ids are one character, as in a vocabulary of bytes, spaces
do not count: there they stand between words, and elsewhere most are part of one. The paper's own lists are shorter
(`PAPER`): they leave out what joins two of the characters, such as ".\n".

This module loads neither torch nor transformers, and tokenizers only to read a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissome._door import door
from lissome._errors import UsageError
from lissome._files import reason

_TOKENIZER, _ = door(__name__, {"of_bytes": "lissome.bridges.tokenizer"})  # which loads tokenizers
CHARACTERS = ".,?!;:\n\t"
# as published; Llama-3's list for use without training also holds 128000, the token that begins a text
PAPER: Mapping[str, tuple[int, ...]] = {
    "llama-3": (13, 11, 30, 0, 26, 25, 198, 220, 662, 1174, 949, 758, 2652, 551, 720, 256, 262),
    "gpt-neox": (15, 13, 32, 2, 28, 27, 209, 186, 187),
}
SPACE = "▁"  # how vocabularies of SentencePiece write a space; decoding a lone one gives no text


def is_separator(text: str, characters: str = CHARACTERS) -> bool:
    r"""Say whether the text of an id ends a segment.

    >>> [is_separator(text) for text in (" ,", ".\n", "  ", "\t", "a.", "{\n", "")]
    [True, True, True, True, False, False, False]
    """
    return bool(text) and set(text.strip(" ")) <= set(characters)


def separator_ids(tokenizer: Any, *, characters: str = CHARACTERS) -> tuple[int, ...]:
    """Return the ids of a vocabulary that end a segment, in rising order.

    Args:
        tokenizer: of transformers, a `tokenizers.Tokenizer`, or a vocabulary of Lissome.
        characters: of which the text of such an id is made, beside spaces.

    Raises:
        UsageError: it is no tokenizer, or no id counts.

    >>> from lissome.language import Bytes
    >>> separator_ids(Bytes())
    (9, 10, 33, 44, 46, 58, 59, 63)
    """
    spelled = texts(tokenizer)
    joined = sum(len(text) > 1 for text in spelled.values()) > len(spelled) / 4  # not the few special ones alone
    found = tuple(id for id, text in spelled.items() if is_separator(text, characters) and (joined or text.strip(" ")))
    if not found:
        raise UsageError(
            f"no id of this {type(tokenizer).__name__} is made of {' '.join(map(repr, characters))} alone; give ids of "
            "your own as separators"
        )
    return found


def texts(tokenizer: Any) -> dict[int, str]:
    """Return the text of each id, in rising order; special tokens under their names.

    Raises:
        UsageError: it is no tokenizer.
    """
    vocabulary: Any = getattr(tokenizer, "get_vocab", None)
    decode: Any = getattr(tokenizer, "decode", None)
    if decode is None:
        raise _no_tokenizer(tokenizer)
    if vocabulary is not None:  # of transformers or of tokenizers
        pieces: dict[int, str] = {id: piece for piece, id in vocabulary().items()}
        return {id: _spelled(pieces[id], decode([id], skip_special_tokens=False)) for id in sorted(pieces)}
    size = getattr(tokenizer, "size", None)
    if not isinstance(size, int):
        raise _no_tokenizer(tokenizer)
    return {id: decode([id]) for id in range(size)}


def listed(place: str | Path, text: str | Path | None = None) -> dict[str, Any]:
    """Tell which ids of a stored tokenizer end a segment, and how often they do in a text.

    Args:
        place: tokenizer.json, a folder that holds one, a run of a language model, or the vocabulary that it saved.
        text: a file of text, or None.

    Returns:
        tokenizer, size (ids), separators: a list of id and text; with a text also count in each, and text, tokens,
        share (of its tokens).

    Raises:
        UsageError: a file that is not there or holds no such thing, no id that counts, or a text without a token.
    """
    tokenizer = _read(Path(place))
    spelled = texts(tokenizer)
    rows: list[dict[str, Any]] = [{"id": id, "text": spelled[id]} for id in separator_ids(tokenizer)]
    found = {"tokenizer": str(place), "size": len(spelled), "separators": rows}
    if text is None:
        return found
    try:
        words = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"'{text}' cannot be read: {_said(error)}; legal is a file of UTF-8 text") from error
    counts = Counter(tokenizer.encode(words, add_special_tokens=False).ids)
    if not (tokens := counts.total()):
        raise UsageError(f"'{text}' holds no token; give a text")
    for row in rows:
        row["count"] = counts[row["id"]]
    return found | {"text": str(text), "tokens": tokens, "share": sum(row["count"] for row in rows) / tokens}


def _read(place: Path) -> Any:
    held = (place / name for name in ("tokenizer.json", "vocabulary.json"))  # the second of a run
    file = next((each for each in held if each.is_file()), place)
    if not file.is_file():
        raise UsageError(
            f"there is no tokenizer '{place}'; legal is tokenizer.json, a folder that holds one, as "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes it, or the directory of a run"
        )
    from tokenizers import Tokenizer  # here, so that `lissome --help` does without

    try:
        told = file.read_text(encoding="utf-8")
        of_bytes = json.loads(told) == {"kind": "bytes"}
        return Tokenizer.from_str(json.dumps(_TOKENIZER("of_bytes")()) if of_bytes else told)
    except Exception as error:  # the library raises plain Exception
        raise UsageError(f"'{file}' is no file of the tokenizers library: {_said(error)}") from error


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return reason(error)
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _spelled(piece: str, text: str) -> str:
    return text if text or set(piece) != {SPACE} else " " * len(piece)


def _no_tokenizer(value: object) -> UsageError:
    return UsageError(
        f"tokenizer is of type {type(value).__name__}; legal is one of transformers, a tokenizers.Tokenizer or a "
        "vocabulary of Lissome"
    )
