"""Labelled rows in LIBSVM's text form: `label index:value ...`, indices from 1 and ascending.

Plain, or packed as .gz or .bz2. Labels are 0 and 1, or -1 and 1. A row may have no entry; blank lines and what follows
`#` are passed over.

Reference: C.-C. Chang, C.-J. Lin, LIBSVM (2011), doi 10.1145/1961189.1961199, its README, "Input files".
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from lissome._errors import UsageError
from lissome._files import reason
from lissome.recipes.labelled import Labelled

PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress}
LABELS = ({0.0, 1.0}, {-1.0, 1.0})
LARGEST = 10_000_000  # a column beyond it is junk that happened to parse


def read_libsvm(path: str | Path) -> Labelled:
    """Return the rows (N, p) of a file, sparse and float64, and their labels (N,) as 0 and 1.

    Raises:
        UsageError: the file cannot be read or unpacked, a line is malformed (it is named), there are no rows or no
            entries, or the labels are not two of a legal pair.
    """
    path = Path(path)
    labels, values, columns, ends = list[float](), list[float](), list[int](), [0]
    for number, line in enumerate(_text(path).split("\n"), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        labels.append(_label(path, number, words[0]))
        before = 0
        for word in words[1:]:
            column, value = _entry(path, number, word)
            if column <= before:
                raise _malformed(path, number, f"index {column} follows {before}, and legal are ascending ones")
            columns.append(column - 1)
            values.append(value)
            before = column
        ends.append(len(columns))
    if not labels:
        raise UsageError(f"'{path}' is empty: it holds no row `label index:value ...`")
    if not columns:
        raise UsageError(f"'{path}' has {len(labels)} labels and not one index:value behind them")
    shape = (len(labels), max(columns) + 1)
    A: Any = sparse.csr_array((np.array(values), np.array(columns), np.array(ends)), shape=shape)  # (N, p)
    return Labelled(_stem(path), A, torch.tensor(_zero_one(path, labels), dtype=torch.float64))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        unpack = PACKED.get(path.suffix)
        text = (unpack(content) if unpack else content).decode("ascii")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{path}' is no LIBSVM file: byte {error.start} is not ASCII; packed files end in .gz or .bz2"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise UsageError(f"'{path}' cannot be unpacked ({error}); it is cut or broken: fetch it again") from error
    except OSError as error:
        if error.errno is None:  # bz2's word for what it did not make
            raise UsageError(f"'{path}' cannot be unpacked ({error}); it is cut or broken: fetch it again") from error
        raise UsageError(f"data file '{path}' cannot be read: {reason(error)}") from error
    if "\0" in text:
        raise UsageError(f"'{path}' is no LIBSVM file: it holds zero bytes")
    return text


def _label(path: Path, number: int, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise _malformed(path, number, f"label '{word[:20]}' is no number") from None


def _entry(path: Path, number: int, word: str) -> tuple[int, float]:
    index, colon, text = word.partition(":")
    try:
        column, value = int(index), float(text)
    except ValueError:
        column, value = 0, math.nan
    if not colon or not 1 <= column <= LARGEST or not math.isfinite(value):
        raise _malformed(path, number, f"'{word[:20]}' is no index:value such as 3:0.5, indices from 1")
    return column, value


def _zero_one(path: Path, labels: list[float]) -> list[float]:
    found = set(labels)
    if len(found) == 1:
        raise UsageError(f"'{path}' has one label alone, {found.pop():g}; legal are two: 0 and 1, or -1 and 1")
    if found not in LABELS:
        some = ", ".join(f"{label:g}" for label in sorted(found)[:5]) + (", ..." if len(found) > 5 else "")
        raise UsageError(f"'{path}' has labels {some}; legal are 0 and 1, or -1 and 1")
    return [float(label > 0) for label in labels]


def _stem(path: Path) -> str:
    return path.stem if path.suffix in PACKED else path.name


def _malformed(path: Path, number: int, what: str) -> UsageError:
    return UsageError(f"'{path}', line {number}: {what}; the file is cut or no LIBSVM file")
