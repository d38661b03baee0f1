"""Write on from given tokens, one after another, each from a row of a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from lissome._checks import check_columns, check_kind, check_number, check_whole, refuse
from lissome._errors import UsageError
from lissome.attention import Cache, GrowingCache, SeparatorCache
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape

COLDEST = 1e-6  # temperatures below it take the likeliest token: quotients leave single precision


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
    cache: Cache | None = None,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
    on_token: Callable[[Tensor], bool | None] | None = None,
) -> Tensor:
    """Continue rows of tokens.

    Args:
        model: set to evaluation meanwhile, and back afterwards.
        tokens: (B, T) int64, T at least 1; shorter rows are padded on the left.
        count: new tokens per row.
        temperature: logits are divided by it; 0, and all below 1e-6, takes the likeliest token.
        top_k: draw among so many of the likeliest.
        top_p: draw among the likeliest that hold so much probability together (nucleus, arXiv 1904.09751).
        present: (B, T) bool, False at padding.
        cache: one that was begun, to go on with it, or one that drops what is far, `model.separator_cache(ids)`; None
            begins one that keeps all.
        chunk: read the tokens in parts of so many, which bounds memory where the cache drops some; None: all at once.
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
    _check_tokens(model, tokens, present)
    _check_draws(count, temperature, top_k, top_p)
    if cache is not None:
        check_kind("cache", cache, (GrowingCache, SeparatorCache), "is such as model.cache(), or None")
    if chunk is not None:
        check_whole("chunk", chunk)
    if generator is not None:
        check_kind("generator", generator, torch.Generator, "is a torch.Generator on the CPU, or None")
        if generator.device.type != "cpu":
            raise UsageError(f"the generator is on {generator.device}; legal is one on the CPU")
    if on_token is not None and not callable(on_token):
        raise refuse("on_token", on_token, "is a function of a column (B,), or None")
    training = model.training
    model.eval()
    try:
        cache = model.cache() if cache is None else cache
        found = [tokens]
        *parts, step = tokens.split(chunk or tokens.shape[1], 1)
        *theres, here = [None] * (len(parts) + 1) if present is None else present.split(chunk or tokens.shape[1], 1)
        for part, there in zip(parts if count else (), theres, strict=False):
            model(part, present=there, cache=cache, last=1)
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
    if temperature < COLDEST:
        return logits.argmax(-1)
    logits = logits.float().cpu()  # a draw on the CPU is the same on every device
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None and top_p < 1:
        sorted_logits, places = logits.sort(-1, descending=True)
        share = sorted_logits.softmax(-1)
        before = share.cumsum(-1) - share
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


def _check_tokens(model: Decoder, tokens: Tensor, present: Tensor | None) -> None:
    if not isinstance(getattr(model, "shape", None), DecoderShape):  # a compiled decoder is one too
        raise refuse("model", model, "is a Decoder")
    check_kind("tokens", tokens, Tensor, "is a tensor (B, T) of torch.int64")
    if tokens.ndim != 2 or not tokens.shape[1] or tokens.dtype != torch.long:
        came = f"shape {tuple(tokens.shape)} and dtype {tokens.dtype}"
        raise UsageError(f"tokens have {came}; legal is (B, T) int64 with at least one token to go on from")
    size = model.shape.vocabulary
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise UsageError(f"the tokens reach from {int(tokens.min())} to {int(tokens.max())}; legal are 0 to {size - 1}")
    if present is not None:
        check_columns("present", present, torch.bool)
        if present.shape != tokens.shape:
            legal = f"legal is that of tokens, {tuple(tokens.shape)}"
            raise UsageError(f"present has shape {tuple(present.shape)}; {legal}")
        if not present[:, -1].all():
            row = int((~present[:, -1]).nonzero()[0])
            raise UsageError(f"row {row} ends in padding; legal is padding before the tokens that are gone on from")


def _check_draws(count: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    check_whole("count", count, 0)
    check_number("temperature", temperature, "are 0 and positive numbers", lambda value: 0 <= value < math.inf)
    if top_k is not None:
        check_whole("top_k", top_k)
    if top_p is not None:
        check_number("top_p", top_p, "are numbers above 0 and up to 1, or none", lambda value: 0 < value <= 1)
