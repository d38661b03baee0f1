"""The most recent or the earliest of several: a bias that decays with distance can prefer the first, never the second.

A pair is one token, so that one layer is enough for the look-up and what is measured is the ordering alone. A static
bias that falls with distance cannot put the earliest match above all others; one that adapts to the scores can (DAPE,
arXiv 2405.14722).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lissome._errors import unknown
from lissome.language.tasks.definition import Task, answered, at_least, orders, questions, uniform

WHICH = ("earliest", "recent")


def lookup(
    *,
    which: str = "earliest",
    keys: int = 2,
    values: int = 16,
    train: tuple[int, int] = (8, 24),
    test: tuple[int, ...] = (24, 48),
) -> Task:
    """Return the task: n pairs in which keys repeat, then each key once, to be followed by its first or last value.

    A row has min(keys, n // 2) keys. Each is in two pairs or more, the values of its first and its last pair differ,
    and it is asked once, in an order of their own. A row has n + 2 min(keys, n // 2) - 1 tokens.

    Args:
        which: of a key's values is asked: `earliest` or `recent`.
        keys: of the vocabulary; few, so that each is in many pairs and their order is what is hard.
        values: of the vocabulary.
        train: the least and the greatest n of training.
        test: n of the tests.

    Raises:
        UsageError: an unknown `which`, an n below 2, or fewer than 1 key or 2 values.

    Example:
        >>> print(lookup().example(6, seed=7))
        k0:v7 k0:v6 k1:v4 k0:v0 k1:v2 k0:v0 k1 [v4] k0 [v7]
        >>> print(lookup(which="recent").example(6, seed=7))
        k0:v7 k0:v6 k1:v4 k0:v0 k1:v2 k0:v0 k1 [v2] k0 [v0]
    """
    at_least("lookup", 1, keys=keys)
    at_least("lookup", 2, values=values)
    if which not in WHICH:
        raise unknown("which of the task 'lookup':", which, WHICH)
    pairs = [f"k{key}:v{value}" for key in range(keys) for value in range(values)]
    return Task(
        name="lookup",
        what=f"pairs of a key and a value in which keys repeat, then each key, to be followed by its {which} value.",
        symbols=(*pairs, *(f"k{key}" for key in range(keys)), *(f"v{value}" for value in range(values))),
        rule=partial(_write, keys, values, which == "earliest"),
        chance=partial(uniform, values),
        train=train,
        test=test,
        least=2,
    )


def _write(
    keys: int, values: int, earliest: bool, generator: torch.Generator, n: int, length: int
) -> tuple[Tensor, Tensor]:
    m = min(keys, length // 2)
    name = orders(generator, n, keys)[:, :m]  # (n, m) the row's keys
    twice = torch.arange(m).repeat(2).expand(n, -1)
    more = torch.randint(m, (n, length - 2 * m), generator=generator)
    owner = torch.cat([twice, more], 1).gather(1, orders(generator, n, length))  # (n, length) in 0..m-1

    here = owner[:, None] == torch.arange(m)[:, None]  # (n, m, length)
    place = torch.arange(length)
    first = place.where(here, length).amin(2)  # (n, m)
    last = place.where(here, -1).amax(2)
    value = torch.randint(values, (n, length), generator=generator)
    shift = torch.randint(1, values, (n, m), generator=generator)
    value = value.scatter(1, last, (value.gather(1, first) + shift) % values)  # never that of the first

    order = orders(generator, n, m)
    answer = value.gather(1, (first if earliest else last).gather(1, order))
    pairs = values * name.gather(1, owner) + value  # (n, length)
    return answered(pairs, *questions(keys * values + name.gather(1, order), keys * values + keys + answer))
