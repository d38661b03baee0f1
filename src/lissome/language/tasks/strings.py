"""Strings to be written out anew: copied, reversed, twice, or sorted.

The tasks of "Neural Networks and the Chomsky Hierarchy" (arXiv 2207.02098) that have a string as answer; copy is ours.

Differs from the paper: the answer follows the sign `=` and is fed, symbol by symbol, to a model that reads from left
to right; there, a model is given empty places for its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import comb

import torch
from torch import Tensor

from lissome.language.tasks.definition import Task, answered, at_least, uniform

TRAIN = (1, 40)  # as arXiv 2207.02098, which tests up to 500
TEST = (40, 200)


def copy(*, letters: int = 8, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n letters, to be written again.

    Example:
        >>> print(copy().example())
        4 7 5 0 = [4] [7] [5] [0]
    """
    return _task("copy", "a string, to be written again.", _same, letters, train, test)


def reverse(*, letters: int = 2, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n letters, to be written from the last to the first; deterministic context-free.

    Example:
        >>> print(reverse().example())
        0 1 1 0 = [0] [1] [1] [0]
    """
    return _task("reverse", "a string, to be written backwards.", _backwards, letters, train, test)


def duplicate(*, letters: int = 2, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n letters, to be written twice; context-sensitive.

    A model that copies its own first copy has the second one right whatever the first one is.

    Example:
        >>> print(duplicate().example())
        0 1 1 0 = [0] [1] [1] [0] [0] [1] [1] [0]
    """
    return _task("duplicate", "a string, to be written twice.", _twice, letters, train, test)


def sort(*, letters: int = 5, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n letters, to be written in ascending order; context-sensitive, bucket sort.

    Most letters follow their like: to say what was fed last is wrong at no more than `letters` places of a row. So an
    accuracy per token of 1 - letters / n says little; look at that of whole rows too.

    Example:
        >>> print(sort().example())
        4 4 3 0 = [0] [3] [4] [4]
    """
    return _task("sort", "a string, to be written in ascending order.", _ascending, letters, train, test)


def _task(
    name: str,
    what: str,
    answer: Callable[[Tensor], Tensor],
    letters: int,
    train: tuple[int, int],
    test: tuple[int, ...],
) -> Task:
    at_least(name, 2, letters=letters)
    return Task(
        name=name,
        what=what,
        symbols=(*map(str, range(letters)), "="),
        rule=partial(_write, answer, letters),
        chance=partial(_sorted_chance if answer is _ascending else uniform, letters),
        train=train,
        test=test,
    )


def _write(
    answer: Callable[[Tensor], Tensor], letters: int, generator: torch.Generator, n: int, length: int
) -> tuple[Tensor, Tensor]:
    string = torch.randint(letters, (n, length), generator=generator)
    sign = torch.full((n, 1), letters)
    return answered(torch.cat([string, sign], 1), answer(string))


def _same(string: Tensor) -> Tensor:
    return string


def _backwards(string: Tensor) -> Tensor:
    return string.flip(1)


def _twice(string: Tensor) -> Tensor:
    return torch.cat([string, string], 1)


def _ascending(string: Tensor) -> Tensor:
    return string.sort(1).values


def _sorted_chance(letters: int, length: int) -> float:
    """Return the mean over places i of the greatest probability of a letter to stand there after sorting.

    The letter at place i is at most c if more than i letters are, whose number is binomial.
    """
    below = [[0.0] * length]  # [c][i]: the letter at i is less than c
    for c in range(1, letters + 1):
        ways = [comb(length, j) * c**j * (letters - c) ** (length - j) for j in range(length + 1)]
        total, tail = letters**length, 0
        row = [0.0] * length
        for i in reversed(range(length)):
            tail += ways[i + 1]
            row[i] = tail / total
        below.append(row)
    best = [max(below[c + 1][i] - below[c][i] for c in range(letters)) for i in range(length)]
    return sum(best) / length
