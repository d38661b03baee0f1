"""The replication of AlgoFormer: what is run, and claims that follow from figures alone."""

import math

import pytest

from lissome.recipes import algoformer, algoformer_incontext, replication
from lissome.recipes.algoformer_bytes import made
from lissome.recipes.algoformer_claims import claims, drift
from lissome.recipes.algoformer_names import (
    ADDED,
    ALGO,
    AS_LONG,
    BYTES,
    CUT,
    DEEP,
    LINEAR,
    LOOPED,
    NONE,
    NORMED,
    PLAIN,
    READERS,
    READING,
    REPRESENTATION,
    TRIALS,
    settings_of,
)
from lissome.recipes.algoformer_report import drawings, middle, tables
from lissome.recipes.catalogue import papers
from lissome.recipes.incontext.network import new_model, shape_of
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate
from lissome.recipes.training import count


def nothing():
    return None


def asked(**more):
    return ReplicateSettings(paper="algoformer", **more)


def settings(part, label, scale=False):
    return settings_of(part, label, 0, quick=False, scale=scale)


def row(part, label, error, seed=0, **more):
    """Return a row whose error is flat beyond T = 4 iterations; a plain model's has none."""
    T = 1 if label in {PLAIN, AS_LONG, DEEP} else 4
    own = {"part": part, "label": label, "seed": seed, "quick": False, "failed": None, "iterations": T, "prompts": 64,
           "last": {"error": error, "median": error, "lost": 0}, "mean": 2 * error, "by examples": [1.0, error],
           "oracles": {"affine ridge on x": [1.0, 0.3]}, "by iterations": [error] * (1 if T == 1 else 16),
           "broken": None, "settled": None if T == 1 else {"iterations": 3.0, "error": error},
           "numbers": 10, "steps": 5, "skipped": 0, "each": 0.01}  # fmt: skip
    return own | more


def read(label, nats, seed=0):
    return {"part": BYTES, "label": label, "seed": seed, "quick": False, "failed": None, "nats": nats, "numbers": 9,
            "steps": 5, "each": 0.01}  # fmt: skip


def claim(rows, *parts):
    return next(each for each in claims(rows) if all(part in each.says for part in parts))


def figure(rows, *parts):
    found = claim(rows, *parts).found
    assert found is not None
    return found.mean


def test_every_contestant_has_a_cell_of_each_seed():
    names = [cell.name for cell in algoformer.cells(asked(seeds=2))]
    assert len(set(names)) == len(names) == 2 * (sum(len(each.contestants) for each in TRIALS.values()) + len(READERS))
    assert len(algoformer.cells(asked(quick=True))) == len(names) // 2


@pytest.mark.parametrize("part", TRIALS)
def test_what_is_called_equal_is_equal(part):
    algo = ADDED
    weights = {label: count(new_model(settings(part, label))) for label in TRIALS[part].contestants}
    unnormed = {weights[label] for label in weights if label not in {DEEP, LOOPED, NORMED}}
    assert len(unnormed) == 1
    assert weights[LOOPED] < 0.4 * weights[algo]
    shape = shape_of(settings(part, DEEP))
    own = shape_of(settings(part, algo))
    assert shape.layers == own.pre + own.iterations * own.loop + own.post
    same = {settings(part, label).training.steps for label in weights}
    assert len(same) == 1


def test_contestants_differ_in_what_they_are_named_for():
    shapes = {label: shape_of(settings(LINEAR, label)) for label in (ADDED, NONE, NORMED, CUT, LOOPED)}
    assert [shapes[label].inject for label in shapes] == ["add", "none", "add", "add", "from_zero"]
    assert [shapes[label].norm_in_loop for label in shapes] == [False, False, True, False, True]
    assert [settings(LINEAR, label).training.cut for label in shapes] == [False, False, False, True, False]
    assert shape_of(settings(REPRESENTATION, ADDED)).normalize == "linear(mean=true)"
    assert shapes[ADDED].normalize == "softmax"
    large = settings(LINEAR, ADDED, scale=True)
    assert (large.model.width, large.model.heads, large.pairs, large.loops) == (256, 8, 41, 20)


