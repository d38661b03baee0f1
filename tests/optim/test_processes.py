"""Several processes train as one does: each with its rows, or each with a part of the weights too."""

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

from tests.optim.problems import Sine, network

ROOT = Path(__file__).parents[2]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ONE, TWO, SHARDED = {"processes": 1}, {"processes": 2}, {"processes": 2, "environment": FSDP}
BOTH = (ONE, SHARDED)
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


class Nursery:
    """Trainings in several processes; see processes.py."""

    def __init__(self):
        pipe, command = subprocess.PIPE, [sys.executable, "-m", "tests.optim.processes"]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def start(self, directory, **settings):
        print(json.dumps({"directory": str(directory)} | settings), file=self.process.stdin, flush=True)
        word, *pids = self.process.stdout.readline().split()
        assert word == "pids"
        return [int(pid) for pid in pids]

    def end(self):
        """Return the exit codes and what rank 0 said."""
        said = None
        while not (line := self.process.stdout.readline()).startswith("exit"):
            assert line, "the nursery died"
            said = json.loads(line.removeprefix("said "))
        return [int(code) for code in line.split()[1:]], said

    def train(self, directory, **settings):
        self.start(directory, **settings)
        codes, said = self.end()
        assert not any(codes), said
        return said

    def error(self, directory, **settings):
        self.start(directory, **settings)
        codes, said = self.end()
        assert set(codes) == {2}, said
        return said["error"]


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    nursery.process.stdout.close()
    nursery.process.wait(30)


@pytest.fixture(scope="module")
def alone(nursery, tmp_path_factory):
    """One process that takes whole batches."""
    directory = tmp_path_factory.mktemp("alone")
    return directory, nursery.train(directory / "run", **ONE)


def rows(said):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in said["history"]]


def same(said, other):
    steps = [0, 4, 8, 12]
    found = [[row for row in rows(each) if row["step"] in steps] for each in (said, other)]
    assert [[row["step"] for row in each] for each in found] == [steps, steps]
    for row, expected in zip(*found, strict=True):
        assert row == pytest.approx(expected, rel=1e-9)


def files(directory):
    return [(directory / "checkpoint" / f"{name}.safetensors").read_bytes() for name in ("model", "state")]


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        (TWO, 1.0),
        (TWO | {"bucket": 1000}, 1.0),
        ({"processes": 3, "method": {"accumulate": 2}}, 1.0),
        ({"processes": 5}, 1.0),  # 12 rows: two processes take 3, three take 2
        (SHARDED, 0.51),
        (SHARDED | {"method": {"accumulate": 3}}, 0.51),
    ],
)
def test_processes_train_as_one_does(nursery, alone, settings, held, tmp_path):
    said = nursery.train(tmp_path / "run", **settings)
    same(said, alone[1])
    assert said["history"][-1]["loss"] < 0.8 * said["history"][0]["loss"]
    whole, here = said["numbers"]
    assert here <= held * whole


def test_a_sharded_run_of_a_part_of_the_parameters_is_that_of_one_process(nursery, tmp_path):
    ends = [nursery.train(tmp_path / str(n), last=True, **how) for n, how in enumerate(BOTH)]
    same(*ends)


