"""The replications of DAPE and DAPE V2: what is run, what is measured, and claims that follow from figures alone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissome._errors import RunError, UsageError
from lissome.attention import Attention
from lissome.recipes import dape, dape_bytes, dape_tasks, dape_v2, language_contest, language_contest_data, replication
from lissome.recipes.catalogue import papers
from lissome.recipes.dape_claims import adaptive_claims, convolved_claims
from lissome.recipes.dape_names import (
    AS_LONG,
    BYTES,
    CHOMSKY,
    CONTESTANTS,
    DAPE,
    EARLIEST,
    FAR,
    LENGTHS,
    PAIRS,
    RECALL,
    RECENT,
    STATIC,
    TRIALS,
    V2,
)
from lissome.recipes.dape_report import drawings, tables
from lissome.recipes.language_contest import Asked, Judged, Sizes, at_its_best, decoder
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate

LONG = f"{AS_LONG}{DAPE}"
OWN = ("rate", "rates", "loss", "steps", "numbers")  # of a row; seconds differ from run to run


def asked(paper="dape", **more):
    return ReplicateSettings(paper=paper, **more)


def nothing():
    return None


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(language_contest, "QUICK", 3)
    monkeypatch.setattr(dape_bytes, "FEWER", 4)
    monkeypatch.setattr(language_contest, "STEPS", 2)
    monkeypatch.setattr(language_contest, "TURNS", 1)


def bytes_cell(place, text, label, seed=0):
    more = {"quick": True, "scale": False, "data": [text]}
    return dape.run(nothing, place, part=BYTES, label=label, seed=seed, **more)


def row(label, accuracies, part=EARLIEST, seed=0, **more):
    own = {"part": part, "label": label, "seed": seed, "quick": False, "scale": False, "failed": None}
    rest = {"rate": 1e-2, "rates": {"0.01": 1.0}, "loss": 1.0, "steps": 600, "each": 0.01, "numbers": 9_000}
    found = {str(n): accuracy for n, accuracy in accuracies.items()}
    return own | rest | {"accuracy": found, "chance": dict.fromkeys(found, 0.0625), "trained at": [8, 24]} | more


def read(label, near, far, seed=0, **more):
    nats = {"64": near, "256": (near + far) / 2, "1024": far}
    own = {key: value for key, value in row(label, {}, BYTES, seed).items() if key != "accuracy"}
    each = {n: [value - 0.1, value + 0.1] for n, value in nats.items()}
    return own | {"nats": nats, "each window": each} | more


def claim(rows, part, of=adaptive_claims):
    return next(each for each in of(rows) if part in each.says)


def figure(rows, part):
    found = claim(rows, part).found
    assert found is not None
    return found.mean


@pytest.mark.parametrize("paper", [dape, dape_v2])
def test_cells_follow_those_that_chose_their_rate(paper):
    found = paper.cells(asked(seeds=3))
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    assert all(cell.after in names[: names.index(cell.name)] for cell in found if cell.arguments["seed"])
    for cell in found:
        label = cell.arguments["label"]
        assert label.removeprefix(AS_LONG) in CONTESTANTS
        if label.startswith(AS_LONG):
            assert cell.after == f"bytes, Kerple, seed {cell.arguments['seed']}"
    assert len(paper.cells(asked(quick=True))) * 3 == len(found)


def test_a_large_look_has_more_contestants_and_the_chomsky_hierarchy():
    for paper in (dape, dape_v2):
        small, large = (paper.cells(asked(seeds=1, scale=scale)) for scale in (False, True))
        parts = {cell.arguments["part"] for cell in large} - {cell.arguments["part"] for cell in small}
        assert parts == set(CHOMSKY)
        assert {"FIRE", "Kerple + V2, k=5", "Kerple + V2, published"} <= {c.arguments["label"] for c in large}
    assert set(CHOMSKY) < set(TRIALS)
    assert max(FAR) == 8192
    assert dape_bytes.LARGE.layers >= 4


def test_a_large_look_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(UsageError, match="^lotra has no larger look; leave out scale, which is known to: dape, "):
        replicate("lotra", tmp_path / "run", scale=True, progress=False)
    with pytest.raises(UsageError, match="^quick and scale were both asked for; take one of them$"):
        replicate("dape", tmp_path / "run", scale=True, quick=True, progress=False)
    assert not (tmp_path / "run").exists()


def test_one_text_is_read_that_is_long_enough(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("to be " * 100)
    with pytest.raises(UsageError, match="short.txt' has 600 bytes; legal are texts of at least 200,000$"):
        dape.cells(asked(data=[str(path)]))
    with pytest.raises(UsageError, match="^this replication reads one text, and 2 came; give --data once$"):
        dape_v2.cells(asked(data=[str(path)] * 2))


def test_training_choice_and_test_share_no_byte(text):
    train, choose, test = language_contest_data.parts((text,))
    whole = np.concatenate([train, choose, test])
    assert bytes(whole) == Path(text).read_bytes()
    assert abs(len(choose) - len(test)) <= 1
    assert len(train) == pytest.approx(0.9 * len(whole), abs=1)


def test_a_cell_tells_accuracies_and_is_repeated_by_its_seed(tmp_path):
    same = {"part": RECALL, "label": "NoPE + V2", "quick": True}
    first = dape.run(nothing, tmp_path, seed=0, **same)
    assert list(first["accuracy"]) == ["8", "16", "32"]
    assert first["steps"] == 3
    again = dape.run(nothing, tmp_path, seed=0, **same)
    assert [again[key] for key in (*OWN, "accuracy")] == [first[key] for key in (*OWN, "accuracy")]
    assert json.loads(json.dumps(first)) == first
    other = dape.run(nothing, tmp_path, seed=1, **same)
    assert other["loss"] != first["loss"]


@pytest.mark.parametrize("label", CONTESTANTS)
def test_contestants_are_what_their_names_say(label):
    sizes = Sizes(layers=1, width=16, steps=1, rates=(1e-3,))
    model = decoder(sizes, 8, 0, length=16, **CONTESTANTS[label])
    (recipe,) = (module for module in model.modules() if isinstance(module, Attention))
    said = recipe.explain()
    assert ("rotary" in said, "kerple" in said, "fire" in said) == tuple(
        word in label for word in ("rotary", "Kerple", "FIRE")
    )
    kernel = 5 if "k=5" in label else 3 if "V2" in label else 1 if "DAPE" in label else None
    assert (recipe.refine.kernel if recipe.refine else None) == kernel
    assert ("published" in said) == ("published" in label)


class Level(nn.Module):
    """One number that is to become 1."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(()))


