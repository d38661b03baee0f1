"""Cells that are trained at once end with the files that they would have alone."""

import json
import shutil
import signal
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lissome._errors import Interrupted, RunError, UsageError
from lissome.optim import checkpoint
from lissome.pde import Together
from lissome.recipes import adapt, load, show, solve, together
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import Cell, cells
from lissome.recipes.settings import AdaptSettings, SolveSettings
from lissome.recipes.settings import load as read

POINTS = {"points.interior": 16, "points.boundary": 8, "points.initial": 8, "training.compile": False}
ADAM = POINTS | {"training.optimizer": "adam", "training.steps": 12, "training.evaluate": 4, "dtype": "float64"}
TARGETS = [{"c": 0.5}, {"c": 2.0}]
NAMES = ["c=0.5,k=1/svd", "c=2,k=1/svd"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return solved(tmp_path_factory.mktemp("base") / "run", "poisson")


def solved(out, family):
    solve(read(SolveSettings, given=ADAM | {"family": family, "network.width": 4}), out, progress=False)
    return out


def asked(run, **more):
    return read(AdaptSettings, given=ADAM | {"run": str(run), "targets": TARGETS} | more)


def adapted(run, out, *, resume: bool = False, jobs: int = 1, **more: Any):
    return adapt(asked(run, **more), out, progress=False, resume=resume, jobs=jobs)


def always(monkeypatch):
    """Stack whatever can be stacked, however short it is and whatever the clock says."""
    monkeypatch.setattr(together, "FEW", 0)
    monkeypatch.setattr(together, "SHORT", 0.0)
    monkeypatch.setattr(together, "WORTH", float("inf"))


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """Return cells that were trained one after another."""
    out = tmp_path_factory.mktemp("alone") / "a"
    return adapted(base, out), out


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """Return cells that were trained at once."""
    out = tmp_path_factory.mktemp("whole") / "a"
    with pytest.MonkeyPatch.context() as patch:
        always(patch)
        return adapted(base, out), out


def rows(place):
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def decisions(out):
    return [json.loads(path.read_text()) for path in out.rglob("decision.json")]


def check_alike(found, truth, rel=1e-7):
    """Compare two rows or summaries to rounding; seconds are left out."""
    assert found.keys() == truth.keys()
    for key in truth.keys() - {"seconds"}:
        value = truth[key]
        assert found[key] == (pytest.approx(value, rel=rel, abs=1e-12) if isinstance(value, float) else value), key


def check_same(found, out, whole):
    """Compare summaries and numbers with those of an unbroken run, bit by bit."""
    for name, ours, theirs in zip(NAMES, found, whole[0], strict=True):
        check_alike(ours, theirs, rel=0)
        for file in ("adapter.safetensors", "curves.safetensors"):
            numbers, truth = load_file(out / name / file), load_file(whole[1] / name / file)
            assert all(torch.equal(numbers[key], truth[key]) for key in truth)


def test_each_cell_ends_with_the_files_and_numbers_of_one_that_was_trained_alone(alone, whole):
    assert not decisions(alone[1])  # so few steps are not worth a trial
    assert [each["members"] for each in decisions(whole[1])] == [NAMES]
    for name, ours, theirs in zip(NAMES, whole[0], alone[0], strict=True):
        assert ours["together"] == 2
        check_alike({key: value for key, value in ours.items() if key != "together"}, theirs)
        here, there = whole[1] / name, alone[1] / name
        assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()} - {"checkpoint"}
        for row, each in zip(rows(here), rows(there), strict=True):
            assert list(row) == list(each)
            check_alike(row, each)
        for file in ("adapter.safetensors", "curves.safetensors"):
            numbers, truth = load_file(here / file), load_file(there / file)
            assert numbers.keys() == truth.keys()
            for key, value in truth.items():
                torch.testing.assert_close(numbers[key], value, rtol=1e-8, atol=1e-10)
        z = torch.rand(5, 2, dtype=torch.float64)
        torch.testing.assert_close(load(here)[1](z), load(there)[1](z), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["lora", "scratch"])
def test_phases_groups_and_other_methods(base, tmp_path, monkeypatch, method):
    group = {"pattern": "*bias", "optimizer": "sgd", "rate": 1e-4}
    then = [{"optimizer": "rmsprop", "share": 0.5, "groups": [group]}]
    more = {"methods": [method], "training.then": then, "training.evaluate": 6}
    truth = adapted(base, tmp_path / "alone", **more)
    always(monkeypatch)
    found = adapted(base, tmp_path / "found", **more)
    for ours, theirs in zip(found, truth, strict=True):
        assert ours.pop("together") == 2
        check_alike(ours, theirs)
    name = f"c=2,k=1/{method}"
    for row, each in zip(rows(tmp_path / "found" / name), rows(tmp_path / "alone" / name), strict=True):
        assert list(row) == list(each)
        check_alike(row, each)


