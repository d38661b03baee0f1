"""One answer about a whole string, which a finite automaton could give.

The regular tasks of "Neural Networks and the Chomsky Hierarchy" (arXiv 2207.02098), but for cycle navigation.

Differs from the paper: the answer is due at the sign `=` that ends the string.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lissome.language.tasks.definition import Task, answered, at_least

TRAIN = (1, 40)  # as arXiv 2207.02098, which tests up to 500
TEST = (40, 200)
SIGNS = ("+", "-", "*")


def parity(*, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n bits; 0 if the number of ones is even, else 1.

    Example:
        >>> print(parity().example(7))
        0 1 1 0 1 1 1 = [1]
    """
    return Task(
        name="parity",
        what="bits; 1 where the number of ones is odd.",
        symbols=("0", "1", "="),
        rule=_parity,
        chance=_half,
        train=train,
        test=test,
    )


def even_pairs(*, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: n bits; 0 if the number of neighbours 01 and 10 is even, else 1.

    It is even where the first bit equals the last. One bit alone is even always.

    Example:
        >>> print(even_pairs().example(7))
        0 1 1 0 1 1 1 = [1]
    """
    return Task(
        name="even-pairs",
        what="bits; 1 where the number of neighbours 01 and 10 is odd.",
        symbols=("0", "1", "="),
        rule=_even_pairs,
        chance=_pairs_chance,
        train=train,
        test=test,
    )


def modular(*, modulus: int = 5, train: tuple[int, int] = TRAIN, test: tuple[int, ...] = TEST) -> Task:
    """Return the task: a sum of products of numbers below the modulus; its value, modulo that.

    The paper's simple form: +, - and *, products first, no brackets. A length counts numbers and signs, so it is odd;
    an even one stands for one less.

    Raises:
        UsageError: a modulus below 2, or a length below 1.

    Example:
        >>> print(modular().example(7))
        4 - 4 + 3 - 0 = [3]
    """
    at_least("modular", 2, modulus=modulus)
    return Task(
        name="modular",
        what=f"a sum of products; its value modulo {modulus}.",
        symbols=(*map(str, range(modulus)), *SIGNS, "="),
        rule=partial(_modular, modulus),
        chance=partial(_modular_chance, modulus),
        train=train,
        test=test,
    )


def _bits(generator: torch.Generator, n: int, length: int) -> Tensor:
    return torch.randint(2, (n, length), generator=generator)


def _asked(string: Tensor, sign: int, answer: Tensor) -> tuple[Tensor, Tensor]:
    return answered(torch.cat([string, torch.full((len(string), 1), sign)], 1), answer[:, None])


def _parity(generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
    bits = _bits(generator, n, length)
    return _asked(bits, 2, bits.sum(1) % 2)


def _even_pairs(generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
    bits = _bits(generator, n, length)
    return _asked(bits, 2, bits[:, 0] ^ bits[:, -1])


def _modular(modulus: int, generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
    count = (length + 1) // 2  # numbers
    number = torch.randint(modulus, (n, count), generator=generator)
    sign = torch.randint(len(SIGNS), (n, count - 1), generator=generator)
    total, term = torch.zeros_like(number[:, 0]), number[:, 0]  # (n,) of the terms that are complete, and the last
    for following, by in zip(number[:, 1:].T, sign.T, strict=True):
        times = by == 2
        total = torch.where(times, total, total + term) % modulus
        term = torch.where(times, term * following, torch.where(by == 1, -following, following)) % modulus
    string = number.new_empty(n, 2 * count - 1)
    string[:, ::2], string[:, 1::2] = number, modulus + sign
    return _asked(string, modulus + len(SIGNS), (total + term) % modulus)


def _half(length: int) -> float:
    return 0.5


def _pairs_chance(length: int) -> float:
    return 1.0 if length == 1 else 0.5


def _modular_chance(modulus: int, length: int) -> float:
    """Return the greatest probability of a value: the states (total, last term) are a Markov chain."""
    move = torch.zeros(modulus, modulus, modulus, modulus, dtype=torch.float64)  # from total, term to total, term
    each = 1 / (len(SIGNS) * modulus)
    for total in range(modulus):
        for term in range(modulus):
            for number in range(modulus):
                move[total, term, (total + term) % modulus, number] += each
                move[total, term, (total + term) % modulus, -number % modulus] += each
                move[total, term, total, term * number % modulus] += each
    states = modulus**2
    start = torch.zeros(modulus, modulus, dtype=torch.float64)
    start[0] = 1 / modulus
    count = (length + 1) // 2
    end = start.flatten() @ torch.linalg.matrix_power(move.reshape(states, states), count - 1)
    value = (torch.arange(modulus)[:, None] + torch.arange(modulus)) % modulus
    return float(torch.zeros(modulus, dtype=torch.float64).index_add(0, value.flatten(), end).max())