class Reach:
    """Trained on the way to 1, judged by the distance from 0.01."""

    def sample(self, generator, n):
        return {"pull": torch.ones(())}

    def loss(self, model, batch):
        return (model.x - 1).square() if "pull" in batch else (model.x - 0.01).abs()

    def evaluate(self, model):
        raise AssertionError("the objective's own figures are those of the tests")


SIZES = Sizes(layers=1, width=8, steps=5, rates=(1e-3, 1e-1))


def test_the_first_seed_chooses_the_rate_by_rows_held_out_and_the_others_keep_it(tmp_path):
    objective = Judged(Reach(), {})
    first = Asked(SIZES, 0, tmp_path / "own.json", follows=False)
    later = first._replace(seed=1, follows=True)
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        at_its_best(later, Level, objective, nothing)
    best, told = at_its_best(first, Level, objective, nothing)
    assert best is not None
    assert best.rate == told["rate"] == 1e-3  # the training loss alone would have the other
    assert set(told["rates"]) == {"0.001", "0.1"}
    _, kept = at_its_best(later, Level, objective, nothing)
    assert set(kept["rates"]) == {"0.001"}


def test_a_contestant_that_diverged_is_tried_at_all_rates_again(tmp_path, monkeypatch):
    def diverges(*_):
        raise RunError("the loss is not finite")

    own = Asked(SIZES, 0, tmp_path / "own.json", follows=False)
    with monkeypatch.context() as patch:
        patch.setattr(language_contest, "train", diverges)
        best, told = at_its_best(own, Level, Judged(Reach(), {}), nothing)
    assert best is None
    assert told == {"failed": "no rate ends at a finite loss"}
    assert json.loads(own.kept.read_text()) == {"rate": None}
    _, later = at_its_best(own._replace(seed=1, follows=True), Level, Judged(Reach(), {}), nothing)
    assert set(later["rates"]) == {"0.001", "0.1"}


