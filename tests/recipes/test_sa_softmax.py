"""Cells of the replication of SA-Softmax: bytes, the look-up, and the page."""

import json
import math

import numpy as np
import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.language import task
from lissome.recipes import (
    language_contest,
    replication,
    sa_softmax,
    sa_softmax_bytes,
    sa_softmax_lookup,
    sa_softmax_row,
)
from lissome.recipes.catalogue import papers
from lissome.recipes.language_contest import Sizes, decoder, swept
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate
from lissome.recipes.sa_softmax_lookup import saturate, sureness
from lissome.recipes.sa_softmax_names import (
    AS_LONG,
    BYTES,
    LENGTHS,
    LOOKUP,
    ORDINARY,
    POSITIONS,
    ROW,
    SATURATED,
    SGD,
    VARIANTS,
)
from tests.recipes.sa_cells import LONG, drawn, nothing


def asked(**more):
    return ReplicateSettings(paper="sa-softmax", **more)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(language_contest, "QUICK", 3)
    monkeypatch.setattr(language_contest, "STEPS", 2)
    monkeypatch.setattr(language_contest, "TURNS", 1)


def bytes_cell(place, text, label, seed=0):
    more = {"position": "Kerple", "length": 64, "large": False, "data": [text]}
    return sa_softmax.run(nothing, place, part=BYTES, label=label, seed=seed, quick=True, **more)


def test_cells_follow_those_whose_rate_they_take():
    found = sa_softmax.cells(asked(seeds=2))
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    for cell in found:
        told = cell.arguments
        assert cell.after in {"", *names[: names.index(cell.name)]}
        if told["label"].startswith(AS_LONG):
            assert cell.after == f"bytes, Kerple, 64, softmax, seed {told['seed']}"
        elif told["part"] != ROW and told["seed"]:
            assert cell.after == f"{cell.name.removesuffix(' 1')} 0"
    assert len(sa_softmax.cells(asked(quick=True))) * 2 == len(found)
    here = {cell.arguments["label"] for cell in found if cell.arguments["part"] == BYTES}
    assert here == {*VARIANTS, *(f"{AS_LONG}{label}" for label in VARIANTS if label != "softmax")}


def test_a_large_look_has_more_positions_and_lengths():
    small, large = (sa_softmax.cells(asked(seeds=1, scale=scale)) for scale in (False, True))
    more = [cell.arguments for cell in large if cell.name not in {each.name for each in small}]
    assert {(told["position"], told["length"]) for told in more} == {(p, n) for p in POSITIONS for n in LENGTHS}
    assert {told["label"] for told in more} == {"softmax", "V4", LONG}
    assert all(told["large"] for told in more)
    assert sa_softmax_bytes.LARGE.layers == 4
    assert max(LENGTHS) == 1024


def test_one_text_is_read(text):
    with pytest.raises(UsageError, match="^this replication reads one text, and 2 came; give --data once$"):
        sa_softmax.cells(asked(data=[text, text]))


@pytest.mark.parametrize("label", VARIANTS)
@pytest.mark.parametrize("position", POSITIONS)
def test_contestants_are_what_their_names_say(label, position):
    said = drawn(label, position, 0).recipes[1].explain()
    assert ("self_adjust" in said, "detach" in said) == (label != "softmax", "detached" in label)
    assert label == "softmax" or f"self_adjust({label[1]}" in said
    assert position == "NoPE" or position.lower() in said


