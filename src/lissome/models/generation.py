"""Write on from given tokens, one after another, each from a row of a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

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
        UsageError: no tokens to begin with, tokens outside the vocabulary, or a value out of its range.

    >>> from lissome.models import Decoder, DecoderShape
    >>> model = Decoder(DecoderShape(vocabulary=8, layers=1, width=8, heads=2))
    >>> generate(model, torch.tensor([[1, 2]]), 3, temperature=0).shape
    torch.Size([1, 5])
    """
    _check(model, tokens, count, temperature, top_k, top_p)
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
    logits = logits.float().cpu() / temperature  # a draw on the CPU is the same on every device
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None and top_p < 1:
        sorted_logits, places = logits.sort(-1, descending=True)
        before = sorted_logits.softmax(-1).cumsum(-1) - sorted_logits.softmax(-1)
        logits = logits.masked_fill((before >= top_p).gather(-1, places.argsort(-1)), -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def streamed(text: Callable[[list[int]], str]) -> Iterator[str]:
    """Return pieces of text for tokens that are sent in one by one; a character that is cut is held back.

    >>> pieces = streamed(lambda ids: bytes(ids).decode("utf-8", "replace"))
    >>> _ = next(pieces)
    >>> [pieces.send(i) for i in "aé".encode()]
    ['a', '', 'é']
    """
    ids: list[int] = []
    piece = ""
    while True:
        ids.append((yield piece))
        whole = text(ids)
        piece = "" if whole.endswith("\ufffd") and len(ids) < 4 else whole
        ids = [] if piece else ids


def _check(
    model: Decoder, tokens: Tensor, count: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise UsageError(
            f"tokens have shape {tuple(tokens.shape)}; legal is (B, T) with at least one token to go on from"
        )
    size = model.shape.vocabulary
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise UsageError(f"the tokens reach from {int(tokens.min())} to {int(tokens.max())}; legal are 0 to {size - 1}")
    if count < 0:
        raise UsageError(f"count is {count}; legal are 0 and more tokens")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature is {temperature}; legal are 0 and positive numbers")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; legal are 1 and more, or none")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; legal are numbers above 0 and up to 1, or none")
