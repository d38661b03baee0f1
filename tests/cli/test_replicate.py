"""A paper's claims from the command line: shown or not, kept cell by cell, refused in a sentence."""

import json
import os
import signal
import time

import pytest

from lissome._files import write
from tests.cli.command import one_sentence, start, wait_for

MANY = "".join(f"{i % 2} 1:{(i * 7) % 11 - 5} 2:{(i * 3) % 5}\n" for i in range(40))


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "tiny.txt", MANY)


def lines(out):
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def costs(out):
    """Return the cells without clocks."""
    rows = lines(out)
    for row in rows:
        for cost in row["reached"].values():
            if cost:
                cost.pop("seconds")
    return sorted(rows, key=lambda row: row["step"])


def test_a_replication_says_which_claims_show_and_leaves_a_page(lissome, data, tmp_path):
    out = tmp_path / "run"
    claims = json.loads(lissome("replicate", "arcm", "--data", data, "--quick", "--jobs", "1", "--json", "--out", out))
    assert {claim["source"] for claim in claims} == {"printed abstract", "draft sentence in the source", "here"}
    assert {claim["verdict"] for claim in claims} <= {"shown", "not shown", "not measured"}
    assert len(lines(out)) == 93
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 2 + 3 * 2
    assert all(claim["what"].split(",")[0] in page for claim in claims)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (out / "tables.md").read_text().startswith("# ARCm")
    told = json.loads((out / "results.json").read_text())
    assert (told["cells"], told["done"]) == (93, 93)
    before = lines(out)
    said = lissome("replicate", "--resume", "--out", out)
    assert "shown: a plain trust region" in said
    assert lines(out) == before


def test_a_line_that_was_cut_is_run_again(lissome, data, tmp_path):
    out = tmp_path / "run"
    lissome("replicate", "arcm", "--data", data, "--quick", "--jobs", "1", "--out", out)
    whole = costs(out)
    text = (out / "cells.jsonl").read_text()
    (out / "cells.jsonl").write_text(text[: len(text) * 9 // 10])
    lissome("replicate", "--resume", "--jobs", "1", "--out", out)
    assert costs(out) == whole


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_or_killed_keeps_what_is_done(lissome, tmp_path, how):
    out = tmp_path / "run"
    process = start("replicate", "arcm", "--jobs", "2", "--out", out)
    wait_for(lambda: (out / "cells.jsonl").exists() and len(lines_so_far(out)) >= 2, process, seconds=120)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=60)
    kept = lines_so_far(out)
    assert len(kept) >= 2
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert one_sentence(err).endswith(f"`lissome replicate --resume --out {out}`")
        assert "cells are not done yet" in (out / "index.html").read_text()
    time.sleep(1.0)  # a worker that outlived its parent would write nothing, and is not to be there
    assert lines_so_far(out) == kept


def lines_so_far(out):
    return (out / "cells.jsonl").read_text().split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["arc"], "unknown paper 'arc'; legal are: svd-pinns, arcm, sublora, lotra, kan-convergence, dape, dape-v2, "),
        (["arcm", "--scale"], "arcm has no larger look; leave out scale, which is known to: dape, dape-v2"),
        ([], "setting 'paper' is missing"),
        (["arcm", "--seeds", "0"], "'seeds' is 0"),
        (["arcm", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["arcm", "--data", "nowhere.txt"], "nowhere.txt' cannot be read: No such file"),
        (["--resume"], "cannot be resumed: it holds no settings.yaml"),
    ],
)
def test_what_is_asked_wrongly_is_told_and_leaves_nothing(lissome, tmp_path, words, text):
    assert text in lissome.complaint("replicate", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"1 1:1\n3 1:1\n", b"\x1f\x8bjunk", b"1 1:1\n-1 1", b""])
def test_data_that_are_none_are_told_and_leave_nothing(lissome, tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    said = lissome.complaint("replicate", "arcm", "--data", tmp_path / "bad", "--out", tmp_path / "run")
    assert str(tmp_path / "bad") in said
    assert not (tmp_path / "run").exists()


def test_two_files_of_one_name_are_told(lissome, data, tmp_path):
    other = write(tmp_path / "more" / "tiny.txt", MANY)
    said = lissome.complaint("replicate", "arcm", "--data", data, "--data", other, "--out", tmp_path / "run")
    assert "two data files are named 'tiny.txt'" in said


def test_a_directory_of_something_else_is_kept(lissome, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note").write_text("mine")
    said = lissome.complaint("replicate", "arcm", "--data", data, "--out", tmp_path / "run")
    assert "exists; name another directory by --out" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["note"]


def test_a_resume_with_other_settings_is_told_and_loses_nothing(lissome, data, tmp_path):
    out = tmp_path / "run"
    lissome("replicate", "arcm", "--data", data, "--quick", "--jobs", "1", "--out", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    said = lissome.complaint("replicate", "arcm", "--resume", "--seeds", "3", "--out", out)
    assert "'seeds' was None and is 3 now" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