def test_variants_of_a_seed_begin_with_the_same_numbers():
    one, other = (drawn(label, "Kerple", 3).state_dict() for label in ("softmax", "V4"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Ended:
    """What a run left: a loss on the rows held out."""

    def __init__(self, error):
        self.metrics = {"error": error}


def valley(best, seen):
    """Return an attempt whose loss is least at a rate."""

    def attempt(rate):
        seen.append(rate)
        return Ended(abs(math.log(rate / best))), None

    return attempt


@pytest.mark.parametrize(
    ("best", "wanted", "more"),
    [(1e-2, 1e-2, []), (3e-2, 3e-2, [9e-2]), (1.0, 0.27, [9e-2, 0.27]), (1e-3, 1e-3, [1e-3 / 3])],
)
def test_a_best_rate_at_an_end_is_gone_beyond(best, wanted, more):
    seen = []
    found, losses = swept((1e-3, 1e-2, 3e-2), valley(best, seen), 2)
    assert found is not None
    assert found.rate == pytest.approx(wanted)
    assert seen[3:] == pytest.approx(more)
    assert len(losses) == len(seen)


def test_a_sweep_passes_over_what_diverges():
    def attempt(rate):
        if rate > 0.02:
            raise RunError("the loss is not finite")
        return Ended(1 / rate), None

    found, losses = swept((1e-3, 1e-2, 3e-2), attempt, 2)
    assert found is not None
    assert found.rate == 1e-2
    assert set(losses) == {"0.001", "0.01"}
    assert swept((0.1,), attempt, 2) == (None, {})


def test_later_seeds_keep_the_rate_of_the_first(tmp_path):
    same = {"part": LOOKUP, "label": "V4", "optimizer": SGD, "start": SATURATED, "quick": True}
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        sa_softmax.run(nothing, tmp_path, seed=1, **same)
    first = sa_softmax.run(nothing, tmp_path, seed=0, **same)
    later = sa_softmax.run(nothing, tmp_path, seed=1, **same)
    assert first["rate"] == later["rate"] == sa_softmax_lookup.RATES[SGD][-1]
    assert first["loss"] != later["loss"]
    assert first["steps"] == 3
    assert json.loads(json.dumps(first)) == first


def test_softmax_that_diverged_at_all_rates_is_tried_at_them_again_for_the_seconds_of_another(
    tmp_path, text, monkeypatch
):
    def diverges(*_):
        raise RunError("the loss is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(language_contest, "train", diverges)
        assert bytes_cell(tmp_path, text, "softmax")["failed"] == "no rate ends at a finite loss"
    monkeypatch.setattr(sa_softmax_bytes, "ratio_of_seconds", lambda *_: 1.0)
    again = bytes_cell(tmp_path, text, LONG)
    assert again["failed"] is None
    assert again["rate"] == sa_softmax_bytes.SMALL.rates[-1]  # that of a quick look


def test_a_saturated_start_is_sure_and_an_ordinary_one_is_not(tmp_path):
    told = {
        start: sa_softmax.run(
            nothing, tmp_path, part=LOOKUP, label="softmax", optimizer=SGD, start=start, seed=0, quick=True
        )
        for start in (SATURATED, ORDINARY)
    }
    assert told[SATURATED]["sure"] >= sa_softmax_lookup.SURE
    assert told[SATURATED]["right"] < 0.25
    assert told[ORDINARY]["sure"] < 0.5


def test_sureness_reads_the_weights_of_the_pair_that_answers():
    own = task("lookup", which="recent", keys=2, values=16, train=(8, 8), test=(8,))
    tokens, targets = own.draw(torch.Generator().manual_seed(0), 4, 8)
    sizes = Sizes(layers=1, width=16, steps=1, rates=(), heads=2)
    model = decoder(sizes, own.size, 0, position="kerple")
    found = sa_softmax_lookup.weights(model, tokens)
    sure, right = [], []
    for n, t in (targets != -100).nonzero().tolist():
        key, value = own.symbols[tokens[n, t]], own.symbols[targets[n, t]]
        names = [own.symbols[token] for token in tokens[n].tolist()]
        for weight in found[n, :, t].tolist():
            by = {name: sum(w for w, other in zip(weight, names, strict=True) if other == name) for name in names}
            sure.append(max(by.values()))
            right.append(by[f"{key}:{value}"])
    told = sureness(model, tokens, targets)
    assert told == (pytest.approx(np.mean(sure), rel=1e-5), pytest.approx(np.mean(right), rel=1e-5))
    before = model.blocks[0].heads.qkv.weight.detach().clone()
    factor = saturate(model, tokens, targets)
    after = model.blocks[0].heads.qkv.weight
    torch.testing.assert_close(after[:32], factor * before[:32])
    torch.testing.assert_close(after[32:], before[32:])


def test_bytes_are_told_with_gradients_on_the_way(tmp_path, text):
    first = bytes_cell(tmp_path, text, "V4, detached")
    assert 0 < first["nats"] < math.log(256) + 0.5
    assert set(first["gradients"]) == {"step", "error", "scores/0", "scores/1", "layer/0", "layer/1"}
    assert first["gradients"]["step"] == [0, 1, 2, 3]
    again = bytes_cell(tmp_path, text, "V4, detached")
    assert again == first


def test_the_seconds_of_a_variant_are_given_to_softmax_at_its_own_rate(tmp_path, text, monkeypatch):
    short = bytes_cell(tmp_path, text, "softmax")
    monkeypatch.setattr(sa_softmax_bytes, "ratio_of_seconds", lambda *_: 2.4)
    longer = bytes_cell(tmp_path, text, LONG)
    assert (short["steps"], longer["steps"], longer["ratio"]) == (3, 7, 2.4)
    assert longer["rate"] == short["rate"]
    assert longer["numbers"] == short["numbers"]
    assert longer["nats"] != short["nats"]


def test_it_is_in_the_catalogue():
    told = next(each for each in papers() if each["paper"] == "sa-softmax")
    assert told["arxiv"] == sa_softmax.PAPER.arxiv
    assert told["replicate"] == "lissome replicate sa-softmax"


def test_a_quick_look_proves_nothing_and_draws_the_page(tmp_path, text, monkeypatch):
    few = [cell for cell in sa_softmax.cells(asked(quick=True, data=[text])) if cell.arguments["label"] == "V4"]
    monkeypatch.setitem(vars(replication.PAPERS["sa-softmax"]), "cells", lambda settings: few)
    monkeypatch.setattr(sa_softmax_row, "CAP", 20)
    out = tmp_path / "run"
    told = replicate("sa-softmax", out, quick=True, data=[text], progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    page = (out / "index.html").read_text()
    assert "Bytes, Kerple, 64: after as many steps" in page
    assert "One row: norm of the first gradient in the scores" in page
    assert (out / "figures" / "row.svg").is_file()
