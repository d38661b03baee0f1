"""Perplexity by length: the same last tokens of the same places, read with more and more context before them.

Reference: C. Zheng et al., arXiv 2405.14722: the last 256 tokens are scored, of windows that end at the same positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lissome._errors import UsageError, is_out_of_memory
from lissome.language.memory import available_memory
from lissome.language.score import cross_entropy, perplexity, scoring

SCORED = 256  # arXiv 2405.14722
WINDOWS = 64
AT_ONCE = 1 << 13  # tokens
GIB = 1 << 30


@dataclass(frozen=True)
class LengthPerplexity:
    """What a model pays at one length.

    Attributes:
        length: tokens that it sees.
        nats: the mean per scored token.
        perplexity: its exponential.
        error: the standard error of `nats` over windows; NaN of one window.
        windows: how many.
        scored: tokens scored in each.
        each: the mean of each window, in one order for all lengths, so that two may be compared window by window.
        bits_per_byte: what a byte of the scored tokens costs in bits; None if their bytes are not known.
    """

    length: int
    nats: float
    perplexity: float
    error: float
    windows: int
    scored: int
    each: tuple[float, ...]
    bits_per_byte: float | None = None


def perplexity_by_length(
    model: nn.Module,
    tokens: np.ndarray | Tensor,
    lengths: Sequence[int],
    *,
    scored: int = SCORED,
    windows: int = WINDOWS,
    tokens_at_once: int = AT_ONCE,
    widths: np.ndarray | None = None,
    bytes_of: Callable[[int], float] | None = None,
    available: int | None = None,
    tick: Callable[[int], object] | None = None,
) -> list[LengthPerplexity]:
    """Score the last tokens of windows that end at the same positions for all lengths.

    A window of length L that ends at e gives the model tokens e - L to e - 1 and scores its last m predictions, those
    of tokens e - m + 1 to e. Both e and m are the same for all lengths, with m = min(scored, the shortest length):
    lengths differ in the context alone, so that more of it can only help a model that makes use of it. The first scored
    token of the shortest length has one token of context if m is that length.

    Args:
        model: called as model(tokens (B, L) int64, last=m), returns logits (B, m, V) of the last m positions.
        tokens: held-out text, (N,) of whole numbers.
        lengths: L, each at least 1; returned in this order.
        scored: tokens scored at the end of a window, at most.
        windows: how many, at most; fewer where scored tokens would be scored twice. They lie evenly over the text.
        tokens_at_once: that go through the model, at least one window; fewer where memory wants it.
        widths: how many bytes each token stands for, (V,); `Vocabulary.widths` has them. None: it is not known.
        bytes_of: how many bytes the model takes for one window of a length (naive attention about heads * L^2 * 4 times
            the tensors of that size); asked before anything runs.
        available: bytes that may be taken; None asks the system.
        tick: called with each length when it is done.

    Raises:
        UsageError: no lengths, or numbers below 1; a text too short for the greatest length; a length that does not fit
            in memory. The sentence names the longest that is legal.
    """
    _check(lengths, scored, windows, tokens_at_once)
    ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else tokens
    most, m = max(lengths), min(scored, *lengths)
    if most > len(ids) - 1:
        raise UsageError(
            f"the held-out text has {len(ids):,} tokens, too few for length {most:,}; legal are lengths up to "
            f"{max(0, len(ids) - 1):,}"
        )
    many = min(windows, 1 + (len(ids) - 1 - most) // m)
    ends = np.linspace(most, len(ids) - 1, many).astype(np.int64)  # (W,)
    size = None if widths is None else int(widths[ids[ends[:, None] - np.arange(m)]].sum())  # bytes that are scored
    with scoring(model) as device:
        room = available_memory(device) if available is None else available
        rows = {
            length: _rows(length, max(1, tokens_at_once // length), bytes_of, room) for length in sorted(set(lengths))
        }
        found = dict[int, LengthPerplexity]()
        for length, at_once in rows.items():
            nats = _score(model, ids, ends, length, m, at_once, device)  # (W,)
            mean = float(nats.mean())
            error = float(nats.std()) / math.sqrt(many) if many > 1 else math.nan
            bits = mean * many * m / math.log(2) / size if size else None
            told = tuple(nats.tolist())
            found[length] = LengthPerplexity(length, mean, perplexity(mean), error, many, m, told, bits)
            if tick is not None:
                tick(length)
    return [found[length] for length in lengths]


def _score(
    model: nn.Module,
    ids: np.ndarray,
    ends: np.ndarray,
    length: int,
    m: int,
    rows: int,
    device: torch.device,
) -> Tensor:
    """Return the mean nats of each window, (W,) in float64; with fewer rows at once if memory runs out."""
    view = np.lib.stride_tricks.sliding_window_view(ids, length + 1)  # (N - L, L + 1)
    found, place = list[Tensor](), 0
    while place < len(ends):
        try:
            part = torch.from_numpy(view[ends[place : place + rows] - length].astype(np.int64)).to(device)  # (B, L + 1)
            nats = cross_entropy(model(part[:, :-1], last=m), part[:, -m:])  # (B, m)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise UsageError(f"length {length:,} does not fit in memory; take lengths below it") from error
            rows //= 2
            continue
        found.append(nats.double().mean(1).cpu())
        place += len(part)
    return torch.cat(found)


def _rows(length: int, rows: int, bytes_of: Callable[[int], float] | None, room: int | None) -> int:
    """Return how many windows fit at once, of those that are wanted."""
    if bytes_of is None or room is None:
        return rows
    need = bytes_of(length)
    if need <= room:
        return min(rows, int(room // need)) if need > 0 else rows
    low, high = 0, length  # the longest that fits lies from low to below high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_of(middle) <= room else (low, middle)
    legal = f"legal are lengths up to {low:,}" if low else "not even one token fits"
    raise UsageError(
        f"length {length:,} needs about {need / GIB:,.1f} GiB and {room / GIB:,.1f} GiB of memory are left; {legal}"
    )


def _check(lengths: Sequence[int], scored: int, windows: int, tokens_at_once: int) -> None:
    if not lengths:
        raise UsageError("lengths are empty; give at least one, such as 128")
    for name, value in (
        *(("a length", length) for length in lengths),
        ("scored", scored),
        ("windows", windows),
        ("tokens_at_once", tokens_at_once),
    ):
        if value < 1:
            raise UsageError(f"{name} is {value}; legal are whole numbers of at least 1")
