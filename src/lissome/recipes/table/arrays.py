"""Tables as numpy arrays: .npy (N, d + 1), .npz with X and y; never with objects in them, which could run code."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lissome._errors import UsageError
from lissome._files import reason
from lissome.recipes.table.frame import Frame

NUMBERS = "fiub"  # kinds of numpy's types


def read_numpy(path: Path) -> Frame:
    """Return the rows of a .npy file, columns numbered from 1, or X (N, d) and, if it is there, y of a .npz file.

    In a .npy file the last column is the target if nothing is said; y may be (N,), numbers or text, or (N, k).

    Raises:
        UsageError: it cannot be read, holds objects or no rows, an array has another shape, or there is no X.
    """
    try:
        with open(path, "rb") as file:
            return _frame(str(path), np.load(file, allow_pickle=False))
    except OSError as error:
        raise UsageError(f"data file '{path}' cannot be read: {reason(error)}") from error
    except UsageError:
        raise
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UsageError(f"'{path}' cannot be read: {_said(error)}") from error


def numbered(columns: int) -> tuple[str, ...]:
    """Return the names of columns that have none.

    >>> numbered(3)
    ('1', '2', '3')
    """
    return tuple(str(place) for place in range(1, columns + 1))


def joined(source: str, X: np.ndarray, y: np.ndarray | None, fixed: str) -> Frame:
    """Return a table of X (N, d) and y (N,) or (N, k), numbers or text, or None.

    Raises:
        UsageError: y is of another length or kind.
    """
    columns = numbered(X.shape[1])
    if y is None:
        return Frame(source, columns, False, X, fixed=fixed)
    if y.ndim not in (1, 2) or len(y) != len(X) or (y.ndim == 2 and not y.shape[1]):
        raise UsageError(f"y of '{source}' has shape {y.shape}; legal is ({len(X)},) or ({len(X)}, k), as X has rows")
    if y.dtype.kind in "US" and y.ndim == 1:
        cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell) for cell in y]
        values = np.concatenate([X, np.full((len(X), 1), np.nan)], 1)
        return Frame(source, (*columns, "y"), False, values, {"y": cells}, ("y",), fixed)
    if y.dtype.kind not in NUMBERS:
        raise UsageError(f"y of '{source}' is of type {y.dtype}; legal are numbers, and labels as text")
    y = y.reshape(len(y), -1)
    names = ("y",) if y.shape[1] == 1 else tuple(f"y{place}" for place in range(1, y.shape[1] + 1))
    return Frame(source, (*columns, *names), False, np.concatenate([X, y], 1), targets=names, fixed=fixed)


def matrix(source: str, found: np.ndarray, what: str = "") -> np.ndarray:
    """Return an array after a check that it is (N, c) and holds numbers.

    Raises:
        UsageError: it is not.
    """
    if found.dtype.kind not in NUMBERS:
        raise UsageError(f"{what}'{source}' is of type {found.dtype}; legal are whole and floating-point numbers")
    if found.ndim != 2 or not found.size:
        legal = "(N, d)" if what else "(N, d + 1), the target behind the inputs"
        raise UsageError(f"{what}'{source}' has shape {found.shape}; legal is {legal}")
    return found.astype(np.float64) if found.dtype.kind == "b" else found


def _frame(source: str, found: Any) -> Frame:
    if isinstance(found, np.ndarray):
        found = matrix(source, found)
        columns = numbered(found.shape[1])
        return Frame(source, columns, False, found, targets=columns[-1:])
    if "X" not in found:
        raise UsageError(f"'{source}' holds {', '.join(found) or 'nothing'}; legal are X and y")
    return joined(source, matrix(source, found["X"], "X of "), found.get("y"), "the target of an .npz file is its y")


def _said(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects, which can run code; save numbers, or text of a fixed width"
    return f"it is cut or no file of numpy ({' '.join(str(error).split())})"
