"""`lissome fit` and `lissome predict`: what they print, leave behind, refuse, and lose to nothing."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command import one_sentence, same, start, wait_for
from tests.recipes.tables import blobs, idx, images, product, write

SHORT = ["--steps", "10", "--set", "training.compile=false", "--set", "network.width=3"]
LONG = ["--steps", "200", *SHORT[2:], "--set", "training.evaluate=100", "--set", "training.checkpoint=20"]
SCRIPT = """
import contextlib, io, sys
from lissome import cli
for words in (["--help"], ["fit", "--help"], ["predict", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli._guarded(lambda: cli.app(args=words, standalone_mode=False)) == 0
    assert "fit" in out.getvalue()
print([name for name in ("torch", "matplotlib", "scipy", "numpy", "sklearn") if name in sys.modules])
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def run(lissome, tmp_path):
    """A short fit of colours."""
    lissome("fit", blobs(tmp_path / "t.csv"), *SHORT, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_a_fit_is_told_drawn_shown_and_asked(lissome, tmp_path, run):
    out = tmp_path / "p.csv"
    new = write(tmp_path / "new.csv", "height,width\n0,0\n9,9\n")
    said = lissome("predict", run, new, "--out", out)
    assert "1 of 2 rows lies outside the range of training" in " ".join(said.split())
    assert f"2 rows are told in {out}" in said
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["colour", "probability of blue", "probability of green", "probability of red"]
    assert [sum(map(float, row[1:])) for row in rows] == pytest.approx([1, 1])
    told = json.loads(lissome("predict", run, new, "--out", tmp_path / "q.csv", "--json"))
    assert told["outside"] == 1
    assert [str(value) for value in told["predictions"][0].values()] == rows[0]
    (run / "index.html").unlink()
    shown = lissome("show", run)
    assert "A KAN of" in shown
    assert all(name in shown for name in ("red", "green", "blue"))
    assert (run / "index.html").is_file()


def test_json_is_the_summary_and_quick_is_quick(lissome, tmp_path):
    words = ["fit", product(tmp_path / "t.csv"), "--quick", "--network", "mlp", "--json", "--out", tmp_path / "run"]
    row = json.loads(lissome(*words))
    assert row == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (row["kind"], row["method"], row["steps"], row["task"]) == ("fit", "mlp", 100, "regression")


def written(run):
    try:
        return (run / "checkpoint" / "state.json").stat().st_mtime_ns
    except OSError:
        return 0


def test_ctrl_c_loses_nothing(lissome, tmp_path):
    whole, broken, data = tmp_path / "whole", tmp_path / "broken", blobs(tmp_path / "t.csv", rows=600)
    process = start("fit", data, *LONG, "--out", broken)
    wait_for(lambda: written(broken), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome fit --resume --out {broken}`")
    assert not (broken / "summary.json").exists()
    lissome("fit", "--resume", "--out", broken)
    lissome("fit", data, *LONG, "--out", whole)
    assert same(broken, whole)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("", [], "is empty"),
        ("a,b\n", [], "has a header and no rows"),
        ("a,b\nred,1\n2,2\n3,3\n", [], "column 'a' of '.*' holds text, such as 'red' in row 1"),
        ("a,b\n1,1\nnan,2\n3,3\n", [], "row 2, column 'a': the value is missing"),
        ("a,b\n1,1\n2\n3,3\n", [], "row 2 has 1 cell"),
        ("a,b\n1,1\n2,2\n", [], "has 2 rows; legal are 3 and more"),
        ("a,b\n1,x\n2,x\n3,x\n", [], "has one class alone, 'x'"),
        ("speed,b\n1,1\n2,2\n3,4\n", ["--target", "sped"], "unknown column of '.*' 'sped'.*did you mean 'speed'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--task", "sort"], "setting 'task' is 'sort'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--network", "cnn"], "setting 'network.kind' is 'cnn'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--set", "network.ranks=[0,1,1]"], "'network.ranks': ranks are .0, 1, 1.; legal are"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--set", "network.basis=spline"], "setting 'network.basis' is 'spline'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--set", "batch=0"], "batch is 0; legal are 1 and more"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--set", "test=1"], "setting 'test' is 1"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--set", "points.interior=3"], "unknown setting 'points'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--optimizer", "adamm"], "unknown optimizer 'adamm'.*did you mean 'adam'"),
        ("a,b\n1,1\n2,2\n3,4\n", ["--device", "tpu"], "device 'tpu' is not to be had"),
    ],
)
def test_fit_says_what_is_wrong_and_leaves_nothing(lissome, tmp_path, text, words, said):
    data = write(tmp_path / "t.csv", text)
    found = lissome.complaint("fit", data, *words, "--out", tmp_path / "new" / "run")
    assert re.search(said, found), found
    assert not (tmp_path / "new").exists()


def test_data_of_other_kinds_that_cannot_be_read_is_told(lissome, tmp_path):
    def said(data):
        return lissome.complaint("fit", data, "--out", tmp_path / "run")

    assert "setting 'data' is missing" in lissome.complaint("fit", "--out", tmp_path / "run")
    assert "there is no data file" in said(tmp_path / "no.csv")
    np.save(tmp_path / "a.npy", np.array([[1, "x"]] * 4, dtype=object), allow_pickle=True)
    assert "holds Python objects, which can run code" in said(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((4, 2, 2)))
    assert "has shape (4, 2, 2)" in said(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", Z=np.zeros((4, 2)))
    assert "holds Z; legal are X and y" in said(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 2)))
    assert "has inputs and no target beside them" in said(tmp_path / "a.npz")
    folder = images(tmp_path / "m", rows=6)
    idx(folder / "train-labels-idx1-ubyte", np.zeros(5))
    assert "has 5 labels and" in said(folder)
    cut = folder / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert "behind its header, which says 6 x 3 x 4" in said(folder)
    assert not (tmp_path / "run").exists()


def test_predict_says_what_is_wrong(lissome, tmp_path, run, solved):
    out = tmp_path / "p.csv"

    def said(place, text):
        return lissome.complaint("predict", place, write(tmp_path / "n.csv", text), "--out", out)

    assert "lacks the column 'height'" in said(run, "width\n1\n")
    assert "unknown column of" in said(run, "width,height,depth\n1,1,1\n")
    assert "row 1, column 'width': the value is missing" in said(run, "width,height\n,1\n")
    assert "is no fit of a table: it has no table.json" in said(solved, "width,height\n1,1\n")
    assert "there is no run directory" in said(tmp_path / "no", "width,height\n1,1\n")
    np.save(tmp_path / "n.npy", np.zeros((3, 7)))
    assert "has 7 columns; legal are 2" in lissome.complaint("predict", run, tmp_path / "n.npy", "--out", out)
    out.write_text("mine")
    assert "exists; name another file by --out" in said(run, "width,height\n1,1\n")
    assert out.read_text() == "mine"


def test_a_run_whose_files_are_damaged_is_told(lissome, tmp_path, run):
    words = ["predict", run, tmp_path / "t.csv", "--out", tmp_path / "p.csv"]
    table = run / "table.json"
    known = json.loads(table.read_text())
    table.write_text(json.dumps(known | {"scale": {"low": 3}}))
    assert "table.json' is damaged" in lissome.complaint(*words)
    table.write_text(json.dumps({"task": "classification"}))
    assert "table.json' is damaged" in lissome.complaint(*words)
    table.write_text(json.dumps(known | {"network": known["network"] | {"width": 7}}))
    assert "is of another network" in lissome.complaint(*words)
    table.write_text("{")
    assert "is not legal JSON" in lissome.complaint(*words)


def test_compare_leaves_fits_to_show(lissome, tmp_path, run):
    said = lissome.complaint("compare", run, "--out", tmp_path / "page")
    assert "is a fit of a table" in said
