"""Cells side by side in worker processes.

Each worker is a process group of its own, so that a terminal's Ctrl-C reaches the parent alone. The parent then asks
each worker once, by SIGTERM, to leave a checkpoint. A worker whose parent has died ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from lissome._errors import Interrupted, RunError
from lissome.optim.machine import Stop, stoppable
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import Cell, cells
from lissome.recipes.settings import AdaptSettings
from lissome.recipes.worker import POLL, can_spawn, cores, settle, shielded

Summary = dict[str, Any]


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
            with shielded():
                first = crew.submit(_here)
            first.result()
        except (BrokenProcessPool, OSError):
            return False
        with stoppable() as stop:
            with shielded():  # it is the submission that starts a process
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


# in a worker

_asked = threading.Event()


def _begin(threads: int, parent: int) -> None:
    """Make a process a worker."""
    signal.signal(signal.SIGTERM, lambda number, frame: _asked.set())  # between trainings; `fit` has its own
    settle(parent)
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # scipy's library has threads of its own


def _here() -> None:
    """Answer that the worker is there."""


def _work(settings: AdaptSettings, out: Path) -> Summary:
    """Train the one cell of the settings."""
    if _asked.is_set():
        raise Interrupted("stopped before it began")
    (cell,) = cells(settings, load_solution(Path(settings.run)))
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
