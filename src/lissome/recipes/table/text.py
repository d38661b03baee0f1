"""Tables as text: a header of names, then rows of cells, between commas (.csv; semicolons too) or tabs (.tsv)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lissome._errors import UsageError
from lissome._files import reason
from lissome.recipes.table.frame import Frame, column_of

SUFFIXES = {".csv": ",", ".tsv": "\t"}
BETWEEN = re.compile(r"[\s,;]+")
QUOTED = re.compile('"[^"]*"')
DECIMAL = re.compile(r"(?<=\d),(?=\d)")


def read_text_table(path: Path) -> Frame:
    """Return the table of a file; the last column is the target if nothing is said.

    Blank lines are passed over; rows are counted from 1 below the header.

    Raises:
        UsageError: the file cannot be read, is no table of text, has no header, no rows, rows of unequal length,
            decimal commas, or something else between its columns.
    """
    text = _text(path)
    if not text.strip():
        raise UsageError(f"'{path}' is empty; legal is a header of column names and rows below it")
    delimiter = _delimiter(path, text)
    rows = _records(path, io.StringIO(text, newline=""), delimiter)
    columns = _header(path, next(rows))
    values, texts = _plain(text, delimiter, len(columns)), dict[str, list[str]]()
    if values is None:
        cells = list(rows)
        _check_parted(path, columns, cells)
        for row, each in enumerate(cells, start=1):
            if len(each) != len(columns):
                some = "cell" if len(each) == 1 else "cells"
                raise UsageError(f"'{path}', row {row} has {len(each)} {some}; the header names {len(columns)} columns")
        values = np.full((len(cells), len(columns)), np.nan)
        for place, column in enumerate(columns):
            own = [row[place] for row in cells]
            found = column_of(own)
            if found is None:
                _check_points(path, column, own)
                texts[column] = own
            else:
                values[:, place] = found
    if not len(values):
        raise UsageError(f"'{path}' has a header and no rows below it")
    return Frame(str(path), tuple(columns), True, values, texts, targets=(columns[-1],))


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"data file '{path}' cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is no table of text: byte {error.start} is not UTF-8; save it as UTF-8") from error
    if "\0" in text:
        raise UsageError(f"'{path}' is no table of text: it holds zero bytes")
    return text


def _delimiter(path: Path, text: str) -> str:
    usual = SUFFIXES[path.suffix.lower()]
    first = QUOTED.sub("", text.lstrip().split("\n", 1)[0])
    return ";" if usual == "," and "," not in DECIMAL.sub("", first) and ";" in first else usual


def _records(path: Path, text: io.StringIO, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise UsageError(f"'{path}', line {reader.line_num} is broken: {error}") from error


def _header(path: Path, names: list[str]) -> list[str]:
    numbers = column_of(names)
    if numbers is not None and np.isfinite(numbers).any():
        raise UsageError(
            f"'{path}' has no header: its first line is numbers, {', '.join(names[:3])}; write a line of names above it"
        )
    if "" in names:
        raise UsageError(
            f"the header of '{path}' has no name for column {names.index('') + 1}; write one, or remove the column if "
            "it numbers the rows (pandas leaves it out by to_csv(index=False))"
        )
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the header of '{path}' names '{name}' twice; legal are names that differ")
    return names


def _check_parted(path: Path, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Refuse a header of one name whose first row falls into as many parts as the name, more than one."""
    header, first = (BETWEEN.split(each[0]) if each else [] for each in (columns, cells[0] if cells else []))
    if len(columns) == 1 and len(header) == len(first) > 1:
        raise UsageError(
            f"'{path}' has one column, '{columns[0][:40]}'; legal between columns are commas or semicolons in .csv and "
            "tabs in .tsv"
        )


def _check_points(path: Path, column: str, cells: Sequence[str]) -> None:
    """Refuse a column that is of numbers if its commas are decimal points."""
    if column_of([cell.replace(",", ".") for cell in cells]) is not None:
        row, cell = next((row, cell) for row, cell in enumerate(cells, start=1) if "," in cell)
        raise UsageError(
            f"'{path}', row {row}, column '{column}' says '{cell}': write numbers with a decimal point, "
            f"{cell.replace(',', '.')}"
        )


def _plain(text: str, delimiter: str, columns: int) -> np.ndarray | None:
    """Return the rows (N, c) of a file of numbers alone; None if it is none.

    Cell by cell 100,000 rows of 10 took 4 to 5 times as long.
    """
    lines = text.lstrip().splitlines()[1:]
    if '"' in text or not any(line.strip() for line in lines):
        return None
    try:
        found = np.loadtxt(lines, delimiter=delimiter, comments=None, ndmin=2)
    except ValueError:
        return None
    return found if found.shape[1] == columns else None
