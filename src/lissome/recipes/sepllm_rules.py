"""What each reader keeps, as a mask and as a cache, and the window at which it uses as many keys as SepLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lissome.attention import Frame, SeparatorCache
from lissome.attention.segments import separators, sinks
from lissome.attention.validity import Validity, causal, every_kth, window
from lissome.recipes.sepllm_names import FIX, FULL, RANDOM, SEPLLM, STREAMING, Keeps, Sees
from lissome.recipes.sepllm_text import Marked

ALIKE = 0.01  # how far uses may lie apart, as a part of SepLLM's


def far(label: str, marked: Marked) -> Validity | None:
    """Return the rule of the keys that a reader keeps beyond its window, beside the first; None: it keeps none."""
    rules = {SEPLLM: lambda: separators(marked.ids), RANDOM: lambda: separators(marked.drawn),
             FIX: lambda: every_kth(marked.k), STREAMING: lambda: None}  # fmt: skip
    return rules[label]()


def mask(label: str, marked: Marked, sees: Sees) -> Validity:
    """Return the mask of a reader; `near` is its window."""
    if label == FULL:
        return causal
    rule = far(label, marked)
    kept = sinks(sees.initial) if rule is None else sinks(sees.initial) | rule
    return causal & (kept | window(sees.near))


def sizes(label: str, keeps: Keeps, local: int | None = None) -> dict[str, int]:
    """Return the sizes of a reader's cache, as `SeparatorCache` takes them."""
    return {
        "initial": keeps.initial,
        "separators_kept": 0 if label == STREAMING else keeps.separators,
        "local": keeps.local if local is None else local,
        "capacity": keeps.capacity,
    }


def ids_of(label: str, marked: Marked) -> Validity | tuple[int, ...]:
    """Return what a `SeparatorCache` of a reader takes as separators."""
    rule = far(label, marked)
    return () if rule is None else rule


def seen(rule: Validity, tokens: Tensor, scored: int) -> float:
    """Return how many keys a query sees, the mean over the last `scored` queries of rows (n, T)."""
    counts = [rule(Frame.full(rows.shape[1], tokens=rows))[:, 0, -scored:].sum(2) for rows in tokens.split(16)]
    return float(torch.cat(counts).double().mean())


def parts(tokens: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """Yield tokens (n, T) in parts of so many, each behind the place where it begins."""
    for place in range(0, tokens.shape[1], chunk):
        yield place, tokens[:, place : place + chunk]


def held(cache: SeparatorCache, tokens: Tensor, chunk: int, scored: int) -> float:
    """Return how many keys a cache holds after a part, the mean over rows (n, T) and the last `scored` tokens.

    No model is asked: what is held hangs on the tokens alone.
    """
    found = []
    for place, part in parts(tokens, chunk):
        cache.begin(part)
        if place >= tokens.shape[1] - scored:
            found.append(cache.held.double().mean())
    return float(torch.stack(found).mean())


def counting(label: str, marked: Marked, **sizes: Any) -> SeparatorCache:
    """Return a cache of a reader that counts and holds nothing."""
    return SeparatorCache(1, ids_of(label, marked), **sizes)


def matched_mask(label: str, marked: Marked, sees: Sees, tokens: Tensor, scored: int) -> tuple[Sees, float, float]:
    """Return the window at which a reader's queries see as many keys as SepLLM's, and what both see."""
    wanted = seen(mask(SEPLLM, marked, sees), tokens, scored)
    if label in (FULL, SEPLLM):
        return sees, seen(mask(label, marked, sees), tokens, scored), wanted

    def measure(near: int) -> float:
        return seen(mask(label, marked, Sees(sees.initial, near)), tokens, scored)

    near, found = at_equal_use(measure, wanted, tokens.shape[1])
    return Sees(sees.initial, near), found, wanted


def matched_cache(
    label: str, marked: Marked, keeps: Keeps, tokens: Tensor, chunk: int, scored: int
) -> tuple[dict[str, int], float]:
    """Return the sizes at which a reader's cache holds as much as SepLLM's, with the same capacity, and what that is.

    What SepLLM's holds is the second figure.
    """
    wanted = held(counting(SEPLLM, marked, **sizes(SEPLLM, keeps)), tokens, chunk, scored)
    if label == SEPLLM:
        return sizes(label, keeps), wanted

    def measure(local: int) -> float:
        return held(counting(label, marked, **sizes(label, keeps, local)), tokens, chunk, scored)

    most = keeps.capacity - keeps.initial - sizes(label, keeps)["separators_kept"] - 1
    local, _ = at_equal_use(measure, wanted, most)
    return sizes(label, keeps, local), wanted


def at_equal_use(measure: Callable[[int], float], wanted: float, most: int) -> tuple[int, float]:
    """Return the window from 1 to `most` whose use is nearest to what is wanted, and that use, which rises with it.

    >>> at_equal_use(lambda window: 4.0 + window, 36.4, 100)
    (32, 36.0)
    """
    low, high, tried = 1, most, dict[int, float]()
    while low <= high:
        middle = (low + high) // 2
        tried[middle] = measure(middle)
        low, high = (middle + 1, high) if tried[middle] < wanted else (low, middle - 1)
    best = min(tried, key=lambda window: abs(tried[window] - wanted))
    return best, tried[best]
