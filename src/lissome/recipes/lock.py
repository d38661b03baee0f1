"""One process at a time writes a directory: a lock that the system takes back when it ends, however it does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lissome._errors import RunError, UsageError
from lissome._files import reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"  # in the directory; holds the number of the process
PATIENCE = 2.0  # seconds; workers of a process that was killed end within one


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Keep a directory for this process; file systems without locks have none.

    Raises:
        UsageError: another process has it.
        RunError: the directory cannot be written.
    """
    if fcntl is None:
        yield
        return
    path, end = place / LOCK, time.monotonic() + PATIENCE
    while (file := _taken(path)) is None:
        if time.monotonic() >= end:
            raise UsageError(
                f"'{place}' is being written by {_holder(path)}; wait for its end, stop it, or name another directory"
            )
        time.sleep(0.05)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            if _stands(path, file):
                path.unlink()
        os.close(file)


def is_locked(place: Path) -> bool:
    """Say whether a process keeps a directory; where that cannot be told, none does."""
    if fcntl is None:
        return False
    try:
        with open(place / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _taken(path: Path) -> int | None:
    """Open and take the lock if nobody has it; a file that its holder has removed since is none."""
    assert fcntl is not None
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"'{path.parent}' cannot be written: {reason(error)}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _stands(path, file)
    except BlockingIOError:
        free = False
    except OSError:  # no locks on this file system
        free = True
    if free:
        return file
    os.close(file)
    return None


def _stands(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f"process {int(path.read_text())}"
    return "another process"
