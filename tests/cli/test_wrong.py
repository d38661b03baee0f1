"""What is asked wrongly is one sentence, exit code 2, and nothing is left behind."""

import re
import shutil

import pytest
import torch
import yaml

from lissome import cli
from tests.cli.command import SHORT, TINY, one_sentence


def edit(run, **changes):
    """Change groups of a run's settings."""
    file = run / "settings.yaml"
    data = yaml.safe_load(file.read_text())
    for group, values in changes.items():
        data[group] |= values
    file.write_text(yaml.safe_dump(data))


@pytest.fixture
def copied(solved, tmp_path):
    return shutil.copytree(solved, tmp_path / "copied")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["posson"], "unknown family 'posson'.*did you mean 'poisson'"),
        ([], "setting 'family' is missing"),
        (["poisson", "--parameter", "q=1"], "unknown parameter of family 'poisson': 'q'; legal are: c, k"),
        (["poisson", "--parameter", "c"], "--parameter takes name=number.*'c' is none"),
        (["poisson", "--parameter", "c=1", "--parameter", "c=2"], "parameter 'c' is given twice"),
        (["poisson", "--parameter", "c=red"], "--parameter takes name=number.*'c=red' is none"),
        (["poisson", "--dimension", "0"], "'dimension' is 0: input should be greater than or equal to 1"),
        (["poisson", "--dimension", "two"], "Invalid value for '--dimension'"),
        (["burgers", "--dimension", "3"], "family 'burgers' has 1 space dimensions; it was asked for 3"),
        (["poisson", "--device", "tpu"], "device 'tpu' is not to be had; legal here are: auto, cpu"),
        (["poisson", "--dtype", "float16"], "'dtype' is 'float16'"),
        (["poisson", "--constraint", "hard"], "'constraint' is 'hard'"),
        (["poisson", "--set", "training.rat=1"], "unknown setting 'training.rat'.*did you mean 'training.rate'"),
        (["poisson", "--set", "training.steps=many"], "'training.steps' is 'many'"),
        (["poisson", "--set", "training.then=[{optimiser: lbfgs}]"], "'training.then.0.optimiser'.*0.optimizer'"),
        (["poisson", "--set", "training.optimizer=adamm"], "unknown optimizer 'adamm'.*did you mean 'adam'"),
        (["poisson", "--set", "training.options={bent: 1}"], "unknown option of gauss-newton 'bent'.*'bend'"),
        (["poisson", "--set", "training.rate=0.1"], "gauss-newton has no learning rate, and 0.1 was given"),
        (["poisson", "--optimizer", "adam+gaussnewton"], "unknown optimizer 'gaussnewton'.*'gauss-newton'"),
        (["poisson", "--set", "training.compile=maybe"], "'training.compile' is 'maybe'"),
        (["poisson", "--dimension", "200000"], "'dimension' is 200000.*less than or equal to 100000"),
        (["poisson", "--optimizer", "adam:x"], "the course 'adam:x' says 'x' behind a colon"),
        (["poisson", "--set", "training.groups=[{pattern: '*core'}]"], "the pattern '\\*core' has no trained"),
        (["poisson", "--set", "points.draw=sobl"], "unknown.*'sobl'.*did you mean 'sobol'"),
        (["poisson", "--set", "seed"], "--set takes key=value"),
        (["poisson", "--nosuch"], "No such option: --nosuch"),
        (["nowhere/mine.py"], "family file '.*nowhere/mine.py' cannot be read"),
    ],
)
def test_solve_says_what_is_wrong_and_leaves_nothing(lissome, tmp_path, words, text):
    pattern = re.compile(text)
    said = lissome.complaint("pde", "solve", *words, "--out", tmp_path / "new" / "run")
    assert pattern.search(said), said
    assert not (tmp_path / "new").exists()


