import pytest

from lissome import cli
from tests.reliability.judge import Judge, different, held

POINTS = ["--set", "points.interior=16", "--set", "points.boundary=8", "--set", "points.initial=8"]
SOLVE = ["pde", "solve", "poisson", "--set", "network.width=4", *POINTS, "--set", "training.compile=false"]
MODEL = ["--quick", "--set", "model.width=16", "--set", "model.heads=2", "--length", "16", "--set", "scored=64"]
LEARNER = ["--quick", "--set", "model.iterations=2", "--set", "prompts=2"]
STREAM = ["--local", "16", "--chunk", "16", "--separators-kept", "8", "--capacity", "64", "--tokens", "200"]


def run(*words):
    code = cli._guarded(lambda: cli.app(args=[str(word) for word in words], standalone_mode=False))
    assert code == 0, words


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """One small run of each kind, and the files that they read; nothing may change them."""
    place = tmp_path_factory.mktemp("ground")
    (place / "text.txt").write_text("".join(f"line {i} of the text, it says {i * i}.\n" for i in range(400)))
    rows = [f"{i % 7},{i % 5},{(i % 7) * (i % 5) + 0.5}\n" for i in range(40)]
    (place / "table.csv").write_text("a,b,y\n" + "".join(rows))
    run(*SOLVE, "--steps", "10", "--out", place / "solved")
    run("lm", "train", place / "text.txt", *MODEL, "--steps", "4", "--out", place / "lm")
    run("lm", "export", place / "lm", "--out", place / "exported")
    run("lm", "stream", place / "lm", "--text", place / "text.txt", *STREAM, "--out", place / "streamed")
    run("icl", "train", "linear", *LEARNER, "--steps", "4", "--out", place / "icl")
    run("fit", place / "table.csv", "--quick", "--steps", "6", "--out", place / "fitted")
    run("pde", "diagnose", place / "solved", "--quick", "--out", place / "diagnosed")
    run("compare", place / "solved", "--out", place / "compared")
    before = held(place)
    yield place
    assert different(before, held(place)) == []


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Run verbs in a directory of the test, and say at its end what they did wrongly."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = Judge(tmp_path)
    yield found
    found.verdict()
