"""Runs that are stopped, killed or starved: a sentence, a code, and nothing lost."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.command import POINTS, SHORT, TINY, one_sentence, same, start, wait_for

LONG = ["--set", "network.width=4", *POINTS, "--set", "training.compile=false", "--steps", "200"]
LONG += ["--set", "training.evaluate=100", "--set", "training.checkpoint=20"]


@pytest.fixture
def full_disk(monkeypatch):
    """A function that fills the disk, after so many more files."""

    def fill(after=0):
        left = iter(range(after))
        honest = os.fsync

        def fsync(number):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            honest(number)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def written(run):
    """Return when the checkpoint was written, 0 if there is none."""
    try:
        return (run / "checkpoint" / "state.json").stat().st_mtime_ns
    except OSError:
        return 0


def changed(run, then):
    return written(run) > then


def test_ctrl_c_and_sigkill_of_a_solve_lose_nothing(lissome, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start("pde", "solve", "poisson", *LONG, "--out", broken)
    wait_for(lambda: written(broken), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome pde solve --resume --out {broken}`")
    assert not (broken / "summary.json").exists()

    then = written(broken)
    process = start("pde", "solve", "--resume", "--out", broken)
    wait_for(lambda: changed(broken, then), process)
    process.kill()
    process.communicate(timeout=60)
    assert not (broken / "summary.json").exists()

    lissome("pde", "solve", "--resume", "--out", broken)
    lissome("pde", "solve", "poisson", *LONG, "--out", whole)
    assert same(broken, whole)


def children(pid):
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for workers where Linux lists them")
def test_ctrl_c_and_sigkill_of_an_adaptation_lose_nothing(lissome, solved, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    long = [word for word in LONG if "network" not in word][1:]
    words = ["pde", "adapt", solved, "--parameter", "c=1", "--method", "svd,full", *long]
    cells = [Path("c=1,k=1") / "svd", Path("c=1,k=1") / "full"]

    process = start(*words, "--jobs", "2", "--out", broken)
    wait_for(lambda: any(written(broken / cell) for cell in cells), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome pde adapt --resume --out {broken}`")
    table = json.loads((broken / "comparison.json").read_text())["rows"]
    assert table
    assert not any(row.get("finished", True) for row in table), table

    then = {cell: written(broken / cell) for cell in cells}
    process = start("pde", "adapt", "--resume", "--jobs", "2", "--out", broken)
    wait_for(lambda: any(changed(broken / cell, then[cell]) for cell in cells), process)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait(60)
    wait_for(lambda: not any(map(alive, workers)))
    process.communicate(timeout=60)

    lissome("pde", "adapt", "--resume", "--jobs", "1", "--out", broken)
    lissome(*words, "--jobs", "1", "--out", whole)
    assert all(same(broken / cell, whole / cell) for cell in cells)


def test_a_disk_that_is_full_from_the_start_is_told(lissome, tmp_path, full_disk):
    full_disk()
    said = lissome.complaint("pde", "solve", "poisson", *TINY, "--out", tmp_path / "run", code=1)
    assert "settings.yaml' cannot be written (No space left on device)" in said


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(lissome, tmp_path, monkeypatch, full_disk):
    words = ["poisson", *TINY, "--set", "training.checkpoint=5"]
    with monkeypatch.context():
        full_disk(after=10)  # settings, environment, rows, two checkpoints of three files, one of the next
        said = lissome.complaint("pde", "solve", *words, "--out", tmp_path / "run", code=1)
    monkeypatch.undo()
    assert "No space left on device" in said
    assert "the checkpoint before it is intact" in said
    lissome("pde", "solve", "--resume", "--out", tmp_path / "run")
    lissome("pde", "solve", *words, "--out", tmp_path / "whole")
    assert same(tmp_path / "run", tmp_path / "whole")


def test_nan_in_a_solve_ends_it_with_its_checkpoint_kept(lissome, tmp_path):
    out = tmp_path / "run"
    words = ["--optimizer", "adam", "--set", "training.rate=1e30", "--out", out]
    said = lissome.complaint("pde", "solve", "poisson", *TINY, *words, code=1)
    assert "is not finite after" in said
    assert f"the checkpoint of step 0 is kept in {out / 'checkpoint'}" in said
    assert (out / "checkpoint" / "model.safetensors").is_file()


def test_nan_in_one_cell_leaves_the_others(lissome, solved, tmp_path):
    out = tmp_path / "a"
    words = ["--method", "svd,last", "--parameter", "c=1", "--parameter", "c=2", *SHORT, "--jobs", "1"]
    wild = ["--optimizer", "adam", "--set", "training.groups=[{pattern: '*core', optimizer: sgd, rate: 1.0e+30}]"]
    said = lissome.complaint("pde", "adapt", solved, *words, *wild, "--out", out, code=1)
    assert "2 of 4 cells failed: c=1,k=1/svd (" in said
    assert "c=2,k=1/svd (" in said
    assert "is not finite after" in said
    failed = json.loads((out / "c=1,k=1" / "svd" / "summary.json").read_text())
    assert failed["error"] is None
    assert "is not finite" in failed["failed"]
    shown = lissome("show", out)
    assert shown.count("failed") >= 2
    assert shown.count("best") >= 2
    said = lissome.complaint("pde", "adapt", out / "c=1,k=1" / "svd", "--parameter", "c=3", "--out", tmp_path / "b")
    assert "failed: " in said

    kept = (out / "c=1,k=1" / "last" / "summary.json").stat().st_mtime_ns
    said = lissome.complaint("pde", "adapt", "--resume", "--jobs", "1", "--out", out, code=1)
    assert "2 of 4 cells failed" in said
    assert (out / "c=1,k=1" / "last" / "summary.json").stat().st_mtime_ns == kept
