"""How many terms each layer may give, while terms are taken one at a time and a total is to be met exactly.

Sets with given bounds per layer and a given total are the bases of a matroid: a set that can still grow into one grows
term by term, and a term that cannot be taken now cannot be taken later. So a closed term stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lissome._errors import UsageError, unknown
from lissome.adapt.quadratic import Mask

Count = int | Mapping[str, int]


class Quota:
    """What has been taken, and what may be taken next.

    Args:
        layers: the terms of each layer, one after another.
        low: how many are to be taken of each layer at least.
        high: and at most; `low <= high`.
        total: how many in all, from the sum of `low` to the sum of `high`.

    Attributes:
        open: (n,) the terms that may be taken now, so that all bounds can be met in the end.
        taken: (n,) those that have been.
        left: how many are still to be taken.
    """

    def __init__(self, layers: Sequence[slice], low: Sequence[int], high: Sequence[int], total: int):
        self.left = total
        self.open: Mask = np.ones(layers[-1].stop, dtype=bool)
        self.taken: Mask = np.zeros_like(self.open)
        self._layers, self._low, self._high = layers, low, high
        self._owner = [index for index, span in enumerate(layers) for _ in range(span.stop - span.start)]
        self._count = [0] * len(layers)
        self._owed = sum(low)  # to layers below their least
        self._tight = False  # all that is left is owed
        self._close(())

    def take(self, j: int) -> None:
        """Take an open term."""
        layer = self._owner[j]
        self.taken[j], self.open[j] = True, False
        self.left -= 1
        self._count[layer] += 1
        self._owed -= self._count[layer] <= self._low[layer]
        self._close((layer,))

    def _close(self, touched: tuple[int, ...]) -> None:
        """Close the layers that are full; all are looked at only at the start and when the rest becomes owed."""
        turned = self._owed == self.left and not self._tight
        self._tight |= turned
        for layer in range(len(self._layers)) if turned or not touched else touched:
            count = self._count[layer]
            if count == self._high[layer] or (self._tight and count >= self._low[layer]):
                self.open[self._layers[layer]] = False


def sizes_of(layers: Mapping[str, int] | None, n: int) -> dict[str, int]:
    """Return name -> how many of n terms are the layer's; they add up to n."""
    sizes = {"all": n} if layers is None else dict(layers)
    for name, size in sizes.items():
        _whole(size, f"number of terms of layer '{name}'", 1, n)
    if sum(sizes.values()) != n:
        raise UsageError(f"layers have {sum(sizes.values())} terms together; legal are as many as gates, {n}")
    return sizes


def shares(
    budget: int, layers: Mapping[str, int], least: Count, most: Count | None
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return least and most for each layer, and how many terms are kept in all."""
    low = _counts(least, "least", layers, dict.fromkeys(layers, 0))
    high = _counts(layers if most is None else most, "most", layers, layers)
    for name, size in layers.items():
        if low[name] > (bound := min(high[name], size)):
            legal = f"its most, {bound}" if high[name] < size else f"its {size} terms"
            raise UsageError(f"least is {low[name]} for layer '{name}'; legal is up to {legal}")
    _whole(budget, "budget", sum(low.values()), sum(layers.values()))
    high = {name: min(high[name], size) for name, size in layers.items()}
    return tuple(low.values()), tuple(high.values()), min(budget, sum(high.values()))


def _counts(count: Count, what: str, layers: Mapping[str, int], rest: Mapping[str, int]) -> dict[str, int]:
    """Return name -> count for every layer, in order."""
    given = count if isinstance(count, Mapping) else dict.fromkeys(layers, count)
    for name, value in given.items():
        if name not in layers:
            raise unknown(f"layer of {what}", name, layers)
        _whole(value, f"{what} for layer '{name}'", 0)
    return {name: given.get(name, rest[name]) for name in layers}


def _whole(value: object, what: str, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        legal = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{what} is {value}; legal is a whole number {legal}")
