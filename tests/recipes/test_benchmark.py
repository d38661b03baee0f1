"""The benchmark of families: rows that come out the same, cells that are kept, results that are merged or refused."""

import json
import shutil
from dataclasses import replace

import pytest

from lissome._errors import Interrupted, RunError, UsageError
from lissome.optim import fit as whole_fit
from lissome.recipes import benchmark, directory, training
from lissome.recipes.bench_results import FORMAT, Results, made_by, merged, read
from lissome.recipes.bench_settings import BenchSettings

SMALL = {
    "families": ["poisson"],
    "targets": ["near", "far"],
    "adapters": ["svd", "last"],
    "optimizers": ["adam", "gauss-newton"],
    "seeds": 1,
    "seconds": None,
    "operations": 2e6,
    "start": 3,
    "network": {"width": 6},
    "points": {"interior": 20, "boundary": 6, "initial": 6},
}


def asked(**more):
    return BenchSettings(**(SMALL | more))


OWN = """
import math
from lissome.pde import Box, Family, Parameter
class Own(Family):
    name = "own"
    parameters = (Parameter("k", 1.0),)
    def domain(self):
        return Box((0.0,) * 2, (1.0,) * 2)
    def operator(self, u, p):
        return u.laplacian - self.k * u.value
    def exact(self, p):
        return self.k * p.x[:, 0] ** 2
"""


def run(out, **how):
    settings = asked(**{key: how.pop(key) for key in list(how) if key in BenchSettings.model_fields})
    return benchmark.bench(settings, out, progress=False, **how)


def kept(out):
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def figures(rows):
    """Return what a seed decides: all but the clock and the commit, which may move on meanwhile."""
    clocks = ("seconds", "curve", "step", "alone", "together", "ratio", "by")
    found = {row["cell"]: {key: value for key, value in row.items() if key not in clocks} for row in rows}
    curves = {row["cell"]: {k: v for k, v in row["curve"].items() if k != "seconds"} for row in rows if "curve" in row}
    return found, curves


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "out"
    return out, run(out)


def test_every_contestant_meets_every_member_and_the_page_tells(done):
    out, board = done
    assert [row["place"] for row in board] == [1, 2, 3, 4]
    assert {row["contestant"] for row in board} == {f"{a}, {o}" for a in SMALL["adapters"] for o in SMALL["optimizers"]}
    assert all(row["members"] == 2 and row["failed"] == 0 and row["budget"] == "operations" for row in board)
    assert len(kept(out)) == 1 + 1 + 2 * 4
    page, text = (out / "index.html").read_text(), (out / "leaderboard.md").read_text()
    assert board[0]["contestant"] in page
    assert all(row["contestant"] in text for row in board)
    assert {path.name for path in (out / "figures").iterdir()} == {
        "ranks-operations.svg", "poisson-near.svg", "poisson-far.svg"}  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert (results["format"], results["cells"], results["done"]) == (FORMAT, 10, 10)
    assert results["leaderboard"] == board


def test_the_budget_in_operations_is_kept(done):
    runs = [row for row in kept(done[0]) if row["kind"] == "run"]
    assert all(0 < row["operations"] <= 2e6 for row in runs)
    assert all(row["operations"] > 1e6 for row in runs if row["adapter"] == "last")


def test_the_same_seed_gives_the_same_rows(done, tmp_path):
    run(tmp_path / "again")
    assert figures(kept(tmp_path / "again")) == figures(kept(done[0]))


def test_two_processes_give_the_rows_of_one(done, tmp_path):
    run(tmp_path / "out", jobs=2)
    assert figures(kept(tmp_path / "out")) == figures(kept(done[0]))


def test_the_page_says_how_much_faster_many_members_are_at_once(done):
    (row,) = [row for row in kept(done[0]) if row["kind"] == "abreast"]
    assert (row["members"], row["points"], row["failed"]) == (16, 20, None)
    assert row["ratio"] == pytest.approx(row["alone"] / row["together"])
    assert f"{row['ratio']:.2f}" in (done[0] / "index.html").read_text()


