"""Trainings that are killed at random moments, again and again, end with the bits of one that was left alone."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.reliability.conftest import SOLVE
from tests.reliability.forked import ended, figures, killed, start, unlike, until

KILLS = {"pde solve": 20, "lm train": 20, "icl train": 6, "fit": 4}
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux for the time of a process")

CHAIN = 5  # kills of one run, at most
MOST = 1.05  # of the seconds that an unbroken run has until its summary; then its page is drawn
SEED = 20261128
STEPS = 120
VERBS = {
    "pde solve": [*SOLVE, "--steps", STEPS, "--set", "training.checkpoint=2", "--set", "training.evaluate=5"],
    "lm train": [
        *["lm", "train", "{ground}/text.txt", "--quick", "--set", "model.width=16", "--set", "model.heads=2"],
        *["--length", "16", "--set", "scored=64", "--steps", STEPS],
        *["--set", "training.checkpoint=2", "--set", "training.evaluate=5", "--set", "model.dropout=0.1"],
    ],
    "icl train": [
        *["icl", "train", "linear", "--quick", "--steps", STEPS, "--set", "training.checkpoint=2"],
        *["--set", "curriculum.pairs={first: 3, every: 4}", "--set", "curriculum.dimension={first: 1, every: 5}"],
    ],
    "fit": ["fit", "{ground}/table.csv", "--quick", "--steps", STEPS, "--set", "training.checkpoint=2"],
}


def words_of(verb, ground, out):
    return [*(str(word).replace("{ground}", str(ground)) for word in VERBS[verb]), "--out", out]


def gone_on(verb, ground, out):
    """Return the words that go on with a run, or begin it if it was killed before anything was kept."""
    return (
        [*verb.split(), "--resume", "--out", out] if (out / "settings.yaml").is_file() else words_of(verb, ground, out)
    )


def step(out):
    return dict(json.loads((out / "checkpoint" / "state.json").read_text())["dict"])["step"]


def reached(out, least):
    """Say whether a run has come so far; its checkpoint is away for a moment while the next takes its place."""
    try:
        return step(out) >= least
    except FileNotFoundError:
        return False


def phase(out):
    """Say where a run was when it was killed."""
    if not (out / "settings.yaml").is_file():
        return "before its settings"
    if (out / "summary.json").is_file():
        return "drawing its page"
    if [*out.glob("checkpoint.*"), *out.glob("checkpoint/.*.part")]:
        return "writing a checkpoint"
    if not (out / "checkpoint").is_dir():
        return "before its first checkpoint"
    return "training" if step(out) < STEPS else "measuring at its end"


@pytest.fixture
def alone(ground, tmp_path):
    """A function that trains once and is left alone; returns the figures and the processor's seconds."""

    def train(verb):
        out = tmp_path / "alone"
        assert ended(start(words_of(verb, ground, tmp_path / "warm"), tmp_path / "told")) == 0
        process = start(words_of(verb, ground, out), tmp_path / "told")
        seconds = until(process, out / "summary.json")
        assert ended(process) == 0, (tmp_path / "told").read_text()
        assert unlike(figures(out), figures(tmp_path / "warm")) == []
        return figures(out), seconds

    return train


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_training_that_is_killed_anywhere_ends_with_the_same_bits(ground, tmp_path, alone, verb):
    expected, seconds = alone(verb)
    chance, phases, ends = random.Random(f"{SEED} {verb}"), Counter(), 0
    while phases.total() < KILLS[verb]:
        out, told = tmp_path / f"run-{ends}", tmp_path / "told"
        for _ in range(min(CHAIN, KILLS[verb] - phases.total())):
            process = start(gone_on(verb, ground, out), told)
            killed(process, chance.uniform(0, MOST * seconds))
            if process.exitcode != -signal.SIGKILL:
                break
            phases[phase(out)] += 1
        assert process.exitcode in (0, -signal.SIGKILL), told.read_text()
        if process.exitcode:
            assert ended(start(gone_on(verb, ground, out), told)) == 0, told.read_text()
        assert unlike(figures(out), expected) == [], (out, phases)
        ends += 1
    print(f"{verb}, {seconds:.1f} s: {phases.total()} kills of {ends} runs, {dict(phases)}: all equal")


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_in_the_middle_ends_with_130_and_goes_on_to_the_same_bits(ground, tmp_path, alone, verb):
    expected, _ = alone(verb)
    out, told = tmp_path / "run", tmp_path / "told"
    process = start(words_of(verb, ground, out), told)
    end = time.monotonic() + 60
    while not reached(out, STEPS // 4):
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130, told.read_text()
    said = told.read_text().splitlines()
    assert len(said) == 1, said
    assert said[0].endswith(f"`lissome {verb} --resume --out {out}`")
    assert STEPS // 4 <= step(out) < STEPS
    assert ended(start(gone_on(verb, ground, out), told)) == 0, told.read_text()
    assert unlike(figures(out), expected) == []
