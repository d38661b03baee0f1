"""Runs from Python: phases and groups, runs that are made again, loaded, chained, and spread over processes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from lissome import report
from lissome.adapt import Adapted
from lissome.optim import checkpoint
from lissome.recipes import adapt, demonstration, load, solve
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import cells
from lissome.recipes.lock import is_locked
from lissome.recipes.settings import AdaptSettings, SolveSettings
from lissome.recipes.settings import load as read
from lissome.recipes.training import ADAM_RATE, methods, problem_of
from lissome.recipes.worker import can_spawn

FEW = {"points.interior": 16, "points.boundary": 8, "training.compile": False, "training.steps": 12}
TINY = FEW | {"family": "poisson", "network.width": 4, "training.evaluate": 6}


def solved(out, **more):
    solve(read(SolveSettings, given=TINY | more), out, progress=False)
    return out


def adapted(run, out, *, jobs=1, **more):
    given = FEW | {"run": str(run), "targets": [{"c": 1.0}]} | more
    return adapt(read(AdaptSettings, given=given), out, progress=False, jobs=jobs)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return solved(tmp_path_factory.mktemp("base") / "run")


def rows(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def state(run):
    return checkpoint.read(run / "checkpoint").state


def test_the_default_rate_is_for_adam_alone():
    changes = ["training.optimizer=adam", "training.groups=[{pattern: '*core', optimizer: sgd}, {pattern: '*bias'}]"]
    changes += [
        "training.then=[{optimizer: lbfgs, share: 0.25}, {optimizer: adam, rate: 0.5, groups: [{pattern: '*'}]}]"
    ]
    found = methods(read(SolveSettings, given={"family": "x"}, changes=changes), ["a.core", "a.bias", "b"], 7)
    shown = [[(g.pattern, g.optimizer, g.lr) for g in method.groups] for method in found]
    assert shown == [
        [("*core", "sgd", None), ("*bias", "adam", ADAM_RATE), ("*", "adam", ADAM_RATE)],
        [("*", "lbfgs", None)],
        [("*", "adam", ADAM_RATE)],  # nothing is left over for the phase itself
    ]
    assert [method.share for method in found] == [1.0, 0.25, 1.0]
    assert {method.points for method in found} == {7}


def test_a_second_phase_and_options_reach_the_optimizers(tmp_path):
    out = tmp_path / "run"
    changes = ["training.then=[{optimizer: lbfgs, share: 0.25, options: {max_iter: 2}}]"]
    changes += [
        "training.optimizer=adam",
        "training.options.betas=[0.5, 0.9]",
        "training.steps=10",
        "training.evaluate=2",
    ]
    solve(read(SolveSettings, given=TINY, changes=changes), out, progress=False)
    assert [(row["step"], row["phase"]) for row in rows(out)] == [(0, 0), (2, 0), (4, 0), (6, 0), (8, 0), (10, 1)]
    adam, lbfgs = (method["groups"][0] for method in state(out)["methods"])
    assert (adam["optimizer"], adam["options"]) == ("adam", {"betas": [0.5, 0.9]})
    assert (lbfgs["optimizer"], lbfgs["options"]) == ("lbfgs", {"max_iter": 2})
    assert state(out)["optimizers"][0]["param_groups"][0]["max_iter"] == 2


def test_each_method_takes_the_groups_that_it_trains(base, tmp_path):
    group = {"pattern": "*core", "optimizer": "sgd", "rate": 0.01, "options": {"momentum": 0.5}}
    named = {"training.groups": [group], "training.optimizer": "adam"}
    adapted(base, tmp_path / "a", methods=["svd", "last"], **named)
    svd, last = (state(tmp_path / "a" / "c=1,k=1" / name)["methods"][0]["groups"] for name in ("svd", "last"))
    assert [(g["pattern"], g["optimizer"], g["lr"]) for g in svd] == [("*core", "sgd", 0.01), ("*", "adam", ADAM_RATE)]
    assert [(g["pattern"], g["optimizer"]) for g in last] == [("*", "adam")]


def test_runs_are_made_again_from_their_settings(base, tmp_path):
    again = read(SolveSettings, file=base / "settings.yaml", given={})
    solve(again, tmp_path / "base", progress=False)
    assert rows(tmp_path / "base") == rows(base)

    whole = tmp_path / "a"
    adapted(base, whole, methods=["svd", "scratch"])
    for source in (whole, whole / "c=1,k=1" / "scratch"):
        out = tmp_path / f"again-{source.name}"
        settings = read(AdaptSettings, file=source / "settings.yaml", given={})
        assert settings.run == str(base.resolve())
        adapt(settings, out, progress=False)
        assert rows(out / "c=1,k=1" / "scratch") == rows(whole / "c=1,k=1" / "scratch")


def test_processes_change_no_number(base, tmp_path):
    names = ["svd", "scratch"]
    one = adapted(base, tmp_path / "one", methods=names)
    two = adapted(base, tmp_path / "two", methods=names, jobs=2)
    assert [(row["method"], row["error"]) for row in two] == [(row["method"], row["error"]) for row in one]
    for name in names:
        assert rows(tmp_path / "two" / "c=1,k=1" / name) == rows(tmp_path / "one" / "c=1,k=1" / name)


def test_a_program_that_cannot_be_read_again_goes_on_in_its_own_process(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__="<stdin>", __spec__=None))
    assert not can_spawn()
    assert len(adapted(base, tmp_path / "a", methods=["svd", "last"], jobs=2)) == 2


def test_a_trained_network_is_loaded_with_its_constraint(base, tmp_path):
    family, model = load(base)
    assert family.values == {"c": 0.0, "k": 1.0}
    low, high = family.domain().low, family.domain().high
    edge = torch.tensor([[low[0], 0.3], [high[0], 0.1], [0.2, low[1]]])
    assert model(edge).abs().max() < 1e-6
    kept = json.loads((base / "summary.json").read_text())["error"]
    settings = read(SolveSettings, file=base / "settings.yaml", given={})
    assert problem_of(family, settings, settings.constraint).evaluate(model)["error"] == pytest.approx(kept, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_adapted_network_is_loaded_and_adapted_further(base, tmp_path, dtype):
    (first,) = adapted(base, tmp_path / "a", methods=["lora"], dtype=dtype)
    cell = tmp_path / "a" / "c=1,k=1" / "lora"
    family, model = load(cell)
    assert family.values == {"c": 1.0, "k": 1.0}
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not any(isinstance(module, Adapted) for module in model.modules())
    weights = checkpoint.read(cell / "checkpoint").model
    free = next(name for name in weights if name.endswith("free.layers.0.weight"))
    assert torch.equal(model.get_parameter("network.layers.0.weight"), weights[free])

    settings = read(AdaptSettings, given=FEW | {"run": str(cell), "targets": [{"c": 1.0}], "dtype": dtype})
    adapt(settings, tmp_path / "b", progress=False)
    start = rows(tmp_path / "b" / "c=1,k=1" / "svd")[0]["error"]
    assert start == pytest.approx(first["error"], rel=1e-4)  # it begins where the first ended
    assert load(tmp_path / "b" / "c=1,k=1" / "svd")[0].values == {"c": 1.0, "k": 1.0}


def test_a_larger_budget_goes_on_with_a_finished_run(base, tmp_path):
    out = solved(tmp_path / "run")
    longer = read(SolveSettings, file=out / "settings.yaml", given={"training.steps": 18})
    assert solve(longer, out, resume=True, progress=False)["steps"] == 18
    assert read(SolveSettings, file=out / "settings.yaml", given={}) == longer
    cells = tmp_path / "a"
    assert adapted(base, cells)[0]["steps"] == 12
    settings = read(AdaptSettings, file=cells / "settings.yaml", given={"training.steps": 18})
    assert adapt(settings, cells, resume=True, progress=False)[0]["steps"] == 18


def test_a_run_keeps_its_directory_until_its_page_is_written(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(report, "page", lambda out: held.append(is_locked(out)))
    solved(tmp_path / "run")
    assert held == [True]
    assert not is_locked(tmp_path / "run")


def test_the_demonstration_goes_on_where_it_broke_off(tmp_path, monkeypatch):
    small = {"training.steps": 2, "training.evaluate": 2, "training.compile": False}
    monkeypatch.setattr(demonstration, "QUICK", small)
    monkeypatch.setattr(demonstration, "FEW", {"points.interior": 8, "network.width": 4})
    monkeypatch.setattr(demonstration, "TARGETS", [{"c": 0.5}])
    monkeypatch.setattr(demonstration, "METHODS", ["svd", "last"])
    found = demonstration.demo(tmp_path, quick=True, progress=False)
    assert [(row["parameters"], row["method"]) for row in found] == [({"c": 0.5}, "svd"), ({"c": 0.5}, "last")]
    last = tmp_path / "adapted" / "c=0.5" / "last"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    (last / "summary.json").unlink()
    again = demonstration.demo(tmp_path, quick=True, progress=False)
    assert [row["error"] for row in again] == [row["error"] for row in found]
    changed = [path.parent for path in kept if path.stat().st_mtime_ns != kept[path]]
    assert changed == [last]
    assert (tmp_path / "adapted" / "index.html").is_file()


def test_targets_that_differ_in_a_late_digit_are_two_cells(base):
    settings = read(AdaptSettings, given={"run": str(base), "targets": [{"c": 2.0}, {"c": 2.0000001}]})
    assert [cell.name for cell in cells(settings, load_solution(base))] == ["c=2,k=1/svd", "c=2.0000001,k=1/svd"]


def test_a_comparison_with_full_says_what_each_form_could_have_followed(base, tmp_path):
    out = tmp_path / "cells"
    found = adapted(base, out, methods=["svd", "lora", "last", "full"], rank=2)
    told = {row["method"]: row.get("reach") for row in found}
    assert told["last"] is told["full"] is None
    assert 0 < told["svd"] < 1
    assert 0 < told["lora"] < 1
    page = (out / "index.html").read_text()
    assert f"could follow: svd {told['svd']:.0%}" in page or f"svd {told['svd']:.0%}" in page
    alone = adapted(base, tmp_path / "alone", methods=["svd"])
    assert "reach" not in alone[0]
