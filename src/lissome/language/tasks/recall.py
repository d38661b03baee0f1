"""Associative recall: the value that followed a key when it was seen first.

One layer of attention that sees one pair of places at a time cannot do it, since the value stands after the key that is
to be found; an induction head can (arXiv 2209.11895), and so can one layer that convolves its scores (DAPE V2,
arXiv 2410.04798).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lissome.language.tasks.definition import Task, answered, at_least, orders, questions, uniform


def recall(
    *, keys: int = 32, values: int = 16, train: tuple[int, int] = (2, 8), test: tuple[int, ...] = (8, 16, 32)
) -> Task:
    """Return the task: n keys with their values, then the same keys in another order, each to be followed by its value.

    The keys of a row differ; its values may repeat. A row has 4 n - 1 tokens.

    Args:
        keys: of the vocabulary, and the greatest n.
        values: of the vocabulary.
        train: the least and the greatest n of training.
        test: n of the tests.

    Raises:
        UsageError: an n beyond the keys, or fewer than 1 key or 2 values.

    Example:
        >>> print(recall(keys=4, values=3, train=(2, 4), test=(4,)).example(3))
        k2 v1 k1 v0 k3 v2 k3 [v2] k2 [v1] k1 [v0]
    """
    at_least("recall", 1, keys=keys)
    at_least("recall", 2, values=values)
    return Task(
        name="recall",
        what="pairs of a key and a value, then each key once more, to be followed by its value.",
        symbols=(*(f"k{key}" for key in range(keys)), *(f"v{value}" for value in range(values))),
        rule=partial(_write, keys, values),
        chance=partial(uniform, values),
        train=train,
        test=test,
        most=keys,
    )


def _write(keys: int, values: int, generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
    key = orders(generator, n, keys)[:, :length]  # (n, length)
    value = keys + torch.randint(values, (n, length), generator=generator)
    order = orders(generator, n, length)
    pairs = torch.stack([key, value], 2).flatten(1)  # (n, 2 length)
    return answered(pairs, *questions(key.gather(1, order), value.gather(1, order)))
