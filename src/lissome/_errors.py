"""Errors that are sentences: which argument, what came, what is legal, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LissomeError(Exception):
    """Any error that Lissome raises on purpose; its text is one sentence for a person."""

    exit_code = 1


class UsageError(LissomeError, ValueError):
    """Something was asked wrongly: exit code 2."""

    exit_code = 2


class RunError(LissomeError, RuntimeError):
    """Something failed while running: exit code 1."""


class Interrupted(LissomeError):
    """Ctrl-C, with a checkpoint left behind: exit code 130."""

    exit_code = 130


NO_ROOM = ("can't allocate memory", "not enough memory")  # what torch says on a CPU
FULL = ("MemoryError", "OutOfMemoryError")  # of Python, of torch on a GPU; torch is not loaded for its name


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error, of Python or of torch, is that there was no memory.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("not enough memory"))
    (True, False)
    """
    if any(kind.__name__ in FULL for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_ROOM)


def unknown(kind: str, name: object, legal: Iterable[object]) -> UsageError:
    """Name an unknown value, the legal ones and the nearest.

    >>> str(unknown("method", "svdd", ["svd", "lora"]))
    "unknown method 'svdd'; legal are: svd, lora (did you mean 'svd'?)"
    """
    names = [str(item) for item in legal]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return UsageError(f"unknown {kind} '{name}'; legal are: {', '.join(names) or 'none'}{hint}")
