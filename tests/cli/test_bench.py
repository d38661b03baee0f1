"""`lissome pde bench` at the command line: the board, JSON, a stop in mid-run, and what is asked wrongly."""

import json
import os
import signal

import pytest

from tests.cli.command import one_sentence, start, wait_for

GRID = ["--family", "poisson", "--target", "near", "--adapter", "svd,last", "--optimizer", "adam,gauss-newton"]
FEW = ["--set", "seconds=null", "--set", "start=2", "--set", "network.width=5", "--set", "points.interior=16"]
SMALL = [*GRID, *FEW, "--seeds", "1", "--operations", "1e6", "--jobs", "1"]


def test_a_board_is_printed_and_left_as_a_page(lissome, tmp_path):
    out = tmp_path / "out"
    said = lissome("pde", "bench", *SMALL, "--out", out)
    assert "the same operations" in said
    assert all(
        f"{adapter}, {optimizer}" in said for adapter in ("svd", "last") for optimizer in ("adam", "gauss-newton")
    )
    page = (out / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    rows = json.loads(lissome("pde", "bench", "--resume", "--json", "--out", out))
    assert [row["place"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.skipif(os.name != "posix", reason="signals of a terminal")
def test_ctrl_c_keeps_the_cells_and_resume_goes_on(lissome, tmp_path):
    out = tmp_path / "out"
    process = start("pde", "bench", *SMALL, "--operations", "2e7", "--out", out)
    cells = out / "cells.jsonl"
    wait_for(lambda: cells.exists() and len(cells.read_text().splitlines()) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"lissome pde bench --resume --out {out}" in one_sentence(err)
    before = cells.read_text()
    lissome("pde", "bench", "--resume", "--adapter", "last", "--optimizer", "adam", "--json", "--out", out)
    assert cells.read_text().startswith(before)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--family", "posson"], "unknown family 'posson'"),
        (["--adapter", "svdd"], "unknown adapter 'svdd'"),
        (["--optimizer", "adamm"], "unknown optimizer 'adamm'"),
        (["--target", "nera"], "unknown target 'nera'"),
        (["--target", "q=1"], "unknown parameter of family 'poisson': 'q'; legal are: c, k"),
        (["--target", "c=x"], "takes name=number"),
        (["--set", "seconds=0"], "'seconds' is 0"),
        (["--operations", "-1"], "'operations' is -1"),
        (["--set", "operations=null"], "legal is one of them at least"),
        (["--seeds", "0"], "'seeds' is 0"),
        (["--engine", "slurm"], "unknown engine 'slurm'"),
        (["--merge", "nowhere.json"], "results 'nowhere.json' cannot be read"),
    ],
)
def test_a_wrong_grid_is_one_sentence_and_leaves_nothing(lissome, tmp_path, words, text):
    assert text in lissome.complaint("pde", "bench", *SMALL, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_there_is_left_alone(lissome, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "exists" in lissome.complaint("pde", "bench", *SMALL, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_ray_that_cannot_be_reached_is_one_sentence(lissome, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    said = lissome.complaint("pde", "bench", *SMALL, "--engine", "ray", "--out", tmp_path / "out")
    assert "127.0.0.1:1" in said
    assert not (tmp_path / "out").exists()