def test_decoders_have_the_weights_and_the_layers_that_they_are_named_for():
    found = {label: made(label, READING, 0) for label in READERS}
    assert count(found[ALGO]) == count(found[PLAIN]) == count(found[AS_LONG]) < count(found[DEEP])
    assert found[ALGO].shape.depth == found[DEEP].shape.depth == READING.runs


def test_a_plain_model_is_trained_for_as_many_seconds(monkeypatch):
    monkeypatch.setattr(algoformer_incontext, "ratio_of_seconds", lambda *_: 2.5)
    told = algoformer_incontext.run(nothing, part=REPRESENTATION, label=AS_LONG, seed=0, quick=True, scale=False)
    assert told["steps"] == 10


def test_loops_grow_in_a_short_run_as_in_the_whole():
    short = algoformer_incontext.lasting(settings(REPRESENTATION, ADDED), 20)
    whole = settings(REPRESENTATION, ADDED)
    assert [each.curriculum.loops and each.curriculum.loops.every for each in (short, whole)] == [1, 33]
    assert (short.training.steps, whole.training.steps) == (20, 500)


def test_medians_decide_who_learns_the_representation():
    rows = [row(REPRESENTATION, label, error, seed) for label, errors in
            ((ADDED, (0.01, 0.02, 0.5)), (PLAIN, (0.1, 0.2, 0.3)), (LOOPED, (0.03, 0.01, 0.02)))
            for seed, error in enumerate(errors)]  # fmt: skip
    assert claim(rows, "far below that of a plain model").verdict == "shown"
    assert figure(rows, "far below that of a plain model") == pytest.approx(0.1)
    assert claim(rows, "below the looped model's").verdict == "shown"
    assert claim(rows, "is at most 0.03").verdict == "shown"
    assert claim(rows, "the representation is learnt").verdict == "not shown"  # 0.5 in one seed
    assert claim(rows, "for as many seconds").verdict == "not measured"
    late = [*rows, *(row(REPRESENTATION, AS_LONG, 0.015, seed) for seed in range(3))]
    assert claim(late, "for as many seconds").verdict == "not shown"


def test_what_is_not_finite_is_the_worst():
    broken = {"last": {"error": None, "median": 0.1, "lost": 3}, "mean": None}
    rows = [row(REPRESENTATION, ADDED, 0.01, broken=9) | {"by iterations": [0.01] * 8 + [None] * 8},
            row(REPRESENTATION, PLAIN, 0.1) | broken]  # fmt: skip
    assert drift(rows[0]) == math.inf
    assert claim(rows, "leaves the range of numbers").verdict == "not shown"
    assert claim(rows, "far below that of a plain model").verdict == "not measured"
    assert (
        claim([rows[0] | broken, row(REPRESENTATION, PLAIN, 0.1)], "far below that of a plain model").verdict
        == "not shown"
    )
    assert middle([0.5, 1.0, math.inf]) == "1.0000 (0.5000 to not finite)"
    assert any("not finite" in cell for sheet in tables(rows) for line in sheet.rows for cell in line)
    assert all(each.figure is not None for each in drawings(rows))


def test_a_run_that_ended_nowhere_is_the_worst():
    ended = {"part": REPRESENTATION, "label": ADDED, "seed": 1, "quick": False, "failed": "the loss is not finite"}
    rows = [row(REPRESENTATION, ADDED, 0.01), ended, *(row(REPRESENTATION, PLAIN, 0.1, seed) for seed in (0, 1))]
    assert claim(rows, "far below that of a plain model").verdict == "not shown"
    assert claim(rows, "the representation is learnt").verdict == "not shown"
    assert claim(rows, "leaves the range of numbers").verdict == "not shown"
    assert "AlgoFormer, injection (1 more ended nowhere)" in [line[0] for line in tables(rows)[0].rows]
    assert all(each.figure is not None for each in drawings(rows))


