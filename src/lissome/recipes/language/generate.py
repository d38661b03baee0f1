"""Let a trained language model write on."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lissome._errors import UsageError
from lissome.language import Vocabulary
from lissome.models.generation import generate, streamed
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.settings import LARGEST_SEED
from lissome.recipes.training import device_of

TOKENS = 200
LARGEST = 10**9  # tokens that are asked for


def generate_text(
    run: str | Path,
    prompt: str = "",
    *,
    tokens: int = TOKENS,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    device: str = "auto",
    on_piece: Callable[[str], bool | None] | None = None,
) -> dict[str, Any]:
    """Go on with a prompt by the model of a run.

    Args:
        run: directory of `lissome lm train`, finished or not.
        prompt: what to go on with; empty where the vocabulary has a token that ends a document, which begins one too.
        tokens: to write, at most: the end of a document ends the writing.
        temperature: of the draws; 0 takes the likeliest token.
        top_k: draw among so many of the likeliest.
        top_p: draw among the likeliest that hold so much probability together.
        seed: of the draws.
        device: as in settings.
        on_piece: called with each piece of text as it is written; True ends the writing.

    Returns:
        prompt, text (what was written), tokens (how many), ended (whether the document ended), seconds.

    Raises:
        UsageError: no such run or no checkpoint, a prompt that cannot be gone on with, or a value out of its range.
    """
    for name, value, most in (("tokens", tokens, LARGEST), ("seed", seed, LARGEST_SEED)):
        if not 0 <= value <= most:
            raise UsageError(f"{name} is {value}; legal are whole numbers from 0 to {most}")
    trained = load_trained(run, device_of(device))
    vocabulary = trained.vocabulary
    ids = prompt_ids(vocabulary, prompt)
    pieces = streamed(lambda ids: vocabulary.decode(ids))
    next(pieces)
    written = list[int]()
    ended = enough = False

    def note(column: torch.Tensor) -> bool:
        nonlocal ended, enough
        token = int(column[0])
        ended = token == vocabulary.end
        if ended:
            return True
        written.append(token)
        piece = pieces.send(token)
        enough = bool(piece and on_piece is not None and on_piece(piece))
        return enough

    begun = time.perf_counter()
    generate(
        trained.model,
        torch.from_numpy(ids)[None].to(next(trained.model.parameters()).device),  # (1, T)
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=torch.Generator().manual_seed(seed),
        on_token=note,
    )
    if on_piece is not None and not enough and (rest := pieces.send(None)):
        on_piece(rest)
    return {
        "prompt": prompt,
        "text": vocabulary.decode(written),
        "tokens": len(written),
        "ended": ended,
        "seconds": time.perf_counter() - begun,
    }


def prompt_ids(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Return the ids of a prompt, (T,) int64.

    Raises:
        UsageError: it is empty and no token begins a document, or it has a character that the vocabulary has not.

    >>> from lissome.language import Bytes
    >>> prompt_ids(Bytes(), "ab").tolist()
    [97, 98]
    """
    if not prompt:
        if vocabulary.end is None:
            raise UsageError(
                f"the prompt is empty, and the vocabulary ({vocabulary.kind}) has no token that begins a document; "
                "give at least one character"
            )
        return np.array([vocabulary.end], np.int64)
    ids = vocabulary.encode(prompt).astype(np.int64)
    told = _letters(vocabulary.decode(ids))
    for character in prompt:
        if not _letters(character) <= told:
            raise UsageError(f"the vocabulary has no token for {character!r} of the prompt; leave it out")
    if not len(ids):
        raise UsageError("the vocabulary makes no token of the prompt; give other characters")
    return ids


def _letters(text: str) -> set[str]:
    """Return the characters of a text but for case, accents and spaces, which vocabularies may fold."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return {c for c in plain if not c.isspace() and not unicodedata.category(c).startswith(("M", "C"))}
