import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lissome._errors import Interrupted, UsageError
from lissome.optim import Budget, Group, Method, Outcome, checkpoint, fit
from tests.optim.methods import METHODS
from tests.optim.problems import Sine, network

ROOT = Path(__file__).parents[2]


class Stopped(Exception):
    pass


def stop_after(steps):
    """A hook that ends the run at once, as if the process had died."""

    def hook(step, model):
        if step == steps:
            raise Stopped

    return hook


def rows(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(directory):
    return (directory / "checkpoint" / "model.safetensors").read_bytes()


def train(directory, kind, *, model=None, steps=40, **options):
    settings = {"seed": 3, "evaluate_every": 7, "checkpoint_every": 5} | options
    model = network() if model is None else model
    return model, fit(model, Sine(), METHODS[kind], Budget(steps=steps), directory=directory, **settings)


@pytest.mark.parametrize("kind", METHODS)
def test_unbroken_and_resumed_runs_are_bit_equal(kind, tmp_path):
    whole, result = train(tmp_path / "whole", kind)
    for stop in (13, 20, 33, 38):
        with contextlib.suppress(Stopped):
            train(tmp_path / "broken", kind, resume=stop > 13, on_step=stop_after(stop))
    model, resumed = train(tmp_path / "broken", kind, resume=True, model=network(seed=99))
    assert resumed.resumed_from == min(35, result.steps)
    assert resumed.outcome is result.outcome
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert (tmp_path / "broken" / "checkpoint" / "state.safetensors").read_bytes() == (
        tmp_path / "whole" / "checkpoint" / "state.safetensors"
    ).read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_random_layers_resume_to_the_same_bits(tmp_path):
    ends = []
    for stops in ((), (11, 12)):
        for index, stop in enumerate((*stops, None)):
            model = torch.nn.Sequential(network(), torch.nn.Dropout(0.3))
            with contextlib.suppress(Stopped):
                train(tmp_path / str(stops), "adam", model=model, resume=index > 0, on_step=stop_after(stop))
        ends.append(weights(tmp_path / str(stops)))
    assert ends[0] == ends[1]


def test_a_finished_run_resumes_at_once_and_a_larger_budget_goes_on(tmp_path):
    train(tmp_path, "adam", steps=10)
    _, again = train(tmp_path, "adam", steps=10, resume=True)
    assert (again.steps, again.resumed_from, again.outcome) == (10, 10, Outcome.STEPS)
    assert [row["step"] for row in again.history] == [0, 7, 10]
    _, longer = train(tmp_path, "adam", steps=15, resume=True)
    assert (longer.steps, longer.resumed_from) == (15, 10)
    assert [row["step"] for row in longer.history] == [0, 7, 10, 14, 15]
    assert longer.seconds > again.seconds


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    train(tmp_path / "whole", "adam", steps=20)
    with pytest.raises(Stopped):
        train(tmp_path / "broken", "adam", steps=20, on_step=stop_after(18))
    with open(tmp_path / "broken" / "metrics.jsonl", "a") as file:
        file.write('{"step": 17, "lo')
    train(tmp_path / "broken", "adam", steps=20, resume=True)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


class Nursery:
    """Trainings in child processes; see training.py."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.optim.training"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def start(self, directory, kind, sleep=0.0):
        print(json.dumps([str(directory), kind, sleep]), file=self.process.stdin, flush=True)
        word, number = self.process.stdout.readline().split()
        assert word == "pid"
        return int(number)

    def end(self):
        """Return the exit code and what was printed."""
        text = []
        while not (line := self.process.stdout.readline()).startswith("exit"):
            assert line, "the nursery died"
            text.append(line)
        return int(line.split()[1]), "".join(text)


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    nursery.process.stdout.close()
    nursery.process.wait(30)


def kill_often(nursery, directory, kind, kills, longest):
    chance = random.Random(kind)
    nursery.start(directory / "whole", kind)
    assert nursery.end() == (0, "")
    for _ in range(kills):
        pid = nursery.start(directory / "broken", kind, 0.01)
        time.sleep(chance.uniform(0.0, longest))
        with contextlib.suppress(ProcessLookupError):  # it was done already
            os.kill(pid, signal.SIGKILL)
        code, text = nursery.end()
        assert code in (-signal.SIGKILL, 0)
        assert text == ""
    nursery.start(directory / "broken", kind)
    assert nursery.end() == (0, "")
    assert rows(directory / "broken") == rows(directory / "whole")
    assert weights(directory / "broken") == weights(directory / "whole")


def test_sigkill_at_random_moments_loses_nothing(nursery, tmp_path):
    kill_often(nursery, tmp_path, "phases", kills=8, longest=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_many_sigkills_lose_nothing(nursery, kind, tmp_path):
    kill_often(nursery, tmp_path, kind, kills=40, longest=0.15)


def test_ctrl_c_in_a_process_leaves_a_checkpoint_and_exits_with_130(nursery, tmp_path):
    pid = nursery.start(tmp_path, "adam", 0.05)
    while not (tmp_path / "checkpoint").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    code, text = nursery.end()
    assert code == 130
    assert text.startswith("stopped by Ctrl-C after")
    nursery.start(tmp_path, "adam")
    assert nursery.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_that_resumes_to_the_same_bits(number, tmp_path):
    handler = signal.getsignal(number)
    whole, _ = train(tmp_path / "whole", "two groups")
    with pytest.raises(Interrupted, match="after 18 steps; the checkpoint of step 18 is kept") as error:
        train(
            tmp_path / "stopped",
            "two groups",
            on_step=lambda step, model: os.kill(os.getpid(), number) if step == 18 else None,
        )
    assert error.value.exit_code == 130
    assert signal.getsignal(number) is handler
    model, result = train(tmp_path / "stopped", "two groups", resume=True)
    assert result.resumed_from == 18
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_a_second_ctrl_c_acts_at_once():
    def twice(step, model):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    # a shell that starts the tests in the background lets them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(None, "adam", on_step=twice)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_without_a_directory_says_so():
    with pytest.raises(Interrupted, match="no directory was given"):
        train(None, "adam", on_step=lambda step, model: os.kill(os.getpid(), signal.SIGINT))


def test_a_directory_with_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, "adam", steps=2)
    with pytest.raises(UsageError, match="holds a run already; resume it, delete it or choose another"):
        train(tmp_path, "adam", steps=2)


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"no checkpoint at .*; start without resume"):
        train(tmp_path, "adam", resume=True)


@pytest.mark.parametrize(
    ("method", "seed", "text"),
    [
        (METHODS["adam"], 4, "seed was 3 and is 4 now"),
        (METHODS["sgd"], 3, r"methods\[0\].groups\[0\].optimizer was 'adam' and is 'sgd' now"),
        (
            Method((Group("*", "adam", 0.03),), points=32, resample_every=4),
            3,
            r"groups\[0\].lr was 0.02 and is 0.03 now",
        ),
    ],
)
def test_a_resume_with_other_settings_names_the_first_that_differs(method, seed, text, tmp_path):
    train(tmp_path, "adam", steps=2)
    before = weights(tmp_path)
    with pytest.raises(UsageError, match=text):
        fit(network(), Sine(), method, Budget(steps=5), seed=seed, directory=tmp_path, resume=True)
    assert weights(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (network(width=9), r"'0.weight' is torch.float64 of shape \(8, 1\) there and .* shape \(9, 1\) in the network"),
        (network(dtype=torch.float32), "'0.weight' is torch.float64 of shape .* there and torch.float32"),
        (torch.nn.Sequential(*network(), torch.nn.Linear(1, 1)), "it lacks '3.weight'"),
        (torch.nn.Sequential(*list(network())[:2]), r"it holds '2.(bias|weight)', which the network lacks"),
    ],
)
def test_the_checkpoint_of_another_network_names_the_first_difference(other, text, tmp_path):
    train(tmp_path, "adam", steps=2)
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(UsageError, match=text):
        train(tmp_path, "adam", resume=True, model=other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.TENSORS, checkpoint.STATE])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_told(name, part, tmp_path):
    train(tmp_path, "adam", steps=2)
    path = tmp_path / "checkpoint" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UsageError, match=rf"{name} is damaged"):
        train(tmp_path, "adam", resume=True)


def test_a_state_that_is_no_mapping_is_told(tmp_path):
    train(tmp_path, "adam", steps=2)
    (tmp_path / "checkpoint" / checkpoint.STATE).write_text("[1]")
    with pytest.raises(UsageError, match=rf"{checkpoint.STATE} is damaged"):
        train(tmp_path, "adam", resume=True)


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.TENSORS, checkpoint.STATE])
def test_a_missing_file_is_told(name, tmp_path):
    train(tmp_path, "adam", steps=2)
    (tmp_path / "checkpoint" / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} is missing"):
        train(tmp_path, "adam", resume=True)