def test_seconds_of_the_cells_add_up_to_those_of_the_stack(whole):
    found, out = whole
    (stack,) = out.rglob("together/*/*/metrics.jsonl")
    for k, name in enumerate(NAMES):
        assert [2 * row["seconds"] for row in rows(out / name)] == [row["seconds"] for row in rows(stack.parent)]
        assert rows(out / name)[-1]["error"] == rows(stack.parent)[-1][f"error/{k}"] == found[k]["error"]


def stop_at(monkeypatch, draw):
    """Press Ctrl-C while a stack draws its points for the so-many-th time."""
    honest, count = Together.sample, [0]

    def sample(self, generator, n=None):
        count[0] += 1
        if count[0] == draw:
            signal.raise_signal(signal.SIGINT)
        return honest(self, generator, n)

    monkeypatch.setattr(Together, "sample", sample)


@pytest.mark.parametrize("draw", [together.TRIAL + 5, together.TRIAL + 12])
def test_a_stack_that_was_stopped_goes_on_to_the_same_bits(base, tmp_path, monkeypatch, draw, whole):
    always(monkeypatch)
    with monkeypatch.context() as patch:
        stop_at(patch, draw)
        with pytest.raises(Interrupted, match=r"stopped by Ctrl-C after \d+ steps.*lissome pde adapt --resume --out"):
            adapted(base, tmp_path / "a")
    (place,) = (path.parent for path in (tmp_path / "a").rglob("decision.json"))
    assert 0 < checkpoint.read(place / "checkpoint").state["step"] < 12
    assert not any((tmp_path / "a" / name).exists() for name in NAMES)
    monkeypatch.setattr(together, "decide", None)  # it was decided once
    check_same(adapted(base, tmp_path / "a", resume=True), tmp_path / "a", whole)


def stopped(base, out, monkeypatch, draw, **more):
    """Stop in the midst of a stack, below the directory of the comparison."""
    always(monkeypatch)
    with monkeypatch.context() as patch:
        stop_at(patch, draw)
        with pytest.raises(Interrupted):
            adapted(base, out, **more)


def test_a_page_of_a_stack_that_was_stopped_is_a_sentence_that_says_how_to_go_on(base, tmp_path, monkeypatch):
    stopped(base, tmp_path / "a", monkeypatch, together.TRIAL + 8)
    with pytest.raises(UsageError, match=r"k=1/svd and 1 more are trained at once, [4-8] steps.*adapt --resume --out"):
        show(tmp_path / "a")
    assert not (tmp_path / "a" / "index.html").exists()


def test_a_page_has_what_is_finished_and_says_what_is_trained_at_once(base, tmp_path, monkeypatch):
    second = 2 * together.TRIAL + 24  # draws of a trial and of twelve steps, and into the next stack
    stopped(base, tmp_path / "a", monkeypatch, second, methods=["svd", "last"])
    page = tmp_path / "a" / "index.html"
    drawn = page.read_text()
    page.unlink()
    assert [(row["method"], row.get("finished", True)) for row in show(tmp_path / "a")] == [("svd", True)] * 2
    for text in (drawn, page.read_text()):
        assert "c=0.5,k=1/last and 1 more are trained at once" in text
    adapted(base, tmp_path / "a", resume=True, methods=["svd", "last"])
    assert "trained at once" not in page.read_text()


