"""The rows of a run: one line of JSON per evaluation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from lissome._errors import RunError, UsageError
from lissome._files import legal, reason, write
from lissome._parsed import json_of


class Journal:
    """Rows in memory and, if a path is given, in a file of JSON lines.

    Numbers that are not finite are written as null. Of several processes one `writes`.
    """

    def __init__(self, path: Path | None, *, writes: bool = True):
        self.path, self.writes = path, writes
        self.rows: list[dict[str, Any]] = []

    def start(self, upto: int | None = None) -> None:
        """Begin with the file's rows up to a step; None begins with none and clears the file.

        Raises:
            UsageError: the file is not UTF-8.
            RunError: it cannot be written.
        """
        if self.path is None:
            return
        self.rows = [] if upto is None else [row for row in read(self.path) if row["step"] <= upto]
        if not self.writes:
            return
        write(self.path, "".join(_line(row) for row in self.rows))

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, in one write where there is room.

        Raises:
            RunError: the disk is full or refuses; the rows before are intact.
        """
        clean = legal(row)
        self.rows.append(clean)
        if self.path is None or not self.writes:
            return
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    line = _line(clean).encode()
                    while line:  # where there is little room the system takes a part without a word
                        line = line[file.write(line) :]
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(size)
                    raise
        except OSError as error:
            raise _refused(self.path, error) from error


def read(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a file; a line that a killed process left unfinished is passed over.

    Raises:
        UsageError: the file is not UTF-8.

    >>> read(Path("nowhere.jsonl"))
    []
    """
    rows = []
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"'{path}' is not UTF-8 text (byte {error.start}); it is damaged: put it back") from error
        for line in text.splitlines():
            try:
                row = json_of(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _refused(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} could not be written ({reason(error)}); what was written before is intact: make room, then resume"
    )
