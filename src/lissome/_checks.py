"""What an argument has to be: one function a kind, each with one sentence of what came and what is legal."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path

import torch
from torch import Tensor, nn

from lissome._errors import UsageError

LONGEST = 80  # letters of a value that is shown as it is


def refuse(what: str, value: object, legal: str) -> UsageError:
    """Return the error that names a value and the legal ones.

    >>> str(refuse("bias", "kerple", "is a module, or None"))
    "bias is 'kerple'; legal is a module, or None"
    """
    said = repr(value)
    shown = said if len(said) <= LONGEST and "\n" not in said else f"of type {type(value).__name__}"
    return UsageError(f"{what} is {shown}; legal {legal}")


def is_whole(number: object) -> bool:
    """Say whether a number is whole by its kind; True and 2.0 are not.

    >>> is_whole(2), is_whole(2.0), is_whole("2")
    (True, False, False)
    """
    # a compiler that leaves sizes open has numbers of its own
    return isinstance(number, Integral | torch.SymInt) and not isinstance(number, bool)


def check_whole(what: str, number: object, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number from least to most.

    Raises:
        UsageError: it is none.

    >>> check_whole("width", 3)
    """
    if not is_whole(number) or number < least or (most is not None and number > most):  # type: ignore[operator]
        upto = f"{least} and more" if most is None else f"{least} to {most}"
        raise refuse(what, number, f"are whole numbers, {upto}")


def check_number(what: str, number: object, legal: str, holds: Callable[[float], bool]) -> None:
    """Refuse what is no real number, or one for which `holds` is False; NaN fails each comparison.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(number, Real) or isinstance(number, bool) or not holds(number):  # type: ignore[arg-type]
        raise refuse(what, number, legal)


def check_kind(what: str, value: object, kind: type | tuple[type, ...], legal: str) -> None:
    """Refuse what is of another type.

    Raises:
        UsageError: it is.
    """
    if not isinstance(value, kind):
        raise refuse(what, value, legal)


def check_flag(what: str, value: object) -> None:
    """Refuse all but True and False: a word such as 'no' would count as true.

    Raises:
        UsageError: it is another value.
    """
    if type(value) is not bool:
        raise refuse(what, value, "are True and False")


def check_function(what: str, value: object, legal: str) -> None:
    """Refuse what cannot be called, and a class or a module in place of a function that makes one.

    Raises:
        UsageError: it is such.
    """
    if not callable(value) or isinstance(value, type | nn.Module):
        raise refuse(what, value, legal)


def check_columns(what: str, value: object, dtype: torch.dtype) -> None:
    """Refuse what is no tensor (B, T) of a dtype.

    Raises:
        UsageError: it is none.
    """
    check_kind(what, value, Tensor, f"is a tensor (B, T) of {dtype}")
    if value.ndim != 2 or value.dtype != dtype:  # type: ignore[attr-defined]
        came = f"shape {tuple(value.shape)} and dtype {value.dtype}"  # type: ignore[attr-defined]
        raise UsageError(f"{what} has {came}; legal is (B, T) of {dtype}")


def check_path(what: str, value: object) -> Path:
    """Return a path from text or a path.

    Raises:
        UsageError: it is neither.
    """
    check_kind(what, value, (str, os.PathLike), "is the path of a directory")
    return Path(value)  # type: ignore[arg-type]
