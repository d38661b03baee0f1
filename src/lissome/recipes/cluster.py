"""A Ray cluster: one that is there, or a local one for as long as it is wanted; Ray is loaded when asked for."""

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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from lissome._errors import RunError, UsageError
from lissome.recipes.worker import Crew, on_one_thread

ANSWER = 5.0  # seconds within which a cluster's door has to open
PATIENCE = 30.0  # seconds for Ray to connect through it, its own import and start included
STORE = 256 * 2**20  # bytes for objects of a local Ray, which would take a third of the memory
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
        self.work = ray.remote(num_cpus=1, max_retries=0, retry_exceptions=False, runtime_env=own)(on_one_thread)
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
def cluster(jobs: int) -> Iterator[Crew]:
    """Join the cluster that RAY_ADDRESS names, or start a local one of so many processors, and leave it in the end.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """
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
        joined = Cluster(ray, own)
        stack.callback(joined.end)
        yield Crew(joined.room, joined.submit, killed, joined.cause)


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
