"""Cells side by side in worker processes.

Each worker is a process group of its own, so that a terminal's Ctrl-C reaches the parent alone. The parent then asks
each worker once, by SIGTERM, to leave a checkpoint. A worker whose parent has died ends itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from lissome._errors import Interrupted, RunError
from lissome.optim.machine import Stop, stoppable
from lissome.recipes.cell import Cell, cells
from lissome.recipes.settings import AdaptSettings

POLL = 0.2  # seconds between two looks at workers, signals and the bar
ORPHANED = 0.5  # seconds between a worker's looks for its parent
HEEDED = {signal.SIGINT, signal.SIGTERM}
Summary = dict[str, Any]


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


def side_by_side(
    todo: Sequence[Cell], out: Path, jobs: int, done: Callable[[Cell, Summary], None], tick: Callable[[], None]
) -> bool:
    """Train cells in `jobs` processes; say whether there were any.

    Args:
        todo: the cells.
        out: directory of the comparison.
        jobs: how many processes, at least 1.
        done: told of each cell that has ended, and its summary.
        tick: called a few times per second.

    Returns:
        False where no process could be started; nothing was done then.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; each worker has left a checkpoint.
        RunError: a worker was killed.
        LissomeError: of a cell; the others were stopped as by Ctrl-C.
    """
    if not can_spawn():
        return False
    threads = max(1, min(cores(), torch.get_num_threads()) // jobs)
    before = set(multiprocessing.active_children())
    crew = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads, os.getpid()))

    def ask() -> None:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()

    try:
        try:
            with _shielded():
                first = crew.submit(_here)
            first.result()
        except (BrokenProcessPool, OSError):
            return False
        with stoppable() as stop:
            with _shielded():  # it is the submission that starts a process
                futures = {crew.submit(_work, cell.settings, out): cell for cell in todo}
            _watch(futures, done, tick, stop, ask)
        return True
    except BrokenProcessPool as error:
        raise RunError(
            f"a worker process was killed, perhaps for want of memory; what was done is kept in '{out}'"
        ) from error
    except KeyboardInterrupt:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        crew.shutdown(cancel_futures=True)


def _watch(
    waiting: dict[Future[Summary], Cell],
    done: Callable[[Cell, Summary], None],
    tick: Callable[[], None],
    stop: Stop,
    ask: Callable[[], None],
) -> None:
    """Wait for the cells; on a wish to stop or an error, ask the workers once for checkpoints, and raise it."""
    reason: BaseException | None = None
    while waiting:
        ended, _ = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
        asked = reason is not None
        for future in ended:
            cell = waiting.pop(future)
            if future.cancelled():
                continue
            error = future.exception()
            if error is None:
                done(cell, future.result())
            reason = reason or error
        if stop.name and reason is None:
            reason = Interrupted(f"stopped by {stop.name}; the cells under way have left their checkpoints")
        if reason is not None and not asked:
            for future in waiting:
                future.cancel()
            ask()
        tick()
    if reason is not None:
        raise reason


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
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


# in a worker

_asked = threading.Event()


def _begin(threads: int, parent: int) -> None:
    """Make a process a worker."""
    own_group: Any = getattr(os, "setpgrp", lambda: None)
    own_group()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: _asked.set())  # between trainings; `fit` has its own
    unblock: Any = getattr(signal, "pthread_sigmask", lambda how, signals: None)
    unblock(getattr(signal, "SIG_UNBLOCK", 0), HEEDED)
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # scipy's library has threads of its own
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def end_with(parent: int) -> None:
    """End this process when its parent has gone."""
    while os.getppid() == parent:
        time.sleep(ORPHANED)
    os._exit(1)


def _here() -> None:
    """Answer that the worker is there."""


def _work(settings: AdaptSettings, out: Path) -> Summary:
    """Train the one cell of the settings."""
    if _asked.is_set():
        raise Interrupted("stopped before it began")
    (cell,) = cells(settings)
    try:
        return cell.train(out, on_step=_heed)
    except Interrupted:
        _asked.set()  # the next cell may lie in the queue already
        raise


def _heed(step: int, model: nn.Module) -> None:
    """Pass on to `fit` a wish to stop that came before it listened."""
    if _asked.is_set():
        _asked.clear()
        signal.raise_signal(signal.SIGTERM)