def test_what_was_not_written_when_the_process_ended_is_written_from_the_stack(base, tmp_path, monkeypatch, whole):
    always(monkeypatch)
    honest = Cell.end

    def end(self, *arguments, **named):
        if self.name == NAMES[1]:
            raise RunError("the disk is full")
        return honest(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Cell, "end", end)
        with pytest.raises(RunError, match="the disk is full"):
            adapted(base, tmp_path / "a")
    kept = (tmp_path / "a" / NAMES[0] / "adapter.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(Together, "loss", None)  # there is nothing left to train
        found = adapted(base, tmp_path / "a", resume=True)
    assert (tmp_path / "a" / NAMES[0] / "adapter.safetensors").stat().st_mtime_ns == kept
    check_same(found, tmp_path / "a", whole)


def test_a_larger_budget_goes_on_with_the_stack(base, tmp_path, monkeypatch):
    always(monkeypatch)
    adapted(base, tmp_path / "a")
    found = adapted(base, tmp_path / "a", resume=True, **{"training.steps": 18})
    assert [(row["steps"], row["together"]) for row in found] == [(18, 2)] * 2
    assert [row["step"] for row in rows(tmp_path / "a" / NAMES[0])] == [0, 4, 8, 12, 16, 18]


def test_a_member_whose_loss_is_lost_spoils_no_other(base, tmp_path, monkeypatch, alone):
    always(monkeypatch)
    honest, count = Together.losses, [0]

    def losses(self, model, batch):
        count[0] += 1
        bad = torch.tensor([1.0, float("nan") if count[0] > together.TRIAL + 6 else 1.0], dtype=torch.float64)
        return honest(self, model, batch) * bad

    monkeypatch.setattr(Together, "losses", losses)
    found = adapted(base, tmp_path / "a")
    assert "is not finite after" in decisions(tmp_path / "a")[0]["failed"]
    assert [row.pop("together") for row in found] == ["broken"] * 2
    check_same(found, tmp_path / "a", alone)


def test_a_disk_that_fails_is_told_and_not_taken_for_a_loss(base, tmp_path, monkeypatch):
    always(monkeypatch)

    def full(*arguments, **named):
        raise RunError("metrics.jsonl could not be written (No space left on device)")

    monkeypatch.setattr(together, "fit", full)
    with pytest.raises(RunError, match="No space left on device"):
        adapted(base, tmp_path / "a")
    assert "failed" not in decisions(tmp_path / "a")[0]


def test_cells_beside_a_group_are_trained_as_ever_and_several_processes_change_nothing(base, tmp_path, monkeypatch):
    always(monkeypatch)
    found = adapted(base, tmp_path / "a", jobs=2, methods=["svd", "last"])
    assert [(row["method"], row["together"]) for row in found] == [("svd", 2), ("last", 2)] * 2
    courses = {"optimizers": ["adam:10", "adam:6+lbfgs:2"], "training.steps": None}
    mixed = adapted(base, tmp_path / "b", **courses)
    assert [row.get("together") for row in mixed] == [2, None] * 2


def test_where_it_does_not_pay_nothing_changes(base, tmp_path, monkeypatch, alone):
    always(monkeypatch)
    monkeypatch.setattr(together, "WORTH", 0.0)
    found = adapted(base, tmp_path / "a")
    assert not (tmp_path / "a" / "together").exists()
    check_same(found, tmp_path / "a", alone)
    assert all((tmp_path / "a" / name / "checkpoint").is_dir() for name in NAMES)


def test_cells_that_were_begun_alone_go_on_alone(base, tmp_path, monkeypatch, alone):
    shutil.copytree(alone[1], tmp_path / "a")
    (tmp_path / "a" / NAMES[1] / "summary.json").unlink()
    always(monkeypatch)
    found = adapted(base, tmp_path / "a", resume=True)
    assert not decisions(tmp_path / "a")
    check_same(found, tmp_path / "a", alone)


FAMILY = """
import math
import torch
from lissome.pde import Box, Family, Parameter

class Opaque(Family):
    name = "opaque"
    parameters = (Parameter("k", 1.0),)
    dimensions = 1

    def domain(self):
        return Box((0.0,), (1.0,))

    def operator(self, u, p):
        return -math.exp(self.k) * u.laplacian

    def exact(self, p):
        return torch.sin(math.pi * p.x[:, 0])
"""


def test_a_family_that_cannot_be_stacked_is_trained_one_after_another(tmp_path, monkeypatch):
    (tmp_path / "opaque.py").write_text(FAMILY)
    run = solved(tmp_path / "run", str(tmp_path / "opaque.py"))
    always(monkeypatch)
    found = adapted(run, tmp_path / "a", targets=[{"k": 0.5}, {"k": 2.0}])
    assert not (tmp_path / "a" / "together").exists()
    assert [("together" in row, row["steps"]) for row in found] == [(False, 12)] * 2


def grouped(run, **more):
    return [[cell.name for cell in group] for group in together.groups(cells(asked(run, **more), load_solution(run)))]


def test_groups_are_the_targets_of_one_method_and_course(base):
    assert grouped(base) == [NAMES]
    assert grouped(base, methods=["svd", "full"]) == [NAMES, [name.replace("svd", "full") for name in NAMES]]
    both = grouped(base, optimizers=["adam:4", "sgd:4+adamw:2", "gauss-newton"], **{"training.steps": None})
    assert [[name.partition("/")[2] for name in group] for group in both] == [
        ["svd,adam4"] * 2,
        ["svd,sgd4+adamw2"] * 2,
    ]


def test_a_stack_holds_so_many_points_at_most(base, monkeypatch):
    monkeypatch.setattr(together, "MOST_POINTS", 32 * 2)
    three = [*TARGETS, {"c": 3.0}]
    assert grouped(base, targets=three) == [NAMES]
    monkeypatch.setattr(together, "MOST_POINTS", 31)
    assert grouped(base, targets=three) == []


@pytest.mark.parametrize(
    "more",
    [
        {"targets": TARGETS[:1]},
        {"training.optimizer": "lbfgs"},
        {"training.optimizer": "gauss-newton"},
        {"training.then": [{"optimizer": "ssbroyden"}]},
        {"training.groups": [{"pattern": "*core", "optimizer": "lbfgs"}]},
        {"training.seconds": 5.0},
        {"training.tensorboard": True},
    ],
    ids=str,
)
def test_what_a_stack_cannot_do_is_no_group(base, more):
    assert grouped(base, **more) == []


def test_points_that_follow_the_residual_are_each_cells_own(base, tmp_path, monkeypatch):
    always(monkeypatch)
    found = adapted(base, tmp_path / "a", **{"points.adaptive": True})
    assert not decisions(tmp_path / "a")
    assert [row["steps"] for row in found] == [12, 12]