def test_rates_are_chosen_on_other_rows_than_those_of_the_tests(tmp_path, monkeypatch):
    seen = {}

    def spied(own, make, objective, tick):
        seen["held"], seen["task"] = objective.held["tokens"], objective.objective
        return None, {"failed": "spied"}

    monkeypatch.setattr(dape_tasks, "at_its_best", spied)
    dape.run(nothing, tmp_path, part=EARLIEST, label=V2, seed=0, quick=False)
    held = {tuple(tokens) for tokens in seen["held"].tolist()}
    draws = torch.Generator().manual_seed(2**40 + 24)
    tests = {tuple(tokens) for tokens in seen["task"].draw(draws, 256, 24)[0].tolist()}
    assert len(held) == language_contest_data.HELD
    assert not held & tests


def test_bytes_are_told_by_length_and_window(tmp_path, text):
    found = bytes_cell(tmp_path, text, DAPE)
    assert list(found["nats"]) == [str(n) for n in LENGTHS[:3]]
    assert {len(each) for each in found["each window"].values()} == {dape_bytes.FEWER}
    for n, nats in found["nats"].items():
        assert nats == pytest.approx(sum(found["each window"][n]) / dape_bytes.FEWER, abs=1e-4)
        assert 0 < nats < math.log(256) + 0.5
    assert json.loads(json.dumps(found)) == found


def test_kerple_is_given_the_seconds_of_another_as_steps(tmp_path, text, monkeypatch):
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        bytes_cell(tmp_path, text, LONG)
    short = bytes_cell(tmp_path, text, STATIC)
    monkeypatch.setattr(dape_bytes, "ratio_of_seconds", lambda *_: 2.4)
    longer = bytes_cell(tmp_path, text, LONG)
    assert (short["steps"], longer["steps"]) == (3, 7)
    assert longer["rate"] == short["rate"]
    assert longer["numbers"] == short["numbers"]


def test_seconds_of_a_step_are_compared_in_turns_and_the_middle_ratio_counts(monkeypatch):
    trained, seconds = [], iter([2.0, 1.0, 9.0, 1.0, 6.0, 2.0])

    def timed(model, objective, rate, asked, tick):
        trained.append((model, rate, asked.sizes.steps))
        return None, next(seconds)

    monkeypatch.setattr(language_contest, "train", timed)
    monkeypatch.setattr(language_contest, "TURNS", 3)
    own = Asked(SIZES, 1, Path("own.json"), follows=True)
    ratio = language_contest.ratio_of_seconds(lambda: "one", lambda: "other", None, own, nothing)
    assert ratio == 3.0
    assert trained == [("one", 1e-3, 2), ("other", 1e-3, 2)] * 3


def test_a_clock_counts_the_steps_between_the_first_and_the_last(monkeypatch):
    clock, times = language_contest.Clock(nothing), iter([10.0, 12.0, 16.0])
    monkeypatch.setattr(language_contest.time, "process_time", lambda: next(times))
    for step in (1, 2, 3):
        clock(step, nn.Identity())
    assert clock.each == 3.0


def test_accuracies_are_held_to_the_worst_seed():
    rows = [row(DAPE, {24: 0.99, 48: 0.5}), row(DAPE, {24: 0.95, 48: 0.5}, seed=1)]
    assert claim(rows, "DAPE, which adapts").verdict == "shown"
    worse = [*rows, row(DAPE, {24: 0.85, 48: 1.0}, seed=2)]
    assert claim(worse, "DAPE, which adapts").verdict == "not shown"
    assert "0.85 (0.85 to 0.99" in claim(worse, "DAPE, which adapts").evidence
    static = [row(STATIC, {24: 0.1, 48: 0.1}), row(STATIC, {24: 0.45, 48: 0.1}, seed=1)]
    assert claim(static[:1], "does not find the earliest").verdict == "shown"
    assert claim(static, "does not find the earliest").verdict == "not shown"
    assert claim(static, "V2 finds the earliest").verdict == "not measured"
    assert claim([row("rotary", {48: 0.3}, RECENT)], "rotary loses").verdict == "shown"


