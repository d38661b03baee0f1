"""A table as it was read: named columns of numbers or of text, each fault told by its row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lissome._errors import UsageError, unknown
from lissome.report.numerals import setting

LARGEST = 1e100  # in size: squares and sums over rows stay far from the end of float64, 1.8e308
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # words of a column of numbers


@dataclass(frozen=True)
class Frame:
    """Columns of one length.

    Attributes:
        source: the file, as messages name it.
        columns: names, or numbers from 1 as text where the file has no names.
        named: whether the file has names.
        values: (N, c); a column of text is NaN.
        texts: column -> its cells, for columns of text.
        targets: what is the target if nothing is said.
        fixed: why no other target can be asked for, or nothing.
        test: rows that are kept apart for the test by whoever made the data.
    """

    source: str
    columns: tuple[str, ...]
    named: bool
    values: np.ndarray
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    fixed: str = ""
    test: Frame | None = None

    def __len__(self) -> int:
        return len(self.values)

    def place(self, column: str) -> int:
        """Return where a column stands.

        Raises:
            UsageError: there is none of that name; the nearest is told.
        """
        if column not in self.columns:
            raise unknown(f"column of '{self.source}'", column, self.columns)
        return self.columns.index(column)

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """Return columns of numbers, (N, d), none of them missing, infinite or above 1e100 in size.

        Raises:
            UsageError: a column of text, or a cell that is no such number; row and column are told.
        """
        for column in columns:
            if column in self.texts:
                cells = self.texts[column]
                row, cell = next((r, c) for r, c in enumerate(cells, start=1) if not _numeric(c))
                raise UsageError(
                    f"column '{column}' of '{self.source}' holds text, such as '{cell[:20]}' in row {row}, and legal "
                    f"are numbers: write them, or fit without the column, --set leave='[{column}]'"
                )
        places = [self.place(column) for column in columns]
        whole = places == list(range(self.values.shape[1]))
        found = self.values if whole else self.values[:, places]
        most = np.float64(LARGEST)
        if found.dtype.kind == "f" and not (fine := (found <= most) & (found >= -most)).all():
            row, column = (int(each) for each in np.argwhere(~fine)[0])
            raise UsageError(
                f"'{self.source}', row {row + 1}, column '{columns[column]}': {_fault(float(found[row, column]))}"
            )
        return found

    def labels(self, column: str) -> list[str]:
        """Return the cells of a column of text, none of them missing.

        Raises:
            UsageError: a cell is empty; its row is told.
        """
        cells = list(self.texts[column])
        if "" in cells:
            raise UsageError(
                f"'{self.source}', row {cells.index('') + 1}, column '{column}': the value is missing; fill it in, or "
                "leave the row out"
            )
        return cells

    def some(self, rows: int, seed: int, test: Frame | None = None) -> Frame:
        """Return at most so many rows, drawn by a seed and in their order, with another test."""
        if rows >= len(self):
            return replace(self, test=test)
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:rows].sort().values.numpy()
        texts = {column: [cells[row] for row in chosen] for column, cells in self.texts.items()}
        return replace(self, values=self.values[chosen], texts=texts, test=test)

    def without(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the other columns, in their order."""
        return tuple(column for column in self.columns if column not in columns)


def column_of(cells: Sequence[str]) -> np.ndarray | None:
    """Return a column (N,) of numbers, missing ones as NaN, or None if it holds text.

    >>> column_of(["1", "", "NA"]), column_of(["1", "red"])
    (array([ 1., nan, nan]), None)
    """
    if not all(_numeric(cell) for cell in cells):
        return None
    return np.array([np.nan if cell.lower() in MISSING else float(cell) for cell in cells])


def _fault(value: float) -> str:
    """Say what is wrong with a number that cannot be computed with."""
    if np.isfinite(value):
        return f"the value is {setting(value)}; legal are numbers up to {setting(LARGEST)} in size: take a larger unit"
    return f"the value is {'missing' if np.isnan(value) else 'infinite'}; fill it in, or leave the row out"


def _numeric(cell: str) -> bool:
    if cell.lower() in MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
