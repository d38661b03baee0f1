"""The command line from a test: inside this process, or as the real command."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lissome import cli

COMMAND = Path(sys.executable).with_name("lissome")
POINTS = ["--set", "points.interior=16", "--set", "points.boundary=8"]
TINY = ["--set", "network.width=4", *POINTS, "--set", "training.compile=false", "--steps", "20"]
SHORT = ["--set", "training.compile=false", "--steps", "20"]


class Face:
    """What a call showed."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *words, code=0):
        """Run a verb here; return what it printed."""
        self.capsys.readouterr()
        found = cli._guarded(lambda: cli.app(args=[str(word) for word in words], standalone_mode=False))
        self.out, self.err = self.capsys.readouterr()
        assert found == code, self.err
        if not code:
            assert self.err == ""
        return self.out

    def complaint(self, *words, code=2):
        """Run a verb that fails; return its one sentence."""
        self(*words, code=code)
        assert self.out == ""
        return one_sentence(self.err)


def one_sentence(err):
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("lissome: ")
    assert "Traceback" not in err
    return lines[0]


def start(*words, **more):
    """Start the real command in a process group of its own, as a terminal does."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    pipe = subprocess.PIPE
    command = [str(COMMAND), *map(str, words)]
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **more
    )


def wait_for(condition, process=None, seconds=60):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def rows(run):
    """Return the evaluations of a run, without clocks."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(run):
    return (run / "checkpoint" / "model.safetensors").read_bytes()


def same(one, other):
    """Say whether two runs gave the same numbers to the last bit."""
    return rows(one) == rows(other) and weights(one) == weights(other)
