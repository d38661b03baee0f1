"""Contestants in turns, and what their times say about one another."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contestant = Callable[[], object]
Times = dict[str, list[float]]  # contestant -> seconds, one number per round


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contestant takes than another, over the rounds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    fastest: float  # ratio of the fastest times of either, which the machine's other work disturbs least


def race(contestants: Mapping[str, Contestant], *, rounds: int, burst: int = 0, warm: int = 3) -> Times:
    """Time each contestant once per round, in a new random order each round, after `warm` calls that do not count.

    With a burst, a turn is one call that does not count and the mean of so many that do: a training step follows
    another one, and what it finds in the caches is its own.
    """
    order, times = list(contestants), {name: [] for name in contestants}
    shuffle = random.Random(0).shuffle
    for name in order:
        for _ in range(warm):
            contestants[name]()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                if burst:
                    contestants[name]()
                start = time.perf_counter()
                for _ in range(burst or 1):
                    contestants[name]()
                times[name].append((time.perf_counter() - start) / (burst or 1))
            gc.collect()
    finally:
        gc.enable()
    return times


def ratio(times: Times, slow: str, fast: str) -> Ratio:
    """Compare two contestants within each round."""
    pairs = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return Ratio(median, low, high, min(times[slow]) / min(times[fast]))
