"""`lissome pde diagnose` as it is called, and what it refuses."""

import json
import re
import shutil

import pytest
import yaml

from lissome.recipes import adapt
from lissome.recipes.directory import write_json
from lissome.recipes.settings import AdaptSettings, load

QUICK = ["--points", "20", "--steps", "4", "--widths", "none"]
NETWORK = ["--set", "solve.network.width=4"]


@pytest.fixture
def unpaged(monkeypatch):
    """No page is drawn: the figures alone are looked at."""
    monkeypatch.setattr("lissome.recipes.diagnosis.page", lambda *_: None)


@pytest.fixture(scope="module")
def adapted(solved, tmp_path_factory):
    """One cell of an adaptation in single precision, and the comparison around it."""
    out = tmp_path_factory.mktemp("runs") / "adapted"
    given = {"run": str(solved), "targets": [{"c": 1}], "methods": ["svd", "last"], "training.steps": 5}
    given |= {"training.compile": False, "points.interior": 16, "training.optimizer": "adam", "dtype": "float32"}
    adapt(load(AdaptSettings, given=given), out, progress=False, jobs=1)
    return out


def test_a_family_is_diagnosed_at_its_start(lissome, tmp_path):
    words = ["--constraint", "soft", "--network", "kan", "--parameter", "c=2", "--quick", "--steps", "3"]
    said = lissome("pde", "diagnose", "poisson", *words, *NETWORK, "--out", tmp_path / "d")
    assert "weights: " in said
    assert "smoothness: The network has 2 continuous derivatives" in said
    assert f"page: {tmp_path / 'd' / 'index.html'}" in said.replace("\n", "")
    kept = yaml.safe_load((tmp_path / "d" / "settings.yaml").read_text())
    assert (kept["points"], kept["steps"], kept["widths"]) == (100, 3, [])
    assert kept["solve"]["parameters"] == {"c": 2.0}


def test_a_run_is_diagnosed_with_the_weights_it_has(lissome, unpaged, solved, adapted, tmp_path):
    found = {}
    for name, run in (("solved", solved), ("adapted", adapted / "c=1,k=1" / "svd")):
        words = ["pde", "diagnose", run, *QUICK, "--widths", "3,4", "--json", "--out", tmp_path / name]
        found[name] = json.loads(lissome(*words))
        rows = [(row["width"], row["trained"], row["diagnosed"]) for row in found[name]["widths"]]
        assert rows == [(4, True, True), (3, False, False), (4, False, False)]
        assert found[name]["run"] == str(run)
        assert found[name]["network"]["width"] == 4
    assert found["adapted"]["parameters"]["c"] == 1
    start = ["poisson", "--set", "solve.network.width=4", "--constraint", "boundary"]
    fresh = json.loads(lissome("pde", "diagnose", *start, *QUICK, "--json", "--out", tmp_path / "start"))
    assert fresh["rows"] == found["solved"]["rows"]
    assert found["solved"]["loss"] < 0.5 * fresh["loss"]


def test_a_file_of_settings_is_diagnosed_as_solve_would_begin(lissome, unpaged, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("family: poisson\nconstraint: soft\nseed: 3\nnetwork: {width: 5}\n")
    lissome("pde", "diagnose", file, *QUICK, "--set", "solve.network.depth=1", "--out", tmp_path / "d")
    kept = yaml.safe_load((tmp_path / "d" / "settings.yaml").read_text())["solve"]
    assert (kept["seed"], kept["network"]["width"], kept["network"]["depth"]) == (3, 5, 1)
    lissome("pde", "diagnose", "--resume", "--out", tmp_path / "d")


def test_the_same_seed_gives_the_same_figures(lissome, unpaged, tmp_path):
    words = ["pde", "diagnose", "poisson", *NETWORK, *QUICK, "--json", "--seed"]
    one, two, other = (
        json.loads(lissome(*words, seed, "--out", tmp_path / name)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one["spectrum"] == two["spectrum"]
    assert one["course"] == two["course"]
    assert one["spectrum"] != other["spectrum"]


def test_show_and_compare_leave_a_diagnosis_as_it_is(lissome, unpaged, tmp_path):
    lissome("pde", "diagnose", "poisson", *NETWORK, *QUICK, "--out", tmp_path / "d")
    for words in (["show", tmp_path / "d"], ["compare", tmp_path / "d", "--out", tmp_path / "page"]):
        assert "is a diagnosis: its page is" in lissome.complaint(*words)


def test_ctrl_c_says_how_to_begin_again(lissome, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lissome.recipes.diagnosis.descent", stopped)
    said = lissome.complaint("pde", "diagnose", "poisson", *NETWORK, *QUICK, "--out", tmp_path / "d", code=130)
    assert f"stopped; `lissome pde diagnose --resume --out {tmp_path / 'd'}` begins again" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "name one thing to diagnose"),
        (["runs/nowhere"], "there is no 'runs/nowhere'; legal are the directory of a .*run, a .yaml file"),
        (["poison"], "unknown family 'poison'.*did you mean 'poisson'"),
        (["nowhere.yaml"], "settings file 'nowhere.yaml' cannot be read"),
        (["nowhere/mine.py"], "family file '.*mine.py' cannot be read"),
        (["poisson", "--widths", "0"], "'widths.0' is '0': .*greater than or equal to 1"),
        (["poisson", "--widths", "8,x"], "'widths.1' is 'x'"),
        (["poisson", "--points", "1"], "'points' is 1"),
        (["poisson", "--steps", "0"], "'steps' is 0"),
        (["poisson", "--batch", "0"], "'batch' is 0"),
        (
            ["poisson", "--points", "10", "--batch", "99"],
            "batch is 99; legal are 1 to .* rows of the residual at 10 points",
        ),
        (["poisson", "--set", "rate=0"], "'rate' is 0"),
        (["poisson", "--set", "stepps=2"], "unknown setting 'stepps'.*did you mean 'steps'"),
        (["poisson", "--set", "solve.network.wdith=2"], "unknown setting 'solve.network.wdith'.*did you mean"),
        (["poisson", "--network", "cnn"], "'solve.network.kind' is 'cnn'"),
        (["poisson", "--device", "tpu"], "device 'tpu' is not to be had"),
        (["poisson", "--parameter", "z=1"], "unknown parameter of family 'poisson': 'z'"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence_and_leaves_nothing(lissome, tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    said = lissome.complaint("pde", "diagnose", *words, "--out", tmp_path / "new" / "d")
    assert re.search(text, said), said
    assert not (tmp_path / "new").exists()


def test_there_has_to_be_one_finished_run(lissome, solved, adapted, tmp_path):
    def said(run, *words):
        return lissome.complaint("pde", "diagnose", run, *QUICK, *words, "--out", tmp_path / "d")

    (tmp_path / "empty").mkdir()
    assert "holds no run" in said(tmp_path / "empty")
    assert "is a comparison of adapted runs; name one of them, such as" in said(adapted)
    shutil.copytree(solved, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    assert "has not finished; `lissome pde solve --resume" in said(tmp_path / "copy")
    write_json(tmp_path / "copy" / "summary.json", {"failed": "the loss became NaN"})
    assert "failed: the loss became NaN" in said(tmp_path / "copy")
    assert "is a run and has its own network.kind; leave that out" in said(solved, "--network", "kan")
    assert not (tmp_path / "d").exists()


def test_an_output_directory_that_exists_is_kept(lissome, tmp_path):
    (tmp_path / "note").write_text("mine")
    said = lissome.complaint("pde", "diagnose", "poisson", *NETWORK, *QUICK, "--out", tmp_path)
    assert "exists; name another directory by --out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