def test_members_that_cannot_be_stacked_say_why(tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("self.k * u", "math.sin(self.k) * u"))
    one = {"families": [str(tmp_path / "own.py")], "targets": ["k=2"], "adapters": ["last"], "optimizers": ["adam"]}
    run(tmp_path / "out", **one)
    assert "cannot be: " in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_budget_in_seconds_is_one_more_board(tmp_path):
    board = run(tmp_path / "out", seconds=0.05, targets=["near"], adapters=["last"], optimizers=["adam", "arcm"])
    assert [(row["budget"], row["optimizer"]) for row in board if row["optimizer"] == "arcm"] == [("seconds", "arcm")]
    assert len(board) == 3  # the operations of arcm are not counted
    rows = [row for row in kept(tmp_path / "out") if row.get("budget") == "seconds"]
    assert all(row["seconds"] >= 0.05 for row in rows)


def test_a_stopped_benchmark_keeps_its_cells_and_goes_on(done, tmp_path, monkeypatch):
    calls = []

    def fit(*arguments, **named):
        if len(calls) == 4:
            raise Interrupted("stopped by Ctrl-C")
        calls.append(1)
        return whole_fit(*arguments, **named)

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(Interrupted, match="pde bench --resume --out"):
        run(tmp_path / "out")
    first = (tmp_path / "out" / "cells.jsonl").read_text()
    assert len(first.splitlines()) == 5
    assert "5 of 10 cells are not done yet" in (tmp_path / "out" / "index.html").read_text()
    monkeypatch.setattr(training, "fit", whole_fit)
    run(tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "cells.jsonl").read_text().startswith(first)
    assert figures(kept(tmp_path / "out")) == figures(kept(done[0]))


def test_a_grid_may_grow_and_what_is_done_is_not_done_again(done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    board = run(out, resume=True, adapters=["svd", "last", "lora"], targets=["near"])
    assert len(kept(out)) == 10 + 2 * 2  # the far members are asked for still
    assert {row["members"] for row in board} == {2}
    assert len(board) == 6
    with pytest.raises(UsageError, match=r"'operations' was 2000000.0 and is 3000000.0 now"):
        run(out, resume=True, operations=3e6)


def test_a_start_that_fails_fails_its_cells_alone(tmp_path, monkeypatch):
    def prepare(tick, **arguments):
        return {"weights": None, "error": None, "seconds": None, "failed": "the loss became NaN"}

    monkeypatch.setitem(benchmark.CALLS, "start", prepare)
    board = run(tmp_path / "out", targets=["near"], adapters=["last"])
    assert [row["failed"] for row in board] == [1, 1]
    assert all(row["factor"] is None and row["wins"] == 0 for row in board)


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_a_damaged_start_is_said_and_can_be_made_again(done, tmp_path, content):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    (start,) = (out / "starts").iterdir()
    start.write_bytes(content)
    with pytest.raises(RunError, match="remove its file in starts/, and resume; the cells that were done are kept"):
        run(out, resume=True, adapters=["svd", "last", "lora"])
    start.unlink()
    run(out, resume=True)
    assert figures(kept(out))[0].items() >= figures(kept(done[0]))[0].items()


def test_nothing_to_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="^nothing is left to run: seconds is null, and operations are counted for"):
        run(tmp_path / "out", optimizers=["arcm"])


