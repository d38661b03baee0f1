"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from lissome._errors import RunError, UsageError


def write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file under a temporary name, move it into place and return its path; folders are made.

    Raises:
        RunError: the system refused, such as on a full disk; what stood there before still stands.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, content)
    except OSError as error:
        raise RunError(f"'{path}' cannot be written ({reason(error)}); what stood there before is kept") from error
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write JSON that every reader accepts: NaN and infinities become null.

    Raises:
        RunError: as `write`.
    """
    return write(path, json.dumps(legal(value), indent=2, ensure_ascii=False) + "\n")


def check_room(out: Path) -> None:
    """Refuse a place below a file.

    Raises:
        UsageError: one of the directories above it is a file.
    """
    for above in out.parents:
        if above.exists() and not above.is_dir():
            raise UsageError(f"'{above}' is a file, so '{out}' cannot be made in it; name another place by --out")


def place(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, see it to the disk, and move it into place; errors are the system's."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def legal(value: Any) -> Any:
    """Replace what JSON does not know, NaN and infinities, by None.

    >>> legal({"loss": float("nan"), "steps": [1, 2]})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: legal(item) for key, item in value.items()}
    return [legal(item) for item in value] if isinstance(value, list | tuple) else value


def reason(error: OSError) -> str:
    """Say why the system refused."""
    return error.strerror or str(error)
