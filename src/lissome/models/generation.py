"""Write on from given tokens, one after another, each from a row of a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.attention import GrowingCache
from lissome.models.decoder import Decoder


@torch.no_grad()
def generate(
    model: Decoder,
    tokens: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    present: Tensor | None = None,
    cache: GrowingCache | None = None,
    generator: torch.Generator | None = None,
    on_token: Callable[[Tensor], bool | None] | None = None,
) -> Tensor:
    """Continue rows of tokens.

    Args:
        model: set to evaluation meanwhile, and back afterwards.
        tokens: (B, T) int64, T at least 1; shorter rows are padded on the left.
        count: new tokens per row.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw among so many of the likeliest.
        top_p: draw among the likeliest that hold so much probability together (nucleus, arXiv 1904.09751).
        present: (B, T) bool, False at padding.
        cache: one that was begun, to go on with it; None begins one.
        generator: of the draws, on the CPU.
        on_token: called with each new column (B,); True ends the writing.

    Returns:
        (B, T + count) int64, or shorter where `on_token` ended it.

    Raises:
        UsageError: no tokens to begin with, tokens outside the vocabulary, padding at the end of a row, or a value out
            of its range.

    >>> from lissome.models import Decoder, DecoderShape
    >>> model = Decoder(DecoderShape(vocabulary=8, layers=1, width=8, heads=2))
    >>> generate(model, torch.tensor([[1, 2]]), 3, temperature=0).shape
    torch.Size([1, 5])
    """
    _check(model, tokens, present, count, temperature, top_k, top_p)
    training = model.training
    model.eval()
    try:
        cache = model.cache() if cache is None else cache
        found, step, here = [tokens], tokens, present
        for _ in range(count):
            logits = model(step, present=here, cache=cache, last=1)[:, -1]  # (B, V)
            step, here = draw(logits, temperature, top_k, top_p, generator)[:, None], None
            found.append(step)
            if on_token is not None and on_token(step[:, 0]):
                break
        return torch.cat(found, 1)
    finally:
        model.train(training)


def draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a token of each row of logits (B, V)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float().cpu()  # a draw on the CPU is the same on every device
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0: a small temperature overflows to -inf
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None and top_p < 1:
        sorted_logits, places = logits.sort(-1, descending=True)
        before = sorted_logits.softmax(-1).cumsum(-1) - sorted_logits.softmax(-1)
        logits = logits.masked_fill((before >= top_p).gather(-1, places.argsort(-1)), -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def streamed(text: Callable[[list[int]], str]) -> Generator[str, int | None, None]:
    """Return pieces of text for tokens that are sent in one by one; a character that is cut is held back.

    `text` shows a cut character as one U+FFFD at the end, which alone a next token can change: no more than that is
    held back, so bytes that are no text delay nothing. None in place of a token gives what is left.

    >>> pieces = streamed(lambda ids: bytes(ids).decode("utf-8", "replace"))
    >>> _ = next(pieces)
    >>> [pieces.send(i) for i in [*"aé".encode(), 255, None]]
    ['a', '', 'é', '', '\ufffd']
    """
    ids, told, piece = list[int](), 0, ""
    while True:
        token = yield piece
        ids += [] if token is None else [token]
        whole = text(ids)
        cut = token is not None and whole.endswith("\ufffd")
        piece = whole[told : len(whole) - cut]
        ids, told = (ids, told + len(piece)) if cut else ([], 0)


def _check(
    model: Decoder,
    tokens: Tensor,
    present: Tensor | None,
    count: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if tokens.ndim != 2 or not tokens.shape[1] or tokens.dtype != torch.long:
        came = f"shape {tuple(tokens.shape)} and dtype {tokens.dtype}"
        raise UsageError(f"tokens have {came}; legal is (B, T) int64 with at least one token to go on from")
    size = model.shape.vocabulary
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise UsageError(f"the tokens reach from {int(tokens.min())} to {int(tokens.max())}; legal are 0 to {size - 1}")
    if present is not None and present.shape == tokens.shape and not present[:, -1].all():
        row = int((~present[:, -1]).nonzero()[0])
        raise UsageError(f"row {row} ends in padding; legal is padding before the tokens that are gone on from")
    if count < 0:
        raise UsageError(f"count is {count}; legal are 0 and more tokens")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature is {temperature}; legal are 0 and positive numbers")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; legal are 1 and more, or none")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; legal are numbers above 0 and up to 1, or none")
