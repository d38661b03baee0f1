"""Runs of `lissome lm train` that are stopped, killed, or done by two processes, lose nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.command import one_sentence, same, start, wait_for
from tests.cli.language import ask

LONG = [
    "--steps",
    "200",
    "--set",
    "training.evaluate=50",
    "--set",
    "training.checkpoint=20",
    "--set",
    "model.dropout=0.1",
]


def written(run):
    try:
        return (run / "checkpoint" / "state.json").stat().st_mtime_ns
    except OSError:
        return 0


@pytest.mark.slow
def test_ctrl_c_and_sigkill_lose_nothing(lissome, undrawn, text, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(*ask(text, broken, *LONG))
    wait_for(lambda: written(broken), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome lm train --resume --out {broken}`")
    assert not (broken / "summary.json").exists()
    assert "steps" in lissome("show", broken)

    then = written(broken)
    process = start("lm", "train", "--resume", "--out", broken)
    wait_for(lambda: written(broken) > then, process)
    process.kill()
    process.communicate(timeout=60)
    assert not (broken / "summary.json").exists()

    lissome("lm", "train", "--resume", "--out", broken)
    lissome(*ask(text, whole, *LONG))
    assert same(broken, whole)
    assert (broken / "gradients.jsonl").read_text() == (whole / "gradients.jsonl").read_text()


FORKED = """
import os, socket, sys, torch
from lissome import cli
import lissome.recipes.language.train
torch.set_num_threads(1)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        code = 1
        try:
            code = cli._guarded(lambda: cli.app(args=sys.argv[1:], standalone_mode=False))
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.stdout.flush()
            os._exit(code)
print("codes", *[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launched(*words):
    """Run a command with one thread in each process; return its code, and what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def alike(one, other):
    """Compare the losses of two runs, to rounding."""
    ends = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for a, b in zip(*ends, strict=True):
        assert a["step"] == b["step"]
        assert [b["loss"], b["validation_loss"]] == pytest.approx([a["loss"], a["validation_loss"]], rel=1e-5)


def test_two_processes_give_the_losses_of_one_and_one_of_them_speaks(lissome, undrawn, text, tmp_path):
    lissome(*ask(text, tmp_path / "one"))
    words = ask(text, tmp_path / "two", "--device", "cpu", "--json")
    _, out, err = launched(sys.executable, "-c", FORKED, *words)
    assert (out.splitlines()[-1], err) == ("codes 0 0", "")
    assert json.loads(out[: out.rindex("codes")])["steps"] == 6
    alike(tmp_path / "one", tmp_path / "two")
    _, out, err = launched(sys.executable, "-c", FORKED, *words)
    assert out == "codes 2 2\n"
    assert "exists; name another directory by --out" in one_sentence(err)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]], ids=["plain", "sharded"])
def test_accelerate_launches_it(lissome, undrawn, text, tmp_path, flags):
    lissome(*ask(text, tmp_path / "one"))
    words = ["-m", "lissome.cli", *ask(text, tmp_path / "two", "--device", "cpu", "--json")]
    code, out, err = launched(*LAUNCH, *flags, *words)
    assert code == 0, err
    assert json.loads(out)["steps"] == 6
    alike(tmp_path / "one", tmp_path / "two")