def test_softmax_is_held_to_every_seed():
    rows = [row(LINEAR, label, error, seed) for seed in range(2)
            for label, error in ((ADDED, 0.2), (PLAIN, 0.3), (LOOPED, 0.25 - seed / 10), (CUT, 0.3))]  # fmt: skip
    assert claim(rows, "better than plain over all places").verdict == "shown"
    assert claim(rows, "better than looped at the last place").verdict == "not shown"
    assert claim(rows, "the full gradient", "over all places").verdict == "shown"
    assert claim(rows, "softmax: early exit", "saves iterations").verdict == "shown"
    assert claim(rows, "softmax: early exit costs").verdict == "shown"
    worse = [each | {"settled": {"iterations": 3.9, "error": 0.3}} for each in rows if each["label"] == ADDED]
    assert claim(worse, "softmax: early exit", "saves iterations").verdict == "not shown"
    assert claim(worse, "softmax: early exit costs").verdict == "not shown"


def test_drift_is_told_of_the_trained_iterations():
    grown = {"by iterations": [0.5, 0.3, 0.2, 0.1] + [0.1] * 11 + [0.2]}
    rows = [row(LINEAR, ADDED, 0.1) | grown, row(LINEAR, NONE, 0.1) | {"by iterations": [0.1] * 15 + [0.9]},
            row(LINEAR, NORMED, 0.1), row(LINEAR, LOOPED, 0.1)]  # fmt: skip
    assert figure(rows, "AlgoFormer with injection keeps its error") == pytest.approx(2)
    assert claim(rows, "AlgoFormer with injection keeps its error").verdict == "not shown"
    assert claim(rows, "the looped model keeps").verdict == "shown"
    assert figure(rows, "injection makes the drift smaller") == pytest.approx(2 / 9)
    assert figure(rows, "a norm in the loop") == pytest.approx(0.5)


def test_bytes_are_held_to_every_seed():
    rows = [read(label, nats + seed / 10, seed) for seed in range(3)
            for label, nats in ((PLAIN, 2.0), (ALGO, 1.9), (DEEP, 1.8), (AS_LONG, 1.9 + seed - 1))]  # fmt: skip
    found = [each.verdict for each in claims(rows)[-3:]]
    assert found == ["shown", "not shown", "not shown"]
    sheet = tables(rows)[-1]
    assert dict(zip(sheet.heads, sheet.rows[-1], strict=True))["beside plain"].startswith("0.905")


def test_nothing_known_is_nothing_told():
    assert {each.verdict for each in claims([])} == {"not measured"}
    assert tables([]) == []
    assert {each.figure for each in drawings([])} == {None}


def test_it_is_in_the_catalogue():
    told = next(each for each in papers() if each["paper"] == "algoformer")
    assert (told["arxiv"], told["replicate"]) == (algoformer.PAPER.arxiv, "lissome replicate algoformer")


def test_a_quick_look_proves_nothing_and_draws_the_page(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 5000)
    wanted = {(REPRESENTATION, ADDED), (LINEAR, CUT), (BYTES, ALGO)}
    few = [cell for cell in algoformer.cells(asked(quick=True, data=[str(text)]))
           if (cell.arguments["part"], cell.arguments["label"]) in wanted]  # fmt: skip
    monkeypatch.setitem(vars(replication.PAPERS["algoformer"]), "cells", lambda settings: few)
    told = replicate("algoformer", tmp_path / "run", quick=True, data=[text], progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    assert "A hidden representation: squared error" in (tmp_path / "run" / "index.html").read_text()
    assert (tmp_path / "run" / "figures" / "iterations.svg").is_file()
