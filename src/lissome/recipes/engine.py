"""Run the cells of a grid: one after another here, in worker processes of this machine, or on a Ray cluster.

A task is a function of a module with its arguments, which travel by pickle, as its result does: a worker needs the
same Lissome and no file of this machine. Each task has one processor and one thread.

A task whose worker was killed is run again, `TRIES` times in all; an error of its own ends the whole and arrives here
as itself. When the iteration ends, whole or not, no worker is left.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from lissome._errors import RunError, UsageError, unknown
from lissome.recipes.cluster import cluster
from lissome.recipes.pool import processes
from lissome.recipes.worker import POLL, Crew, Tick, can_spawn

ENGINES = ("processes", "ray")
TRIES = 3


@dataclass(frozen=True)
class Task:
    """A call that can be made in another process.

    Attributes:
        name: unique.
        call: a function of a module; its first argument is a function to be called often, which may raise to stop.
        arguments: asked for here when the task begins; the keywords of the call, plain values, tensors as bytes.
        after: name of the task that it follows; one that is not among the tasks counts as done.
    """

    name: str
    call: Callable[..., Any]
    arguments: Callable[[], Mapping[str, Any]]
    after: str = ""


def run(
    tasks: Sequence[Task], *, engine: str = "processes", jobs: int = 1, tick: Tick
) -> Generator[tuple[Task, Any], None, None]:
    """Return an iterator over tasks and their results, each as soon as it ends.

    Tasks that are earlier in the list begin first. One that follows another begins after the caller has come back for
    more with that one's result in hand, so that `arguments` can read what the caller wrote.

    Args:
        tasks: what is to be run.
        engine: `processes` of this machine (with one job, or where none can be started, this process alone), or `ray`:
            the cluster of the environment variable RAY_ADDRESS, else a local one for as long as this takes.
        jobs: tasks at once; a cluster that was there before takes one for each of its processors.
        tick: called a few times per second while tasks are under way; what it raises ends all of them.

    Raises:
        UsageError: an unknown engine; Ray that is not installed, or a cluster that cannot be reached.
        RunError: the worker of a task was killed `TRIES` times.

    >>> tasks = [Task(str(n), lambda tick, n: n * n, lambda n=n: {"n": n}) for n in (2, 3)]
    >>> [(task.name, result) for task, result in run(tasks, tick=lambda: None)]
    [('2', 4), ('3', 9)]
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    jobs = min(jobs, len(tasks))
    if engine == "ray":
        return _run(tasks, cluster(jobs), tick)
    return _run(tasks, processes(jobs, tick) if jobs > 1 and can_spawn() else _here(tick), tick)


@dataclass
class Errand:
    """A task under way."""

    task: Task
    arguments: Mapping[str, Any]
    tries: int = 1


def _run(
    tasks: Sequence[Task], opened: contextlib.AbstractContextManager[Crew], tick: Tick
) -> Generator[tuple[Task, Any], None, None]:
    if not tasks:
        return
    left, under_way = list(tasks), dict[Future[Any], Errand]()
    with opened as crew:
        while left or under_way:
            waited_for = {task.name for task in [*left, *(errand.task for errand in under_way.values())]}
            ready = [task for task in left if task.after not in waited_for]
            if not ready and not under_way:
                raise UsageError(f"the tasks {', '.join(task.name for task in left)} wait for one another")
            for task in ready[: max(0, crew.room() - len(under_way))]:
                left.remove(task)
                errand = Errand(task, dict(task.arguments()))
                under_way[crew.submit(task.call, errand.arguments)] = errand
            ended, _ = wait(under_way, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=lambda future: future.exception() is not None):  # results are kept first
                errand = under_way.pop(future)
                error = future.exception()
                if error is None:
                    yield errand.task, future.result()
                elif not isinstance(error, crew.killed):
                    raise crew.cause(error)
                elif errand.tries == TRIES:
                    said = f"a worker process was killed, perhaps for want of memory, {TRIES} times in a row"
                    raise RunError(f"{said} at '{errand.task.name}'") from error
                else:
                    errand.tries += 1
                    under_way[crew.submit(errand.task.call, errand.arguments)] = errand
            tick()


@contextlib.contextmanager
def _here(tick: Tick) -> Iterator[Crew]:
    """Make each call at once, on one thread as in a worker; the caller has its threads back afterwards."""
    due = time.monotonic()

    def seldom() -> None:
        nonlocal due
        if time.monotonic() >= due:
            tick()
            due = time.monotonic() + POLL

    def submit(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Future[Any]:
        future = Future[Any]()
        future.set_result(call(seldom, **arguments))
        return future

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):  # scipy's library has threads of its own
            yield Crew(lambda: 1, submit)
    finally:
        torch.set_num_threads(threads)