def test_what_was_asked_wrongly_can_be_asked_again(lissome, tmp_path):
    (tmp_path / "run").mkdir()
    wrong = ["--set", "training.groups=[{pattern: 'nowhere*'}]"]
    lissome.complaint("pde", "solve", "poisson", *TINY, *wrong, "--out", tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    lissome("pde", "solve", "poisson", *TINY, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainin: {}\n", "unknown setting 'trainin'"),
        ("- poisson\n", "holds a list; legal is a mapping"),
        ("family: !!python/object/apply:os.system ['touch harmed']\n", "is no YAML"),
        ("family: [", "is no YAML"),
        (b"\xff\xfe", "is no YAML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_wrong_settings_file_is_told(lissome, tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for verb in ("solve", "adapt"):
        assert words in lissome.complaint("pde", verb, "--settings", file, "--out", tmp_path / "run")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_output_directory_that_exists_is_kept(lissome, solved, tmp_path, kind):
    place = tmp_path / "there"
    if kind == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "note").write_text("mine")
    for words in (["solve", "poisson"], ["adapt", solved, "--parameter", "c=1"]):
        assert "exists; name another directory by --out" in lissome.complaint("pde", *words, "--out", place)
    assert (place if kind == "file" else place / "note").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--method", "sdv"], "unknown method 'sdv'.*did you mean 'svd'"),
        (["--rank", "99"], "rank.*99"),
        (["--rank", "-1"], "'rank' is -1"),
        (["--rank", "2", "--method", "full,last"], "rank=2 has no meaning for full, last"),
        (["--parameter", "k=1,z=2"], "unknown parameter of family 'poisson': 'z'"),
        (["--parameter", "k:1"], "--parameter takes name=number"),
        (["--set", "training.groups=[{pattern: '*nowhere'}]"], "pattern '\\*nowhere' of training.groups matches no"),
        (["--set", "training.optimizer=adamm", "--method", "last"], "unknown optimizer 'adamm'"),
        (["--set", "network.width=3"], "unknown setting 'network'"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
    ],
)
def test_adapt_says_what_is_wrong_and_leaves_nothing(lissome, solved, tmp_path, words, text):
    pattern = re.compile(text)
    said = lissome.complaint("pde", "adapt", solved, "--parameter", "c=1", *words, "--out", tmp_path / "new")
    assert pattern.search(said), said
    assert not (tmp_path / "new").exists()


def test_adapt_without_targets_says_so(lissome, solved, tmp_path):
    assert "'targets' is missing" in lissome.complaint("pde", "adapt", solved, "--out", tmp_path / "new")


def test_there_has_to_be_a_finished_run(lissome, copied, tmp_path):
    words = ["--parameter", "c=1", "--out", tmp_path / "new"]
    assert "holds no run" in lissome.complaint("pde", "adapt", tmp_path / "nowhere", *words)
    (copied / "summary.json").unlink()
    said = lissome.complaint("pde", "adapt", copied, *words)
    assert f"'{copied}' has not finished; `lissome pde solve --resume --out {copied}` goes on" in said
    lissome("pde", "solve", "--resume", "--out", copied)
    lissome("pde", "adapt", copied, *words, *SHORT)


def test_a_network_of_another_width_is_told(lissome, copied, tmp_path):
    edit(copied, network={"width": 5})
    before = sorted((path, path.read_bytes()) for path in copied.rglob("*.*") if path.is_file())
    for words in (
        ["solve", "--resume", "--out", copied],
        ["adapt", copied, "--parameter", "c=1", "--out", tmp_path / "new"],
    ):
        said = lissome.complaint("pde", *words)
        assert "is of another network" in said
        assert "shape (4, 2) there" in said
    assert sorted((path, path.read_bytes()) for path in copied.rglob("*.*") if path.is_file()) == before


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
def test_a_truncated_checkpoint_is_told(lissome, copied, tmp_path, name):
    file = copied / "checkpoint" / name
    file.write_bytes(file.read_bytes()[:-7])
    assert f"{name} is damaged" in lissome.complaint("pde", "solve", "--resume", "--out", copied)
    adapt = ["pde", "adapt", copied, "--parameter", "c=1", "--out", tmp_path / "new"]
    assert f"{name} is damaged" in lissome.complaint(*adapt)


def test_a_truncated_adapter_is_told(lissome, solved, tmp_path):
    lissome("pde", "adapt", solved, "--parameter", "c=1", "--out", tmp_path / "a", *SHORT)
    cell = tmp_path / "a" / "c=1,k=1" / "svd"
    file = cell / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    said = lissome.complaint("pde", "adapt", cell, "--parameter", "c=2", "--out", tmp_path / "b")
    assert f"'{file}' is no whole safetensors file" in said
    said = lissome.complaint("pde", "adapt", tmp_path / "a", "--parameter", "c=2", "--out", tmp_path / "b")
    assert f"is a comparison of adapted runs; name one of them, such as {cell}" in said


def test_a_resume_names_the_first_setting_that_differs(lissome, copied, tmp_path):
    said = lissome.complaint("pde", "solve", "--resume", "--out", copied, "--seed", "7")
    assert "'seed' was 0 and is 7 now" in said
    for words in (["solve", "poisson"], ["solve"], ["adapt"]):
        said = lissome.complaint("pde", *words, "--resume", "--out", tmp_path)
        assert f"'{tmp_path}' cannot be resumed: it holds no settings.yaml" in said


def test_compare_needs_runs(lissome, solved, tmp_path):
    assert "Missing argument" in lissome.complaint("compare")
    assert "there is no run directory" in lissome.complaint("compare", tmp_path / "no", "--out", tmp_path / "page")
    assert "is not a run directory" in lissome.complaint("show", tmp_path)


def test_compare_writes_over_nothing_but_its_own_page(lissome, copied, solved, tmp_path):
    page = (copied / "index.html").read_bytes()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("mine")
    for out in (copied, tmp_path / "notes", copied / "settings.yaml"):
        assert "is no page of compared runs" in lissome.complaint("compare", solved, "--out", out)
    assert (copied / "index.html").read_bytes() == page
    assert not (copied / "comparison.json").exists()
    assert (tmp_path / "notes" / "index.html").read_text() == "mine"
    for runs in ([solved], [solved, copied]):
        lissome("compare", *runs, "--out", tmp_path / "page")


def test_an_adapter_of_another_cell_is_told(lissome, solved, tmp_path):
    words = ["--parameter", "c=1", "--parameter", "c=2", *SHORT, "--jobs", "1", "--out", tmp_path / "a"]
    lissome("pde", "adapt", solved, *words)
    cell, other = (tmp_path / "a" / f"c={c},k=1" / "svd" for c in (1, 2))
    shutil.copy(other / "adapter.safetensors", cell)
    further = ["pde", "adapt", cell, "--parameter", "c=3", *SHORT, "--out", tmp_path / "b"]
    assert f"is not what '{cell}' has trained" in lissome.complaint(*further)
    assert not (tmp_path / "b").exists()
    shutil.rmtree(other / "checkpoint")  # an adapter is enough by itself
    lissome("pde", "adapt", other, *further[3:])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["shwo"], "unknown command 'shwo'; legal are: .*compare.*pde.*did you mean 'show'"),
        (["pde", "sovle"], "unknown command 'sovle'; legal are: families, solve, adapt.*did you mean 'solve'"),
    ],
)
def test_an_unknown_verb_is_answered_with_the_legal_ones(lissome, words, text):
    said = lissome.complaint(*words)
    assert re.search(text, said), said


