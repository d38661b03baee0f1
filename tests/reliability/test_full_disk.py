"""A disk that fills up: one sentence, exit code 1, what was finished is kept, and it goes on from there."""

import contextlib
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from lissome._errors import RunError
from lissome.optim.journal import Journal
from tests.reliability.forked import ended, figures, start, unlike, without_clocks
from tests.reliability.test_killed import gone_on, words_of

SEED = 20261128
SIZE = 4 << 20  # bytes of the disk
TIMES = 6  # a training meets a disk that is full, each time a little later
WHOLE = ["pde solve", "lm train", "icl train", "fit"]
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own; only the system's administrator can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode
    except FileNotFoundError:
        done = 1
    if done:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place, left):
    """Fill a disk but for so many bytes."""
    with contextlib.suppress(OSError), open(place / "filler", "wb") as file:
        while True:
            state = os.statvfs(place)
            more = state.f_bavail * state.f_frsize - left
            if more <= 0:
                return
            file.write(b"x" * min(more, 1 << 16))
            file.flush()


def told_once(told):
    lines = told.read_text().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("lissome: ")
    return lines[0]


def test_a_row_for_which_there_is_no_room_is_not_there_in_part(disk):
    fill(disk, PAGE)
    journal = Journal(disk / "rows.jsonl")
    rows = ({"step": step, "text": "x" * 100} for step in range(1000))
    with pytest.raises(RunError, match="No space left"):
        list(map(journal.append, rows))
    text = (disk / "rows.jsonl").read_text()
    assert text.endswith("\n")
    assert [json.loads(line) for line in text.splitlines()] == journal.rows[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("verb", WHOLE)
def test_a_training_on_a_full_disk_goes_on_to_the_same_bits(ground, tmp_path, disk, verb):
    told, out = tmp_path / "told", disk / "run"
    assert ended(start(words_of(verb, ground, tmp_path / "alone"), told)) == 0
    expected, chance, sentences = figures(tmp_path / "alone"), random.Random(f"{SEED} {verb}"), []
    used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in (tmp_path / "alone").rglob("*") if path.is_file())
    assert 2 * used < SIZE
    for turn in range(TIMES):
        fill(disk, int(used * (turn + chance.random()) / TIMES))
        code = ended(start(gone_on(verb, ground, out), told))
        if not code:
            break
        assert code == 1, told.read_text()
        sentences.append(told_once(told))
        (disk / "filler").unlink()
        assert not list(out.rglob("*.part"))
        for kept in out.rglob("*.json"):
            json.loads(kept.read_text())
    (disk / "filler").unlink(missing_ok=True)
    assert sentences
    if code:
        assert ended(start(gone_on(verb, ground, out), told)) == 0, told.read_text()
    assert unlike(figures(out), expected) == []
    print(verb, len(sentences), "times full:", *sentences, sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize("verb", WHOLE)
def test_a_file_that_may_not_grow_any_more_is_told(ground, tmp_path, verb):
    told = tmp_path / "told"
    assert ended(start(words_of(verb, ground, tmp_path / "alone"), told)) == 0
    expected = figures(tmp_path / "alone")
    largest = max(
        (tmp_path / "alone" / "checkpoint" / name).stat().st_size
        for name in os.listdir(tmp_path / "alone" / "checkpoint")
    )
    rows = (tmp_path / "alone" / "metrics.jsonl").stat().st_size
    for number, limit in enumerate({largest - 1, rows * 2 // 3}):
        out = tmp_path / f"run-{number}"
        assert ended(start(words_of(verb, ground, out), told, limit)) == 1, told.read_text()
        assert "File too large" in told_once(told)
        assert ended(start(gone_on(verb, ground, out), told)) == 0, told.read_text()
        assert unlike(figures(out), expected) == []


@pytest.mark.slow
def test_a_replication_on_a_full_disk_keeps_its_cells(tmp_path, disk):
    data, told = tmp_path / "data.txt", tmp_path / "told"
    data.write_text("".join(f"{i % 2} 1:{(i * 7) % 11 - 5} 2:{(i * 3) % 5}\n" for i in range(40)))
    words = ["replicate", "arcm", "--data", data, "--quick", "--jobs", "1"]
    assert ended(start([*words, "--out", tmp_path / "alone"], told)) == 0, told.read_text()
    expected = cells(tmp_path / "alone")
    fill(disk, 12 * PAGE)
    assert ended(start([*words, "--out", disk / "run"], told)) == 1, told.read_text()
    told_once(told)
    (disk / "filler").unlink()
    kept = cells(disk / "run")
    assert 0 < len(kept) < len(expected)
    assert kept == expected[: len(kept)]
    assert ended(start(["replicate", "--resume", "--jobs", "1", "--out", disk / "run"], told)) == 0, told.read_text()
    assert cells(disk / "run") == expected


def cells(run: Path):
    """Return the rows of a replication without clocks."""
    file = run / "cells.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [without_clocks(json.loads(line)) for line in lines]
