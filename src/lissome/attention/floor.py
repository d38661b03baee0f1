"""What attention cannot do without: operations of a forward pass, and bytes that have to be read and written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention


@dataclass(frozen=True)
class Floor:
    """The least work of a forward pass, whoever does it.

    Attributes:
        operations: additions and multiplications of scores, refinement and mixing, over the pairs that may be seen.
        bytes: of queries, keys, values and the output, each once.

    >>> print(Floor(3_200_000_000, 12_600_000))
    3.2 G operations and 12.6 MB
    """

    operations: int
    bytes: int

    def __str__(self) -> str:
        return f"{_counted(self.operations)} operations and {_counted(self.bytes)}B"


def floor(q: Tensor, k: Tensor, frame: Frame, recipe: Attention) -> Floor:
    """Return the floor of a recipe on queries (B, H, Tq, D) and keys (B, G, Tk, D); values are taken to be as keys.

    A refinement says what a pair costs it over all heads (`operations`); one that does not counts as nothing.
    """
    batch, heads, rows, dimension = q.shape
    pairs = batch * _pairs(rows, k.shape[2], frame, recipe) + _from_afar(batch, rows, k.shape[2], frame, recipe)
    refined = 0 if recipe.refine is None else getattr(recipe.refine, "operations", 0)
    moved = 2 * (q.numel() + k.numel()) * q.element_size()
    return Floor(pairs * (4 * dimension * heads + refined), moved)


def _pairs(rows: int, keys: int, frame: Frame, recipe: Attention) -> int:
    rule = recipe.validity
    if not (frame.whole and rule.causal):
        return rows * keys
    reach = keys if rule.reach is None else rule.reach + 1
    if rule.split is not None and rule.split.near is not None:
        reach = rule.split.near
    first, last = keys - rows + 1, keys  # keys up to the first query, and up to the last
    full = max(0, last - max(first, reach) + 1)  # queries that see `reach` keys
    return full * reach + sum(min(seen, reach) for seen in (first, last - full)) * (rows - full) // 2


def _from_afar(batch: int, rows: int, keys: int, frame: Frame, recipe: Attention) -> int:
    """Count the pairs of queries with keys that are kept for them beyond their windows, in all texts of a batch."""
    split = recipe.validity.split
    if not (frame.whole and recipe.validity.causal) or split is None or split.near is None or split.kept is None:
        return 0
    kept = split.kept(frame)  # (1 or B, Tk)
    left = (keys - (frame.keys + split.near).clamp(min=keys - rows)).clamp(min=0)  # queries that are so far behind
    return int((kept * left).sum()) * batch // len(kept)


def _counted(number: int) -> str:
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1000:.3g} k"
