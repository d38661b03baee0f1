"""Which tokens a cache keeps beyond its window: given ids, or every k-th; and drawn ids, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lissome._checks import check_whole, is_whole, refuse
from lissome._errors import UsageError


class Marks(Protocol):
    """A rule that marks tokens."""

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return which are marked, (B, T) bool.

        Args:
            tokens: (B, T) int64.
            places: (B, T) int64, how many tokens of its text stand before each.
        """
        ...


@dataclass(frozen=True)
class Every:
    """Every k-th token of the text, from the first: FixLLM of arXiv 2412.12094.

    Raises:
        UsageError: k below 1.

    >>> Every(2)(torch.zeros(1, 4), torch.arange(4)[None]).int()
    tensor([[1, 0, 1, 0]], dtype=torch.int32)
    """

    k: int

    def __post_init__(self):
        check_whole("k of Every", self.k)

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return which tokens are marked, (B, T) bool."""
        return places % self.k == 0


class Ids:
    """The tokens of given ids; none of them at all makes StreamingLLM, arXiv 2309.17453.

    Args:
        ids: whole numbers.
        size: of the vocabulary.

    Raises:
        UsageError: an id that is none of the vocabulary's.

    >>> Ids([3], 8)(torch.tensor([[1, 3, 3]]), torch.arange(3)[None]).int()
    tensor([[0, 1, 1]], dtype=torch.int32)
    """

    def __init__(self, ids: Iterable[int], size: int):
        self.ids = tuple(ids)
        for each in self.ids:
            if not is_whole(each) or not 0 <= each < size:
                raise UsageError(
                    f"separator {each!r} is no id of the model's vocabulary; legal are 0 to {size - 1:,}: take them "
                    "from the model's own tokenizer by separator_ids"
                )
        self.table = torch.zeros(size, dtype=torch.bool)
        self.table[list(self.ids)] = True

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return which tokens are marked, (B, T) bool."""
        self.table = self.table.to(tokens.device)
        return self.table[tokens]


def marks_of(separators: Iterable[int] | Every, size: int) -> Marks:
    """Return the rule that separators ask for.

    Raises:
        UsageError: they are no ids.
    """
    if isinstance(separators, Every):
        return separators
    if isinstance(separators, Tensor):
        return Ids(separators.flatten().tolist(), size)
    if isinstance(separators, str) or not isinstance(separators, Iterable):
        raise refuse("separators", separators, "are ids, as of separator_ids(tokenizer), or Every(k)")
    return Ids(separators, size)


def random_ids(tokens: Sequence[int] | Tensor, separators: Iterable[int], generator: torch.Generator) -> list[int]:
    """Draw ids that are as frequent in a text as its separators: the control of what separators are worth.

    Args:
        tokens: ids of a text, (T,).
        separators: none of which is drawn.
        generator: of the draw.

    Returns:
        Ids in rising order; their share of the text is that of the separators, or the nearest below that was met.

    Raises:
        UsageError: no separator stands in the text.

    >>> random_ids([1, 2, 3, 4, 1, 2], [1], torch.Generator().manual_seed(0))
    [2]
    """
    kinds, counts = torch.as_tensor(tokens).flatten().unique(return_counts=True)
    marked = torch.isin(kinds, torch.tensor(sorted(separators), dtype=kinds.dtype))
    left = int(counts[marked].sum())
    if not left:
        raise UsageError("no separator stands in this text, so there is no share to match; give a longer text")
    found = []
    for place in torch.randperm(len(kinds), generator=generator).tolist():
        if not marked[place] and (many := int(counts[place])) <= left:
            found.append(int(kinds[place]))
            left -= many
    return sorted(found)
