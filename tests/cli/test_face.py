"""What the command line shows when all is well: help, tables, JSON, codes."""

import json
import shutil
import subprocess
import sys

import pytest

from lissome._version import __version__
from tests.cli.command import SHORT, TINY, one_sentence, start

HELPS = [
    [],
    ["pde"],
    ["pde", "families"],
    ["pde", "solve"],
    ["pde", "adapt"],
    ["pde", "diagnose"],
    ["fit"],
    ["predict"],
    ["show"],
    ["compare"],
    ["demo"],
    ["papers"],
]
SCRIPT = """
import contextlib, io, json, sys
from lissome import cli
def code(words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        return cli._guarded(lambda: cli.app(args=words, standalone_mode=False)), "Usage" in out.getvalue()
codes = [code([*words, "--help"]) for words in json.loads(sys.argv[1])]
codes.append(cli._guarded(lambda: cli.app(args=["--version"], standalone_mode=False)))
print(codes, [name for name in ("torch", "matplotlib", "scipy", "numpy") if name in sys.modules])
"""


def test_every_help_exits_with_0_and_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(HELPS)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [__version__, f"{[*[(0, True)] * len(HELPS), 0]} []"]
    assert done.stderr == ""


def test_no_verb_shows_the_help_and_is_no_success(lissome):
    assert "Commands" in lissome(code=2)


def strict(text):
    return json.loads(text, parse_constant=pytest.fail)


def test_json_is_all_that_is_printed(lissome, solved, tmp_path):
    assert {row["family"] for row in strict(lissome("pde", "families", "--json"))} > {"poisson", "allen-cahn"}
    (row,) = strict(lissome("pde", "solve", "poisson", *TINY, "--out", tmp_path / "s", "--json"))
    assert (row["family"], row["steps"]) == ("poisson", 20)
    rows = strict(
        lissome("pde", "adapt", solved, "--parameter", "c=1", *SHORT, "--jobs", "1", "--out", tmp_path / "a", "--json")
    )
    assert (
        rows == strict((tmp_path / "a" / "comparison.json").read_text())["rows"]
        or [
            {key: value for key, value in row.items() if key != "path"}
            for row in strict((tmp_path / "a" / "comparison.json").read_text())["rows"]
        ]
        == rows
    )
    assert strict(lissome("show", tmp_path / "s", "--json"))[0]["error"] == row["error"]
    shown = strict(lissome("compare", tmp_path / "s", solved, "--out", tmp_path / "c", "--json"))
    assert [row["steps"] for row in shown] == [20, 20]


def test_show_works_on_runs_cells_and_comparisons(lissome, solved, tmp_path):
    out = tmp_path / "a"
    lissome("pde", "adapt", solved, "--parameter", "c=1", "--method", "svd,last", *SHORT, "--jobs", "1", "--out", out)
    cell = out / "c=1,k=1" / "svd"
    for place, words in ((out, ("svd", "last", "best")), (cell, ("svd",))):
        (place / "index.html").unlink()
        shown = lissome("show", place)
        assert all(word in shown for word in words)
        assert f"page: {place / 'index.html'}" in shown
        assert (place / "index.html").is_file()
    (out / "comparison.json").unlink()  # as if it had been killed before its page
    assert "last" in lissome("show", out)


def test_a_cell_that_has_not_finished_knows_its_equation(lissome, solved, tmp_path):
    lissome(
        "pde",
        "adapt",
        solved,
        "--parameter",
        "c=1",
        "--method",
        "svd,last",
        *SHORT,
        "--jobs",
        "1",
        "--out",
        tmp_path / "a",
    )
    (tmp_path / "a" / "c=1,k=1" / "last" / "summary.json").unlink()
    done, under_way = strict(lissome("show", tmp_path / "a", "--json"))
    same = ("kind", "family", "dimension", "parameters", "steps")
    assert [under_way[key] for key in same] == [done[key] for key in same]
    assert (under_way["method"], under_way["finished"]) == ("last", False)


def test_a_reader_that_goes_away_is_no_error():
    process = start("pde", "families", "--json")
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_real_command_complains_in_one_line(tmp_path):
    done = start("pde", "solve", "posson", "--out", tmp_path / "run")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "")
    assert "did you mean 'poisson'" in one_sentence(err)


def test_a_person_s_own_family_is_solved_and_adapted_wherever_one_stands(lissome, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy("tests/pde/user_family.py", home / "decay.py")
    monkeypatch.chdir(home)
    lissome("pde", "solve", "./decay.py", "--parameter", "k=2", *TINY, "--out", tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    assert f"family: {home / 'decay.py'}\n" in (tmp_path / "s" / "settings.yaml").read_text()
    lissome("pde", "adapt", "s", "--parameter", "k=3", *SHORT, "--out", "a")
    (row,) = strict(lissome("show", "a", "--json"))
    assert (row["family"], row["parameters"]) == ("decay", {"k": 3.0})


def test_a_ctrl_c_outside_training_is_one_sentence(lissome, monkeypatch, tmp_path):
    def stop(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("lissome.recipes.solve", stop, raising=False)
    said = lissome.complaint("pde", "solve", "poisson", "--out", tmp_path / "run", code=130)
    assert said == "lissome: stopped; nothing further was written"


def test_show_without_a_name_lists_all_runs(lissome, solved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = lissome.complaint("show")
    assert said == "lissome: there is no run directory 'runs'; name a run, or a directory that holds runs"
    shutil.copytree(solved, tmp_path / "runs" / "one")
    shutil.copytree(solved, tmp_path / "runs" / "two" / "below")
    (tmp_path / "runs" / "two" / "below" / "summary.json").write_text("{")
    shown = lissome("show")
    assert "poisson (d = 2, c = 0, k = 1)" in shown
    assert "2 runs: 1 damaged, 1 finished." in shown
    assert "page: runs/index.html" in shown
    rows = strict(lissome("show", "runs", "--json"))
    assert {row["path"]: row["state"] for row in rows} == {"one": "finished", "two/below": "damaged"}
    told = "path, parent, kind, what, figure, value, trained, seconds, begun, state, checkpoint, page, problem"
    assert ", ".join(rows[0]) == told
    assert strict(lissome("show", "runs/one", "--json"))[0]["family"] == "poisson"
    assert [row["path"] for row in strict(lissome("show", "runs/two", "--json"))] == ["below"]
