"""Auto: a short trial picks a method for each target; what it picks is trained as if it had been named."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissome._errors import Interrupted, RunError, UsageError
from lissome.recipes import adapt, archive, choice, solve
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import cells
from lissome.recipes.choice import LAST, LEVEL, ROUNDS, SHARE, best, choose, halve, opened, rounds, takes
from lissome.recipes.settings import AdaptSettings, SolveSettings
from lissome.recipes.settings import load as read
from tests.cli.command import Face

FEW = {"points.interior": 16, "points.boundary": 8, "training.compile": False, "training.steps": 12}
NEAR, CELL = {"c": 1.0}, "c=1,k=1"
TRIED = ["svd", "lora", "lora-xs", "pissa", "last", "full"]
contestants = st.dictionaries(
    st.sampled_from("abcdefg"), st.tuples(st.floats(1e-6, 1e6), st.integers(1, 9)), min_size=1
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base") / "run"
    solve(read(SolveSettings, given=FEW | {"family": "poisson", "network.width": 4}), out, progress=False)
    return out


def settings_of(run, **more):
    return read(AdaptSettings, given=FEW | {"run": str(run), "targets": [NEAR], "methods": ["auto"]} | more)


def adapted(run, out, *, resume=False, **more):
    return adapt(settings_of(run, **more), out, resume=resume, progress=False)


def tried(run, out, **more):
    """Choose and train nothing; return the cells that would be trained, by name, and why."""
    settings, base = settings_of(run, **more), load_solution(run)
    found, told = choose(cells(opened(settings, base), base), settings, out)
    return [cell.name for cell in found], told


def test_the_run_is_read_once(base, tmp_path, monkeypatch):
    reads, honest = [], archive._solved
    monkeypatch.setattr(archive, "_solved", lambda run: reads.append(run) or honest(run))
    with pytest.raises(UsageError, match="unknown parameter of family 'poisson': 'q'"):
        adapted(base, tmp_path / "a", targets=[{"q": 1.0}])
    assert reads == [base]


def kept(out):
    return json.loads((out / "choices.json").read_text())


def losses(cell):
    return [json.loads(line)["fresh"] for line in (cell / "metrics.jsonl").read_text().splitlines()]


def came(steps, loss):
    return SimpleNamespace(steps=steps, history=[{"fresh": 40.0}], metrics={"fresh": loss})


def stub(seen=None, **losses):
    """Stand in for a training: losses by method, 1 where none is given, errors among them; `seen` hears of each."""

    def train(cell, problem, budget):
        if seen is not None:
            seen.append((cell.method, budget))
        loss = losses.get(cell.method, 1.0)
        if isinstance(loss, Exception):
            raise loss
        return came(budget.steps, loss)

    return train


def refuse(*words):
    raise AssertionError("nothing is to be tried")


# what is chosen


@given(contestants, st.booleans())
def test_of_what_is_level_the_smallest_wins_at_rest_and_the_largest_before(drawn, rests):
    loss = {name: value for name, (value, _) in drawn.items()}
    sizes = {name: size for name, (_, size) in drawn.items()}
    scores = halve(loss, rounds(4000, len(drawn)), lambda name, steps: loss[name])
    order = best(scores, sizes, start=math.inf if rests else 0.0)
    level = [name for name in order if loss[name] <= LEVEL * min(loss.values())]
    assert order[0] in level
    assert sizes[order[0]] == (min if rests else max)(sizes[name] for name in level)
    assert len(order) == takes(len(drawn))[-1]


@pytest.mark.parametrize(
    ("start", "first", "winner"),
    [(1000.0, 20.0, "last"), (1000.0, 500.0, "full"), (20.0, 15.0, "full")],
    ids=["has come to rest", "still falls", "has not moved"],
)
def test_a_loss_is_at_rest_that_fell_far_and_falls_no_more(start, first, winner):
    scores = {"full": {2: first, 8: 10.1}, "last": {2: first, 8: 10.0}}
    assert best(scores, {"full": 337, "last": 17}, start)[0] == winner


def test_the_better_half_goes_into_the_next_round():
    found = halve("fedcba", [2, 8], lambda name, steps: ord(name))
    assert [name for name in found if list(found[name]) == [2, 8]] == ["c", "b", "a"]
    assert [name for name in found if list(found[name]) == [2]] == ["f", "e", "d"]


def test_what_is_not_finite_is_out_even_if_it_led():
    scores = halve("abcdef", [2, 8], lambda name, steps: math.nan if (name, steps) == ("a", 8) else ord(name))
    assert best(scores, dict.fromkeys("abcdef", 1), start=1.0) == ["b", "c"]


def test_where_the_last_round_fails_those_before_it_are_left():
    scores = halve("abcdef", [2, 8], lambda name, steps: math.inf if steps == 8 else ord(name))
    assert best(scores, dict.fromkeys("abcdef", 1), start=1.0) == ["d", "e", "f"]


@given(st.integers(1, 10**5), st.integers(1, 9))
def test_a_trial_costs_an_eighth_unless_that_is_too_little_to_judge_by(whole, many):
    steps, taking = rounds(whole, many), takes(many)
    work = sum(map(math.prod, zip(steps, taking, strict=True)))
    assert steps[-1] == min(whole, max(LAST, steps[-1]))
    assert work <= SHARE * whole + sum(map(math.prod, zip(ROUNDS, taking, strict=False))) or steps[-1] <= LAST


# an adaptation by auto


def test_auto_trains_one_method_as_if_it_had_been_named_and_says_why(base, tmp_path):
    (row,) = adapted(base, tmp_path / "a")
    chosen = kept(tmp_path / "a")[CELL]
    assert (row["method"], row["choice"]) == (chosen["chosen"], chosen["why"])
    assert row["choice"].startswith(f"for c = 1, k = 1, auto chose {row['method']} over ")
    assert list(chosen["methods"]) == TRIED
    assert [place.name for place in (tmp_path / "a" / CELL).iterdir()] == [row["method"]]
    assert row["choice"] in (tmp_path / "a" / "index.html").read_text()
    adapted(base, tmp_path / "b", methods=[row["method"]])
    assert losses(tmp_path / "a" / CELL / row["method"]) == losses(tmp_path / "b" / CELL / row["method"])


def test_the_same_seed_chooses_the_same(base, tmp_path):
    tried(base, tmp_path / "a", optimizers=["adam", "gauss-newton"])
    tried(base, tmp_path / "b", optimizers=["adam", "gauss-newton"])
    assert kept(tmp_path / "a") == kept(tmp_path / "b")


def test_where_no_form_can_follow_all_weights_are_trained(tmp_path):
    small = FEW | {"points.interior": 64, "points.boundary": 16, "training.steps": 40}
    solve(
        read(SolveSettings, given=small | {"family": "poisson", "network.width": 16}), tmp_path / "run", progress=False
    )
    names, _ = tried(tmp_path / "run", tmp_path, rank=0, **small | {"training.steps": 600})
    assert names == [f"{CELL}/full"]


def test_each_target_and_each_optimizer_has_its_own_choice(base, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_train", stub())
    names, told = tried(base, tmp_path, targets=[NEAR, {"c": 2.0}], optimizers=["adam", "sgd"])
    assert list(kept(tmp_path)) == [f"{name},k=1/{moved}" for name in ("c=1", "c=2") for moved in ("adam", "sgd")]
    assert names == list(told) == [f"{name},k=1/svd,{moved}" for name in ("c=1", "c=2") for moved in ("adam", "sgd")]
    assert told["c=2,k=1/svd,sgd"].startswith("for c = 2, k = 1, sgd, auto chose svd over")


def test_methods_that_are_named_too_are_trained_once(base, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_train", stub(full=0.1))
    names, told = tried(base, tmp_path / "a", methods=["full", "auto", "scratch"])
    assert (names, list(told)) == ([f"{CELL}/full", f"{CELL}/scratch"], [f"{CELL}/full"])
    names, told = tried(base, tmp_path / "b", methods=["auto", "last"])
    assert (sorted(names), list(told)) == ([f"{CELL}/full", f"{CELL}/last"], [f"{CELL}/full"])


def test_without_auto_nothing_is_tried_or_written(base, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_train", refuse)
    assert tried(base, tmp_path, methods=["svd", "full"]) == ([f"{CELL}/svd", f"{CELL}/full"], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            {"full": 0.1},
            "chose full over svd, lora, lora-xs, pissa, last: after 8 steps the fresh loss of 40 is 0.10, against",
        ),
        (
            {"last": 0.9},
            "chose last over svd, lora, lora-xs, pissa, full: after 8 steps the fresh loss of 40 is 0.90, level",
        ),
        ({"full": 0.1, "svd": 0.12}, "is 0.12, level with 0.10 of full, which trains 37 numbers and not 25."),
        (
            {name: RunError("") for name in TRIED if name != "svd"},
            "chose svd: after 8 steps the fresh loss of 40 is 1.0; lora,",
        ),
        (dict.fromkeys(TRIED, 39.0), "is 39, level with 39 of lora-xs; so short a trial decides little here."),
        (
            dict.fromkeys(TRIED, 39.0) | {"svd": 38.0},
            "which trains 25 numbers and not 53, before the loss has come to rest;",
        ),
    ],
)
def test_the_reason_is_told_with_its_figures(base, tmp_path, monkeypatch, loss, words):
    monkeypatch.setattr(choice, "_train", stub(**loss))
    assert words in "".join(tried(base, tmp_path)[1].values())


def test_a_rank_is_for_the_methods_that_have_one(base, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_train", stub())
    for rank in (1, 2):
        tried(base, tmp_path / str(rank), rank=rank)
    one, two = (kept(tmp_path / rank)[CELL]["methods"] for rank in "12")
    assert [name for name in TRIED if one[name]["trained"] < two[name]["trained"]] == TRIED[:4]


def test_a_network_without_hidden_matrices_has_no_form_to_try(tmp_path):
    shallow = FEW | {"family": "poisson", "network.width": 4, "network.depth": 1}
    solve(read(SolveSettings, given=shallow), tmp_path / "run", progress=False)
    tried(tmp_path / "run", tmp_path)
    assert list(kept(tmp_path)[CELL]["methods"]) == ["last", "full"]


# a budget in seconds


def test_seconds_bound_the_trial_and_its_steps_are_the_usual_ones(base, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(choice, "_train", stub(seen))
    tried(base, tmp_path, **{"training.steps": None, "training.seconds": 0.8})
    budgets = [budget for _, budget in seen]
    assert {budget.steps for budget in budgets} == set(rounds(200, 6))
    assert sum(budget.seconds for budget in budgets) == pytest.approx(0.8 * SHARE)


def test_steps_that_the_seconds_leave_no_time_for_are_not_told(base, tmp_path):
    tried(base, tmp_path, **{"training.steps": None, "training.seconds": 1e-6})
    assert {steps for row in kept(tmp_path)[CELL]["methods"].values() for steps in row["steps"]} == {1}


# what goes wrong


def test_a_choice_that_is_kept_is_not_tried_again(base, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_train", stub())
    (row,) = adapted(base, tmp_path / "a")
    (tmp_path / "a" / CELL / row["method"] / "summary.json").unlink()
    monkeypatch.setattr(choice, "_train", refuse)
    assert adapted(base, tmp_path / "a", resume=True)[0]["choice"] == row["choice"]


def test_choices_made_before_a_stop_are_kept(base, tmp_path, monkeypatch):
    def stopped(cell, problem, budget):
        if cell.target.values["c"] == 2.0:
            raise Interrupted("stopped by SIGINT after 1 steps")
        return came(1, 1.0)

    monkeypatch.setattr(choice, "_train", stopped)
    with pytest.raises(Interrupted, match=r"stopped while auto tried c=2,k=1/svd.*--resume --out"):
        adapted(base, tmp_path / "a", targets=[NEAR, {"c": 2.0}])
    assert list(kept(tmp_path / "a")) == [CELL]


def test_a_method_that_fails_drops_out_and_is_told(base, tmp_path, monkeypatch):
    bad = {"full": RunError("the loss is not finite"), "last": UsageError("too large"), "svd": math.nan}
    monkeypatch.setattr(choice, "_train", stub(pissa=0.5, **bad))
    names, told = tried(base, tmp_path)
    assert names == [f"{CELL}/pissa"]
    assert told[names[0]].endswith("; svd, last, full failed.")
    assert kept(tmp_path)[CELL]["methods"]["last"]["failed"] == "too large"


@pytest.mark.parametrize("kind", [RunError, UsageError])
def test_where_every_method_fails_the_first_reason_is_told(base, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(choice, "_train", stub(**dict.fromkeys(TRIED, kind("the loss is not finite"))))
    with pytest.raises(kind, match=r"no method for c=1,k=1 that can be trained; svd: the loss is not finite"):
        adapted(base, tmp_path / "a")
    assert (tmp_path / "a").exists() == (kind is RunError)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"methods": ["svd", "autoo"]}, r"unknown method 'autoo'.*scratch, auto \(did you mean 'auto'\?\)"),
        ({"rank": 99}, "rank.*99"),
        ({"targets": [{"z": 1.0}]}, "unknown parameter of family 'poisson': 'z'"),
        ({"training.groups": [{"pattern": "*nowhere"}]}, "'\\*nowhere' of training.groups matches no parameter"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_tried(base, tmp_path, monkeypatch, more, words):
    monkeypatch.setattr(choice, "_train", refuse)
    with pytest.raises(UsageError, match=words):
        adapted(base, tmp_path / "a", **more)
    assert not (tmp_path / "a").exists()


# the command


def test_the_command_tells_what_it_chose(base, tmp_path, capsys):
    lissome, out = Face(capsys), tmp_path / "a"
    (row,) = json.loads(
        lissome("pde", "adapt", base, "--parameter", "c=1", "--method", "auto", "--quick", "--json", "--out", out)
    )
    assert row["choice"] == kept(out)[CELL]["why"]
    assert f"auto chose {row['method']} over" in " ".join(lissome("show", out).split())
