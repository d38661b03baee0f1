"""Tasks here, in worker processes and on Ray: in order, again after a kill, errors as themselves, nothing left."""

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch

from lissome._errors import Interrupted, RunError, UsageError
from lissome.recipes import cluster, engine
from lissome.recipes.engine import Task, run

PLACES = {"here": ("processes", 1), "processes": ("processes", 2), "ray": ("ray", 2)}


# tasks


def echo(tick, said):
    tick()
    return said


def threads(tick):
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def wrong(tick):
    raise UsageError("asked wrongly")


def killed_once(tick, marker):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "again"


def killed(tick, when):
    until(lambda: kept(when))
    os.kill(os.getpid(), signal.SIGKILL)


def endless(tick, marker):
    marker.write_text(str(os.getpid()))
    time.sleep(600)


def kept(marker):
    """Return what a task has left there, nothing if it has not begun."""
    return marker.read_text() if marker.exists() else ""


def until(condition, seconds=300):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# what is known of them


def nothing():
    return None


def task(name, call, after="", **arguments):
    return Task(name, call, lambda: arguments, after)


def workers():
    """Return the processes that were started from here, but for those that remember what is to be removed."""
    found = set()
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in "".join(one.cmdline()):
                found.add(one.pid)
    return found


def gone(marker):
    """Say whether the task that left its process there has ended."""
    return not psutil.pid_exists(int(kept(marker)))


@dataclass
class Record:
    """What a run of the grid showed."""

    begun: list = field(default_factory=list)
    results: dict = field(default_factory=dict)
    error: BaseException | None = None
    endless: Path = Path()
    left: set = field(default_factory=set)


@pytest.fixture(scope="module")
def ray_here():
    """A local Ray of two, started and ended as the engine does."""
    before = workers()
    with cluster.cluster(2):
        yield
    assert not workers() - before


def grid(place, out):
    """Run a grid whose last task, but for here, kills its worker each time, beside one that never ends."""
    seen = Record()

    def begins(name, call, after="", **arguments):
        def asked():
            seen.begun.append(name)
            return {key: value() if callable(value) else value for key, value in arguments.items()}

        return Task(name, call, asked, after)

    tasks = [
        begins("follower", echo, "first", said=lambda: seen.results["first"] + 1),
        begins("first", echo, said=1),
        begins("threads", threads),
        begins("alone", echo, "nobody", said=b"bytes"),
    ]
    if place != "here":
        seen.endless = out / "endless"
        tasks += [
            begins("killed once", killed_once, "alone", marker=out / "once"),
            begins("endless", endless, "killed once", marker=seen.endless),
            begins("killed", killed, "killed once", when=seen.endless),
        ]
    name, jobs = PLACES[place]
    before = workers()
    try:
        for done, result in run(tasks, engine=name, jobs=jobs, tick=nothing):
            seen.results[done.name] = result
    except RunError as error:
        seen.error = error
    seen.left = workers() - before
    return seen


# asked wrongly; before a local Ray is there


def test_an_unknown_engine_is_told_at_once():
    with pytest.raises(UsageError, match="unknown engine 'rya'; legal are: processes, ray .did you mean 'ray'"):
        run([], engine="rya", tick=nothing)


def test_without_ray_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'lissome\[ray\]'"):
        next(run([task("a", echo, said=1)], engine="ray", tick=nothing))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("127.0.0.1:{closed}", "Connection refused"),
        ("ray://127.0.0.1:{closed}", "Connection refused"),
        ("127.0.0.1:{silent}", "no cluster answered within 1 seconds"),
        ("127.0.0.1:port", "Port could not be cast"),
    ],
)
def test_a_cluster_that_does_not_answer_is_told_in_bounded_time(monkeypatch, address, text):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)  # Ray by itself would try for minutes
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = address.format(silent=silent.getsockname()[1], closed=closed.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match=text) as error:
            next(run([task("a", echo, said=1)], engine="ray", tick=nothing))
    assert f"'{address}', which RAY_ADDRESS names" in str(error.value)


def test_tasks_that_wait_for_one_another_are_told():
    with pytest.raises(UsageError, match="a, b wait for one another"):
        next(run([task("a", echo, "b"), task("b", echo, "a")], tick=nothing))


# everywhere


@pytest.fixture(params=PLACES)
def place(request):
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return request.param


def test_a_grid_is_run_in_order_and_after_a_kill_again(place, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "TRIES", 2)
    seen = grid(place, tmp_path)
    assert (seen.results["first"], seen.results["alone"]) == (1, b"bytes")
    assert seen.results["follower"] == 2, "it reads what the caller kept of the first"
    assert [name for name in seen.begun if name in ("first", "threads", "alone")] == ["first", "threads", "alone"]
    assert seen.begun.index("first") < seen.begun.index("follower")
    assert seen.results["threads"][0] == 1
    if place == "here":
        return
    assert seen.results["threads"][1] == "1", "a worker is told before it loads a library"
    assert seen.results["killed once"] == "again"
    assert str(seen.error) == "a worker process was killed, perhaps for want of memory, 2 times in a row at 'killed'"
    until(lambda: gone(seen.endless))
    assert place == "ray" or not seen.left


def test_an_error_of_a_task_arrives_as_itself(place):
    name, jobs = PLACES[place]
    with pytest.raises(UsageError, match="^asked wrongly$") as error:
        list(run([task("a", wrong), task("b", echo, "a", said=1)], engine=name, jobs=jobs, tick=nothing))
    assert type(error.value) is UsageError


# the end


def test_what_tick_raises_ends_workers_that_are_starting():
    def tick():
        raise Interrupted("stopped")

    before = workers()
    with pytest.raises(Interrupted):
        next(run([task("a", echo, said=1), task("b", echo, said=2)], jobs=2, tick=tick))
    assert not workers() - before


def test_what_tick_raises_stops_a_task_that_runs_here():
    ticks = []

    def tick():
        ticks.append(1)
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        next(run([task("a", echo, said=1)], tick=tick))
    assert ticks == [1]


def test_a_run_that_is_closed_early_leaves_no_task(ray_here, tmp_path):
    tasks = [task("a", echo, said=1), task("b", endless, marker=tmp_path / "b")]
    running = run(tasks, engine="ray", tick=nothing)
    assert next(running)[1] == 1
    until(lambda: kept(tmp_path / "b"))
    running.close()
    until(lambda: gone(tmp_path / "b"))


def test_the_caller_has_its_threads_back():
    torch.set_num_threads(2)
    running = run([task("a", threads), task("b", threads)], tick=nothing)
    assert next(running)[1][0] == 1
    running.close()
    assert torch.get_num_threads() == 2
