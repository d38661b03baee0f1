"""Worker processes of this machine, by joblib."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor, process_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lissome._errors import RunError
from lissome.recipes.worker import POLL, Crew, Tick, on_one_thread, settle, shielded


class Processes:
    """Worker processes, each a pool of its own, so that one that is killed takes no other's task with it."""

    def __init__(self, tick: Tick):
        self.tick = tick
        self.last = dict[ProcessPoolExecutor, Future[Any]]()  # pool -> its latest call

    def recruit(self, count: int) -> None:
        """Start workers and wait until each has answered: a long message to one that never reads it cannot be ended."""
        news = []
        for _ in range(count):
            pool = ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(),), env={"OMP_NUM_THREADS": "1"})
            with shielded():  # it is the submission that starts the process
                self.last[pool] = pool.submit(_answer)
            news.append(self.last[pool])
        while wait(news, timeout=POLL).not_done:
            self.tick()
        for answer in news:
            if isinstance(answer.exception(), TerminatedWorkerError):
                raise RunError("a worker process was killed while it started, perhaps for want of memory")
            answer.result()

    def submit(self, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Future[Any]:
        """Send a call to a worker without one; a new worker where that one was killed."""
        pool = next(pool for pool, last in self.last.items() if last.done())
        try:
            self.last[pool] = pool.submit(on_one_thread, call, arguments)
        except TerminatedWorkerError:
            del self.last[pool]
            pool.shutdown()
            self.recruit(1)
            return self.submit(call, arguments)
        return self.last[pool]

    def end(self) -> None:
        """Kill all workers."""
        for pool in self.last:
            pool.shutdown(kill_workers=True)


@contextlib.contextmanager
def processes(jobs: int, tick: Tick) -> Iterator[Crew]:
    """Start workers, and kill them in the end; `tick` is called while they start."""
    pools = Processes(tick)
    try:
        pools.recruit(jobs)
        yield Crew(lambda: jobs, pools.submit, (TerminatedWorkerError,))
    finally:
        pools.end()


def _begin(parent: int) -> None:
    """Make a process a worker."""
    settle(parent)
    process_executor._USE_PSUTIL = False  # a worker that grows would be replaced, with a warning


def _answer() -> None:
    """Say that the worker is there."""
