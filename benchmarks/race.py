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


def race(contestants: Mapping[str, Contestant], *, rounds: int, warm: int = 3) -> Times:
    """Time each contestant once per round, in a new random order each round, after `warm` calls that do not count."""
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
                start = time.perf_counter()
                contestants[name]()
                times[name].append(time.perf_counter() - start)
            gc.collect()
    finally:
        gc.enable()
    return times


def ratio(times: Times, slow: str, fast: str) -> Ratio:
    """Compare two contestants within each round."""
    pairs = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return Ratio(median, low, high, min(times[slow]) / min(times[fast]))