class TestMerging:
    def test_rows_of_another_version_stand_beside(self, done, tmp_path):
        theirs = json.loads((done[0] / "results.json").read_text())
        theirs["rows"] = [row | {"by": "0.0.9"} for row in theirs["rows"]]
        (tmp_path / "old.json").write_text(json.dumps(theirs))
        board = run(tmp_path / "out", merge=[tmp_path / "old.json"], targets=["near"], adapters=["last"])
        assert sum("0.0.9" in row["contestant"] for row in board) == 4
        assert len(board) == 6
        assert "Beside them rows of 0.0.9" in (tmp_path / "out" / "index.html").read_text()

    def test_rows_of_the_same_version_fill_in_what_is_missing(self, done, tmp_path, monkeypatch):
        same = {"commit": "abc", "processor": "Z80"}
        monkeypatch.setattr(directory, "environment", lambda: same)
        ours = json.loads((done[0] / "results.json").read_text()) | {"environment": same}
        ours["rows"] = [row | {"by": made_by(ours["lissome"], same)} for row in ours["rows"]]
        (tmp_path / "ours.json").write_text(json.dumps(ours))
        board = run(tmp_path / "out", merge=[tmp_path / "ours.json"], targets=["near"], adapters=["last"])
        assert {row["contestant"] for row in board} == {row["contestant"] for row in done[1]}

    @pytest.mark.parametrize("key", ["family", "seed", "error", "target", "adapter", "optimizer", "budget", "seconds"])
    def test_a_row_without_what_the_board_needs_is_refused(self, done, tmp_path, key):
        theirs = json.loads((done[0] / "results.json").read_text())
        theirs["rows"][-1].pop(key)
        (tmp_path / "old.json").write_text(json.dumps(theirs))
        with pytest.raises(UsageError, match=f"'rows.9.run.{key}': field required"):
            read(tmp_path / "old.json", asked())

    def test_rows_of_another_machine_or_of_a_changed_tree_stand_beside(self, done):
        own = read(done[0], asked())
        for environment in ({"processor": "Z80"}, {"commit": "abc-dirty"}):
            rows = [row | {"by": made_by("1", environment)} for row in own.rows]
            mine = Results(FORMAT, "1", {"commit": "abc-dirty"}, own.settings, rows[:1])
            assert len(merged(mine, [Results(FORMAT, "1", environment, own.settings, rows)]).rows) == 1 + len(rows)

    def test_own_cells_alone_count_as_done(self, done, tmp_path):
        ours = json.loads((done[0] / "results.json").read_text())
        (tmp_path / "ours.json").write_text(json.dumps(ours))
        run(tmp_path / "out", merge=[tmp_path / "ours.json"], targets=["near"], adapters=["last"])
        told = json.loads((tmp_path / "out" / "results.json").read_text())
        assert (told["cells"], told["done"]) == (4, 4)
        assert "not done yet" not in (tmp_path / "out" / "index.html").read_text()

    def test_merging_again_changes_nothing(self, done):
        own = replace(read(done[0], asked()), lissome="1", environment={})
        own = replace(own, rows=[row | {"by": "1"} for row in own.rows])
        other = replace(own, lissome="0.0.9", rows=[row | {"by": "0.0.9"} for row in own.rows])
        once = merged(own, [other])
        assert merged(once, [other, own]) == once
        assert len(once.rows) == 2 * len(own.rows)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"format": 99}, "are of format 99"),
            ({"rows": None}, "'rows': input should be a valid list"),
            ({"rows": [{"cell": "x"}]}, "edited, or cut short: 'rows.0': unable"),
            ({"environment": [1]}, "'environment': input should be a valid dictionary"),
            ({"settings": [1]}, "'settings': input should be a valid dictionary"),
            ({"origin": 3}, "'origin': input should be a valid list"),
            ({"settings": SMALL | {"operations": 5.0}}, "measured otherwise, "),
        ],
    )
    def test_what_cannot_be_compared_is_refused_before_anything_is_written(self, done, tmp_path, change, sentence):
        theirs = json.loads((done[0] / "results.json").read_text()) | change
        (tmp_path / "old.json").write_text(json.dumps(theirs))
        with pytest.raises(UsageError, match=sentence):
            run(tmp_path / "out", merge=[tmp_path / "old.json"])
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"families": ["heet"]}, "unknown family 'heet'"),
        ({"families": ["heat"], "targets": ["c=3"]}, "parameter of family 'heat': 'c'"),
        ({"rank": 7, "adapters": ["lora"]}, "rank"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_written(tmp_path, more, sentence):
    with pytest.raises(UsageError, match=sentence):
        run(tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_family_of_ones_own_joins_by_its_file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    one = {"families": [str(tmp_path / "own.py")], "adapters": ["last"], "optimizers": ["adam"]}
    board = run(tmp_path / "out", targets=["k=2"], **one)
    assert [row["ranks"] for row in board] == [{"k=2": 1.0}]
    with pytest.raises(UsageError, match="family 'own' names no near member"):
        run(tmp_path / "other", targets=["near"], **one)
