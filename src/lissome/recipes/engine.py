"""Run the cells of a grid: one after another here, in worker processes of this machine, or on a Ray cluster.

A task is a function of a module with its arguments, which travel by pickle, as its result does: a worker needs the
same Lissome and no file of this machine. Each task has one processor and one thread.

A task whose worker was killed is run again, `TRIES` times in all; an error of its own ends the whole and arrives here
as itself. When the iteration ends, whole or not, no worker is left.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import torch
from joblib.externals.loky import ProcessPoolExecutor, process_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from lissome._errors import RunError, UsageError, unknown
from lissome.recipes.crew import HEEDED, POLL, can_spawn, end_with

ENGINES = ("processes", "ray")
TRIES = 3
ANSWER = 5.0  # seconds within which a cluster's door has to open
PATIENCE = 30.0  # seconds for Ray to connect through it, its own import and start included
STORE = 256 * 2**20  # bytes for objects of a local Ray, which would take a third of the memory
Tick = Callable[[], None]


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
        return _run(tasks, _cluster(jobs), tick)
    return _run(tasks, _processes(jobs, tick) if jobs > 1 and can_spawn() else _here(tick), tick)


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


# here


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


# in worker processes


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
            with _shielded():  # it is the submission that starts the process
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
            self.last[pool] = pool.submit(_work, call, arguments)
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
def _processes(jobs: int, tick: Tick) -> Iterator[Crew]:
    processes = Processes(tick)
    try:
        processes.recruit(jobs)
        yield Crew(lambda: jobs, processes.submit, (TerminatedWorkerError,))
    finally:
        processes.end()


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Hold signals back while a process is started; it inherits that, and lifts it when it can heed them."""
    mask: Any = getattr(signal, "pthread_sigmask", lambda how, signals: None)
    before = mask(getattr(signal, "SIG_BLOCK", 0), HEEDED)
    try:
        yield
    finally:
        mask(getattr(signal, "SIG_SETMASK", 0), before)


def _begin(parent: int) -> None:
    """Make a process a worker: a terminal's Ctrl-C reaches the parent alone, whose death ends it."""
    own_group: Any = getattr(os, "setpgrp", lambda: None)
    own_group()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unblock: Any = getattr(signal, "pthread_sigmask", lambda how, signals: None)
    unblock(getattr(signal, "SIG_UNBLOCK", 0), HEEDED)
    process_executor._USE_PSUTIL = False  # a worker that grows would be replaced, with a warning
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _answer() -> None:
    """Say that the worker is there."""


def _work(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Make the call on one thread, with nothing that would stop it."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    return call(lambda: None, **arguments)


# on a Ray cluster

# a process that can be killed: left alone, Ray tries a cluster that is none for minutes, and complains from C++
TRIAL = """
try:
    import ray
    ray.init(log_to_driver=False, logging_level='FATAL')
except BaseException as error:
    said = str(error.__cause__ or error).strip()
    print(said.splitlines()[-1] if 'Traceback' in said else said)
    raise SystemExit(1)
"""


class Cluster:
    """Tasks of Ray; it retries none, as it is counted here."""

    def __init__(self, ray: Any, jobs: int | None):
        self.ray, self.jobs = ray, jobs
        own = {"env_vars": {"OMP_NUM_THREADS": "1"}}
        self.work = ray.remote(num_cpus=1, max_retries=0, retry_exceptions=False, runtime_env=own)(_work)
        self.begun = list[Future[Any]]()

    def room(self) -> int:
        """Return the number of processors, which may grow, of a cluster that is not ours."""
        return self.jobs or max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def submit(self, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Future[Any]:
        """Send a call to the cluster."""
        self.begun = [future for future in self.begun if not future.done()]
        self.begun.append(self.work.remote(call, arguments).future())
        return self.begun[-1]

    def cause(self, error: BaseException) -> BaseException:
        """Return the error of the call itself; one of Ray is told in a sentence."""
        own = getattr(error, "cause", error)  # of a RayTaskError
        if isinstance(own, self.ray.exceptions.RayError):
            first, _, _ = str(own).partition("\n")
            own = RunError(f"Ray could not run a task: {_line(first)}")
        if own is not error:
            own.__cause__ = error
        return own

    def end(self) -> None:
        """Kill the workers of what is under way."""
        for future in self.begun:
            if not future.done():
                self.ray.cancel(future.object_ref, force=True)  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _cluster(jobs: int) -> Iterator[Crew]:
    if importlib.util.find_spec("ray") is None:
        raise UsageError("engine 'ray' needs Ray, which is not installed: `pip install 'lissome[ray]'`")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # it would tell on stdout of workers that were killed
    ray = importlib.import_module("ray")
    lost = ray.exceptions
    killed = (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError, lost.ObjectLostError)
    with contextlib.ExitStack() as stack:
        own = None
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS") or "local"
            own = jobs if address == "local" else None
            stack.callback(ray.shutdown)
            _connect(ray, address, jobs)
        cluster = Cluster(ray, own)
        stack.callback(cluster.end)
        yield Crew(cluster.room, cluster.submit, killed, cluster.cause)


def _connect(ray: Any, address: str, jobs: int) -> None:
    """Join the cluster, or start one."""
    more = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": STORE}
    if address != "local":
        _reach(address)
        more = {}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="FATAL", **more)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray at '{address}' cannot be used: {_line(str(error))}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray's own would leave at once


def _reach(address: str) -> None:
    """Refuse an address where no cluster answers."""
    try:
        door = urlsplit(address if "://" in address else f"//{address}")
        if door.port:
            socket.create_connection((door.hostname or "", door.port), ANSWER).close()
        trial = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, timeout=PATIENCE)
        reason = trial.returncode and (_line(trial.stdout) or f"Ray ended with code {trial.returncode}")
    except subprocess.TimeoutExpired:
        reason = f"no cluster answered within {PATIENCE:g} seconds"
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason:
        raise UsageError(f"the Ray cluster '{address}', which RAY_ADDRESS names, cannot be reached: {reason}")


def _line(text: str) -> str:
    """Return a text as one line of a legible length."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}..."