def test_lower_precision_is_that_of_one_process(nursery, tmp_path):
    ends = [nursery.train(tmp_path / str(n), precision="bf16", **how) for n, how in enumerate((ONE, TWO, SHARDED))]
    for said in ends[1:]:
        for row, expected in zip(rows(said), rows(ends[0]), strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert ends[0]["history"][-1]["loss"] < 0.8 * ends[0]["history"][0]["loss"]


def test_an_objective_that_cannot_be_cut_is_drawn_by_each_process(nursery, tmp_path):
    said = nursery.train(tmp_path, model="sine", optimizer="sgd", steps=1, method={"clip": None}, **TWO)
    losses = []
    for seed in (3, 1_000_006):
        batch = Sine().sample(torch.Generator().manual_seed(seed), 12)
        losses.append(float(Sine().loss(network(), batch).detach()))
    assert said["history"][0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-12)


@pytest.mark.parametrize(("how", "model"), [(TWO, "dropped"), (SHARDED, "decoder")], ids=["plain", "sharded"])
def test_sigkill_of_two_processes_loses_nothing(nursery, how, model, tmp_path):
    settings = how | {"model": model, "method": {"accumulate": 2, "points": 11}}
    whole = nursery.train(tmp_path / "whole", **settings)
    chance = random.Random(model)
    for _ in range(2):
        pids = nursery.start(tmp_path / "broken", sleep=0.05, **settings)
        until = time.monotonic() + chance.uniform(0.2, 1.5)
        while time.monotonic() < until or not (tmp_path / "broken" / "checkpoint").exists():
            time.sleep(0.01)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it was done already
                os.kill(pid, signal.SIGKILL)
        nursery.end()
    said = nursery.train(tmp_path / "broken", **settings)
    assert rows(said) == rows(whole)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_an_adapter_outside_the_blocks_is_that_of_one_process(nursery, tmp_path):
    ends = [nursery.train(tmp_path / str(n), model="outer", optimizer="adamw", **how) for n, how in enumerate(BOTH)]
    same(*ends)
    assert ends[0]["history"][-1]["held_out"] < ends[0]["history"][0]["held_out"]


def test_nothing_is_compiled_under_fsdp(nursery, tmp_path):
    said = nursery.train(tmp_path, compile=True, steps=1, **SHARDED)
    assert said["capture"] == "eager: FSDP needs the hooks of the modules"


def test_draws_of_two_processes_do_not_go_on_in_one(nursery, tmp_path):
    settings = {"model": "sine", "optimizer": "adam", "steps": 1}
    nursery.train(tmp_path, **settings, **TWO)
    assert "processes was 2 and is 1 now" in nursery.error(tmp_path, **settings, **ONE)


def test_a_run_goes_on_sharded_or_not_with_one_process_or_two(nursery, alone, tmp_path):
    for steps, how in ((3, SHARDED), (5, ONE), (8, SHARDED), (10, TWO), (12, ONE)):
        said = nursery.train(tmp_path, stop=steps, **how)
    assert said["resumed_from"] == 10
    same(said, alone[1])


def test_a_weight_that_breaks_in_one_part_ends_all_processes(nursery, tmp_path):
    nursery.start(tmp_path, spoilt=4, **SHARDED)
    codes, said = nursery.end()
    assert codes == [1, 1]
    assert "the parameter 'embedding.weight' is not finite after 4 steps" in said["error"]


def test_a_signal_to_one_process_stops_both_with_a_checkpoint(nursery, alone, tmp_path):
    pids = nursery.start(tmp_path, sleep=0.1, **TWO)
    while not (tmp_path / "checkpoint").exists():
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGTERM)
    codes, said = nursery.end()
    assert codes == [130, 130]
    assert said["error"].startswith("stopped by another process after")
    same(nursery.train(tmp_path, **TWO), alone[1])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": {"accumulate": 7}}, "points=12 are too few for accumulate x processes = 14 parts of a batch"),
        ({"optimizer": "lbfgs", "method": {"clip": None}}, "FSDP does not go with lbfgs"),
        (
            {"environment": FSDP | {"FSDP_VERSION": "1"}},
            "FSDP version 1 is not supported: launch with --fsdp_version 2",
        ),
        ({"environment": FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}}, "--fsdp_offload_params true is not supported"),
        ({"model": "borrowed"}, "FSDP needs a model that is called as a whole, and whose blocks are called too"),
        ({"model": "adapter", "optimizer": "adamw"}, "FSDP needs a model that is called as a whole"),
        ({"model": "idle"}, "under FSDP the loss does not reach the parameter 'idle'"),
    ],
)
def test_what_cannot_be_sharded_is_a_sentence(nursery, settings, text, tmp_path):
    assert text in nursery.error(tmp_path, **(SHARDED | settings))


@pytest.mark.parametrize(
    "flags",
    [pytest.param(["--multi_gpu"], marks=pytest.mark.slow), ["--use_fsdp", "--fsdp_version", "2"]],
    ids=["plain", "sharded"],
)
def test_accelerate_launches_it(alone, flags, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", *flags]
    launch += ["-m", "tests.optim.processes", json.dumps({"directory": str(tmp_path)})]
    done = subprocess.run(launch, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [json.loads((tmp_path / f"said.{rank}.json").read_text()) for rank in (0, 1)]
    for each in said:
        same(each, alone[1])
    assert (said[0]["numbers"][1] < said[0]["numbers"][0]) is ("--use_fsdp" in flags)
