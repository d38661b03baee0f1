"""Sizes that a network can have: whole numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lissome._checks import is_whole
from lissome._errors import UsageError


def each_of(sizes: object, times: int) -> list[Any]:
    """Return several sizes as they are, and one so many times; whether they are legal is not looked at.

    >>> each_of(4, 2), each_of((4, 5, 6), 2)
    ([4, 4], [4, 5, 6])
    """
    if isinstance(sizes, Iterable) and not isinstance(sizes, str):
        return list(sizes)
    return [sizes] * times


def check_whole(what: str, number: object, least: int = 1, *, legal: str | None = None) -> None:
    """Refuse what is no whole number of at least `least`.

    Args:
        what: name of the argument.
        number: what came.
        least: that is legal.
        legal: what is said of a number below it; None is "legal are `least` and more".

    Raises:
        UsageError: it is none.
    """
    if not is_whole(number):
        raise UsageError(f"{what} is {number!r}; legal is a whole number of at least {least}")
    if number < least:  # type: ignore[operator]
        raise UsageError(f"{what} is {number}; {legal or f'legal are {least} and more'}")