def test_recall_is_held_to_both_forms_of_v2_and_to_all_that_see_one_pair():
    both = [row("NoPE + V2", {8: 1.0, 32: 1.0}, RECALL), row(V2, {8: 1.0, 32: 0.9}, RECALL)]
    found = [each for each in convolved_claims(both) if "V2 recalls" in each.says]
    assert [each.verdict for each in found] == ["shown", "not shown"]
    others = [row(label, {8: 0.2, 32: 0.1}, RECALL) for label in ("NoPE", STATIC, "rotary", "NoPE + DAPE", DAPE)]
    found = [each for each in convolved_claims([*both, *others]) if "one pair at a time" in each.says]
    assert [each.verdict for each in found] == ["shown", "shown"]
    assert found[0].found is not None
    assert found[0].found.cells == 5
    pairs = [row("NoPE + V2", {20: 1.0, 100: 0.52}, PAIRS), row(V2, {20: 1.0, 100: 0.97}, PAIRS)]
    said = [each.verdict for each in convolved_claims(pairs) if "even pairs" in each.says]
    assert said == ["not shown", "shown"]


def test_bytes_compare_perplexities_of_the_same_seed():
    rows = [read(STATIC, 2.0, 1.9), read(DAPE, 1.9, 1.7), read(STATIC, 2.2, 2.1, seed=1)]
    near = claim(rows, "DAPE beats its own static bias at 64 bytes")
    assert near.found is not None
    assert near.found.mean == pytest.approx(math.exp(-0.1))
    assert near.found.cells == 1
    assert near.verdict == "shown"
    assert figure(rows, "static bias at 1,024") == pytest.approx(math.exp(-0.2))
    assert figure(rows, "lead of DAPE") == pytest.approx(math.exp(-0.1))
    assert claim([*rows, read(DAPE, 2.3, 2.0, seed=1)], "static bias at 64 bytes").verdict == "not shown"
    assert figure([read("rotary", 2.0, 3.6)], "rotary collapses") == pytest.approx(math.exp(1.6))
    assert claim([*rows, read(LONG, 1.8, 1.8)], "as many seconds, at 64").verdict == "not shown"
    assert claim([*rows, read(LONG, 1.8, 1.8)], "as many seconds, at 1,024").verdict == "shown"
    v2 = [*rows, read(V2, 1.85, 1.75)]
    assert claim(v2, "V2 is better than DAPE", convolved_claims).verdict == "not shown"


def test_tables_and_figures_tell_spreads_failures_and_what_is_not_there():
    rows = [row(DAPE, {24: 0.9, 48: 0.5}), row(DAPE, {24: 1.0, 48: 0.7}, seed=1)]
    failed = {"part": EARLIEST, "label": STATIC, "seed": 0, "quick": False, "failed": "no rate ends at a finite loss"}
    rows += [failed, read(STATIC, 2.0, 1.9), read(DAPE, 1.9, 1.7), read("rotary", 2.0, 3.6), read(LONG, 1.95, 1.85)]
    task, nats, beside = tables(rows)
    assert [list(line) for line in task.rows] == [
        [STATIC, "–", "–", "failed", "–", "–"],
        [DAPE, "0.950 (0.900 to 1.000)", "0.600 (0.500 to 0.700)", "9,000", "0.01", "10"],
    ]
    assert [line[0] for line in nats.rows] == ["rotary", STATIC, DAPE, LONG]
    assert list(nats.rows[1])[1:4] == ["2.000", "1.950", "1.900"]
    assert list(beside.rows[1]) == [DAPE, "-0.100; 0.000", "-0.150; 0.000", "-0.200; 0.000"]
    drawn = {each.name: each.figure for each in drawings(rows)}
    assert set(drawn) == {EARLIEST, BYTES}
    assert all(figure is not None for figure in drawn.values())
    assert tables([]) == []
    assert [each.figure for each in drawings([])] == [None]


def test_both_are_in_the_catalogue():
    told = {each["paper"]: each for each in papers()}
    assert told["dape"]["replicate"] == "lissome replicate dape"
    assert told["dape-v2"]["arxiv"] == dape_v2.PAPER.arxiv


@pytest.mark.parametrize(("name", "paper"), [("dape", dape), ("dape-v2", dape_v2)])
def test_a_quick_look_proves_nothing_and_draws_the_page(name, paper, tmp_path, text, monkeypatch):
    few = [cell for cell in paper.cells(asked(name, quick=True, data=[text]))
           if cell.arguments["label"] in (STATIC, V2)]  # fmt: skip
    monkeypatch.setitem(vars(replication.PAPERS[name]), "cells", lambda settings: few)
    out = tmp_path / "run"
    told = replicate(name, out, quick=True, data=[text], progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    assert "Bytes: nats of a byte by length" in (out / "index.html").read_text()
    assert (out / "figures" / "bytes.svg").is_file()
