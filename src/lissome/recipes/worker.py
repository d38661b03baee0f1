"""What makes a process a worker, what its parent does about signals, and what whoever runs calls is asked."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

POLL = 0.2  # seconds between two looks at workers, signals and the bar
ORPHANED = 0.5  # seconds between a worker's looks for its parent
HEEDED = {signal.SIGINT, signal.SIGTERM}
Tick = Callable[[], None]


@dataclass(frozen=True)
class Crew:
    """Whoever runs calls.

    Attributes:
        room: says how many calls may be under way.
        submit: begins a call for which there is room.
        killed: errors of a future that tell that the worker went, not that the call failed.
        cause: error of a future -> the error that the call raised.
    """

    room: Callable[[], int]
    submit: Callable[[Callable[..., Any], Mapping[str, Any]], Future[Any]]
    killed: tuple[type[BaseException], ...] = ()
    cause: Callable[[BaseException], BaseException] = lambda error: error


def cores() -> int:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_spawn() -> bool:
    """Say whether new processes can read the program that is running; one that comes from a pipe cannot be read."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    readable = getattr(main, "__spec__", None) is not None or file is None or Path(file).is_file()
    return readable and not multiprocessing.current_process().daemon


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold signals back while processes are started; these inherit it, and lift it when they can heed them."""
    mask: Any = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, HEEDED)
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def settle(parent: int) -> None:
    """Make this process a worker: a terminal's Ctrl-C reaches the parent alone, whose death ends it."""
    own_group: Any = getattr(os, "setpgrp", lambda: None)
    own_group()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unblock: Any = getattr(signal, "pthread_sigmask", lambda how, signals: None)
    unblock(getattr(signal, "SIG_UNBLOCK", 0), HEEDED)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has gone."""
    while os.getppid() == parent:
        time.sleep(ORPHANED)
    os._exit(1)


def on_one_thread(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Make the call on one thread, with nothing that would stop it."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    return call(lambda: None, **arguments)