OPERATOR = "    def operator(self, u, p):\n        return {}\n"
HEAD = """\
import torch
from lissome.pde import Box, Family

class Mine(Family):
    name = "mine"
    dimensions = 1
    def domain(self):
        return Box((0.0,), (1.0,))
    def exact(self, p):
        return torch.sin(p.x[:, 0])
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "    def operator(self, u, p)\n", "mine.py, line 11: expected ':'"),
        (HEAD + OPERATOR.format("u.laplacian + self.nu"), "mine.py, line 12: operator of family 'mine' failed: Attr"),
        (HEAD + OPERATOR.format("u.value[:, None]"), "mine.py, line 11: operator of family 'mine' failed: it returned"),
        ("import nosuchmodule\n", "mine.py, line 1: ModuleNotFoundError"),
        ("x = 1\n", "there is no family here"),
    ],
)
def test_a_wrong_line_of_a_family_is_named(lissome, tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    said = lissome.complaint("pde", "solve", tmp_path / "mine.py", *TINY, "--out", tmp_path / "run")
    assert words in said
    assert not (tmp_path / "run").exists()


def test_a_parameter_given_twice_in_one_target_is_told(lissome, solved, tmp_path):
    said = lissome.complaint("pde", "adapt", solved, "--parameter", "c=2,c=3", "--out", tmp_path / "a")
    assert "'c=2,c=3' names 'c' twice" in said


def test_a_network_changed_in_the_settings_of_a_finished_run_is_told(lissome, solved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(solved, run)
    text = (run / "settings.yaml").read_text()
    assert "activation: gelu" in text
    (run / "settings.yaml").write_text(text.replace("activation: gelu", "activation: tanh"))
    said = lissome.complaint("pde", "adapt", run, "--parameter", "c=2", "--out", tmp_path / "a")
    assert "says network" in said
    assert "the run was made with" in said


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("tried 9 GiB"), RuntimeError("DefaultCPUAllocator: not enough memory")],
)
def test_too_little_memory_is_a_sentence(error, capsys):
    def run():
        raise error

    assert cli._guarded(run) == 1
    assert one_sentence(capsys.readouterr().err) == (
        "lissome: there is not enough memory for what was asked; smaller sizes need less"
    )


def test_errors_that_nobody_expects_are_not_hidden():
    def run():
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        cli._guarded(run)
