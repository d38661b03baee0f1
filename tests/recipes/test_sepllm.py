"""The replication of SepLLM: what is run, what is counted, and claims that follow from figures alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.attention import Frame
from lissome.recipes import language_contest, replication, sepllm, sepllm_needle, sepllm_text
from lissome.recipes.catalogue import papers
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate
from lissome.recipes.sepllm_claims import claims
from lissome.recipes.sepllm_names import (
    CACHE,
    FIX,
    FREE,
    FULL,
    MASK,
    NEEDLE,
    QUICK,
    RANDOM,
    READERS,
    SEPLLM,
    STREAM,
    STREAMING,
    TEXT,
    TRAINED,
    TRAINING,
    Keeps,
    Sees,
)
from lissome.recipes.sepllm_report import drawings, tables
from lissome.recipes.sepllm_rules import ALIKE, at_equal_use, counting, held, mask, matched_cache, matched_mask, seen
from lissome.recipes.sepllm_rules import sizes as sizes_of
from lissome.recipes.sepllm_text import Marked

MARKED = Marked((0, 1), (5, 9), 7, 2 / 15)
KEEPS = Keeps(4, 16, 32, 96)


def nothing():
    return None


def asked(**more):
    return ReplicateSettings(paper="sepllm", **more)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A text of 210,000 characters: words drawn by chance, that commas and points end."""
    drawn = np.random.default_rng(0)
    words = ["".join(drawn.choice(list("abcdefghijklmnop"), 4)) for _ in range(300)]
    ends = np.where(drawn.random(42_000) < 0.15, drawn.choice([",", ".", ".\n"], 42_000), "")
    path = tmp_path_factory.mktemp("story") / "text.txt"
    path.write_text(" ".join(f"{words[k]}{end}" for k, end in zip(drawn.integers(0, 300, 42_000), ends, strict=True)))
    return str(path)


@pytest.fixture(scope="module")
def place(story, tmp_path_factory):
    """Where a text is prepared and one model is trained for a few steps."""
    found = tmp_path_factory.mktemp("kept")
    ran(found, TEXT, TEXT, data=[story])
    ran(found, TRAINING, FULL)
    return found


@pytest.fixture
def tokens():
    return torch.randint(15, (3, 200), generator=torch.Generator().manual_seed(0))


def ran(place, part, label, seed=0, **more):
    return sepllm.run(nothing, place, part=part, label=label, seed=seed, quick=True, scale=False, **more)


def row(part, label, nats, seed=0, **more):
    told = {"part": part, "label": label, "seed": seed, "quick": False, "failed": None, "nats": nats, "used": 50.0}
    told |= {"wanted": 50.0, "window": 32, "most": 90, "share": 0.3, "each": 1e-5, "tokens": 1000}
    return told | more


def streams(label, tenths, seed=0, **more):
    return row(STREAM, label, sum(tenths) / len(tenths), seed, tenths=tenths, **more)


def facts(label, accuracy, seed=0, **more):
    told = {"part": NEEDLE, "label": label, "seed": seed, "quick": False, "failed": None, "accuracy": accuracy}
    return told | {"used": 20.0, "wanted": 20.0, "window": 8, "reach": 14, "chance": 0.125} | more


def claim(rows, part):
    return next(each for each in claims(rows) if part in each.says)


def test_cells_follow_the_text_and_the_model_that_they_read():
    found = sepllm.cells(asked(seeds=2))
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    for cell in found:
        told = cell.arguments
        assert cell.after in {"", *names[: names.index(cell.name)]}
        wanted = {TEXT: "", NEEDLE: "", TRAINING: TEXT}
        assert cell.after == wanted.get(told["part"], f"training, full, seed {told['seed']}")
    assert len(found) == 1 + 2 * len(sepllm.cells(asked(quick=True))[1:])


def test_more_than_one_text_is_refused(story):
    with pytest.raises(UsageError, match="reads one text, and 2 came"):
        sepllm.cells(asked(data=[story, story]))


@pytest.mark.parametrize("label", [STREAMING, FIX, RANDOM])
def test_a_mask_shows_as_many_keys_as_separators_do(label, tokens):
    sees, used, wanted = matched_mask(label, MARKED, Sees(4, 16), tokens, 100)
    allowed = mask(label, MARKED, sees)(Frame.full(200, tokens=tokens))[:, 0, -100:]  # counted one by one
    assert used == pytest.approx(sum(allowed.flatten().tolist()) / (len(allowed) * 100))
    by_hand = [
        sum(j < 4 or t - j < 16 or int(line[j]) in MARKED.ids for j in range(t + 1))
        for line in tokens
        for t in range(100, 200)
    ]
    assert wanted == pytest.approx(sum(by_hand) / len(by_hand))
    assert abs(used / wanted - 1) < 0.03


@pytest.mark.parametrize("label", [STREAMING, FIX, RANDOM])
def test_a_cache_holds_as_many_keys_as_that_of_separators(label):
    tokens = torch.randint(15, (1, 4000), generator=torch.Generator().manual_seed(1))
    own, wanted = matched_cache(label, MARKED, KEEPS, tokens, 8, 4000)
    assert own["capacity"] == KEEPS.capacity
    assert own["separators_kept"] == (0 if label == STREAMING else KEEPS.separators)
    found = held(counting(label, MARKED, **own), tokens, 8, 4000)
    assert found == pytest.approx(wanted, rel=ALIKE)
    unmatched = held(counting(label, MARKED, **sizes_of(label, KEEPS)), tokens, 8, 4000)
    assert abs(found - wanted) <= abs(unmatched - wanted)


def test_the_window_of_equal_use_is_the_nearest():
    for wanted in (0.0, 5.4, 5.6, 99.0):
        best, found = at_equal_use(float, wanted, 40)
        assert best == found == min(range(1, 41), key=lambda n: abs(n - wanted))


def test_separators_and_drawn_ids_are_as_frequent(place):
    source = sepllm_text.read(place)
    marked = source.marked(0)
    assert all(set(source.vocabulary.decode([id])) <= set(" .,?!;:\n\t") for id in marked.ids)
    assert not set(marked.ids) & set(marked.drawn)
    assert float(np.isin(source.train, marked.drawn).mean()) == pytest.approx(marked.share, rel=0.02)
    assert marked.k == round(1 / marked.share)
    assert source.marked(1).drawn != marked.drawn


def test_a_text_whose_end_is_too_short_is_refused(tmp_path, story):
    with pytest.raises(UsageError, match="tokens to be held out; legal are"):
        sepllm_text.prepare(tmp_path, [story], dataclasses.replace(QUICK, characters=3_000, vocabulary=300))


def test_cells_want_the_model_that_they_read(tmp_path, story):
    ran(tmp_path, TEXT, TEXT, data=[story])
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        ran(tmp_path, STREAM, SEPLLM)


def test_what_is_measured_is_what_was_counted(place):
    for label in (SEPLLM, STREAMING):
        told = ran(place, FREE, label, mode=CACHE)
        assert told["used"] == pytest.approx(told["wanted"], rel=0.05)
        assert told["most"] <= QUICK.short.capacity
        assert 0 < told["nats"] < math.log(QUICK.vocabulary) + 0.5
    source = sepllm_text.read(place)
    far = ran(place, STREAM, SEPLLM)
    own = counting(SEPLLM, source.marked(0), **sizes_of(SEPLLM, QUICK.long))
    text = source.stream(QUICK)[:, :-1]
    assert far["used"] == pytest.approx(held(own, text, 32, text.shape[1]))
    assert len(far["tenths"]) == 10


def test_a_cache_with_room_for_all_reads_as_the_whole_text_is_read(place, monkeypatch):
    wide = dataclasses.replace(QUICK, short=Keeps(2, 6, 8, 4 * QUICK.length))
    monkeypatch.setattr(sepllm, "look_of", lambda *_: wide)
    assert ran(place, FREE, SEPLLM, mode=CACHE)["nats"] == pytest.approx(ran(place, FREE, FULL, mode=MASK)["nats"])


def test_a_mask_is_read_as_it_says(place):
    source = sepllm_text.read(place)
    told = ran(place, FREE, FIX, mode=MASK)
    rule = mask(FIX, source.marked(0), Sees(QUICK.mask.initial, told["window"]))
    assert told["used"] == pytest.approx(seen(rule, source.windows(QUICK)[:, :-1], QUICK.scored))
    assert told["nats"] != ran(place, FREE, FULL, mode=MASK)["nats"]


def test_a_mask_is_trained_with(place):
    told = ran(place, TRAINING, SEPLLM)
    assert told["steps"] == QUICK.sizes.steps
    assert told["nats"] != ran(place, FREE, SEPLLM, mode=MASK)["nats"]


def test_full_attention_is_told_beyond_its_length_and_within(place):
    told = ran(place, STREAM, FULL)
    assert [int(n) for n in told["beyond"]] == [64, 128, 256, 512]
    assert len(told["tenths"]) == 10
    assert told["tokens"] == QUICK.stream - QUICK.length // 2


def test_facts_lie_beyond_the_reach_of_windows_and_are_asked_for():
    own = sepllm_needle.needle(rows=64, seed=0)
    tokens, targets = sepllm_needle.drawn(own, 0)
    for line, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        due = [t for t, answer in enumerate(answers) if answer >= 0]
        assert len(due) == sepllm_needle.FACTS
        for t in due:
            key, value = (own.symbols[token] for token in (line[t], answers[t]))
            fact = line.index(own.symbols.index(f"{key}:{value}"))
            assert line[fact + 1] == sepllm_needle.DOT
            assert t - fact - 1 > sepllm_needle.GAP[0]
            assert fact >= sepllm_needle.MASK.initial
    marked = sepllm_needle.marked_of(tokens, 0)
    for label in (STREAMING, FIX):
        sees, used, wanted = matched_mask(label, marked, sepllm_needle.MASK, tokens, 7)
        assert sepllm_needle.SIZES.layers * (sees.near - 1) < sepllm_needle.GAP[0]
        assert used == pytest.approx(wanted, rel=0.04)


def test_facts_are_read_by_all_and_a_guess_is_an_eighth(tmp_path, monkeypatch):
    monkeypatch.setattr(language_contest, "QUICK", 2)
    told = ran(tmp_path, NEEDLE, FULL)
    assert set(told["free"]) == set(READERS)
    assert told["free"][FULL] == told["accuracy"]
    assert told["chance"] == 1 / 8


def test_the_best_at_equal_use_is_held_to_every_seed():
    rows = [row(FREE, label, nats, seed, mode=MASK) for seed in range(3)
            for label, nats in ((SEPLLM, 3.0), (STREAMING, 3.1 + seed / 100), (FIX, 3.05), (RANDOM, 3.2))]  # fmt: skip
    best = claim(rows, "by mask, SepLLM is the best")
    assert best.verdict == "shown"
    assert "below 1 in 3 of 3 seeds" in best.what
    assert claim(rows, "by mask, SepLLM is better than StreamingLLM").verdict == "shown"
    assert claim(rows, "by cache, SepLLM is the best").verdict == "not measured"
    worse = [*rows[:-2], row(FREE, FIX, 2.9, 2, mode=MASK), rows[-1]]
    found = claim(worse, "by mask, SepLLM is the best")
    assert (found.verdict, "below 1 in 2 of 3 seeds" in found.what) == ("not shown", True)
    assert claim(worse, "by mask, SepLLM is better than FixLLM").verdict == "not shown"


def test_who_uses_more_keys_counts_for_nothing():
    rows = [row(FREE, label, nats, mode=MASK) for label, nats in ((SEPLLM, 3.0), (FIX, 3.1), (RANDOM, 3.2))]
    fair = row(FREE, STREAMING, 3.1, mode=MASK, used=50.4)
    assert claim([*rows, fair], "by mask, SepLLM is the best").verdict == "shown"
    assert claim([*rows, fair | {"used": 51.0}], "by mask, SepLLM is the best").verdict == "not measured"


def test_streams_are_held_to_what_full_attention_pays_for_the_same_tokens():
    full = streams(FULL, [3.0, 2.8], beyond={"64": 3.0, "512": 4.0})
    assert claim([full], "full attention collapses").verdict == "shown"
    assert claim([full, streams(SEPLLM, [3.1, 2.9])], "stays level").verdict == "shown"
    assert claim([full, streams(SEPLLM, [3.1, 3.0])], "stays level").verdict == "not shown"
    flat = streams(FULL, [3.0, 2.8], beyond={"64": 3.0, "512": 3.1})
    assert claim([flat], "full attention collapses").verdict == "not shown"


def test_facts_have_to_be_recalled_in_every_seed():
    free = dict.fromkeys(READERS, 0.3)
    rows = [facts(FULL, 0.99, seed) | {"free": free, "free used": free} for seed in (0, 1)]
    rows += [facts(SEPLLM, 0.95 - seed / 2, seed) for seed in (0, 1)] + [facts(STREAMING, 0.13), facts(FIX, 0.4)]
    assert claim(rows, "full attention recalls").verdict == "shown"
    assert claim(rows, "it still does").verdict == "not shown"
    assert claim(rows, "separators carry").verdict == "not shown"
    assert claim(rows, "FixLLM's mask").verdict == "not measured"  # one of its seeds is missing
    assert claim([*rows, facts(FIX, 0.44, 1)], "FixLLM's mask").verdict == "shown"
    assert claim([*rows, facts(FIX, 0.9, 1)], "FixLLM's mask").verdict == "not shown"


def test_tables_and_figures_tell_what_is_there():
    rows = [row(FREE, label, nats, seed, mode=MASK) for seed in (0, 1)
            for label, nats in ((FULL, 2.9), (SEPLLM, 3.0), (STREAMING, 3.1 + seed / 100))]  # fmt: skip
    rows += [streams(FULL, [3.0] * 10, beyond={"64": 3.0, "512": 4.0}), streams(SEPLLM, [3.1] * 10)]
    rows += [facts(FULL, 0.99) | {"free": dict.fromkeys(READERS, 0.3), "free used": dict.fromkeys(READERS, 20.0)}]
    rows += [facts(SEPLLM, 0.95)]
    found = {sheet.title: sheet for sheet in tables(rows)}
    line = dict(zip(found["A text, by mask"].heads, found["A text, by mask"].rows[2], strict=True))
    assert line["nats above SepLLM"] == "+0.1050 (+0.1000 to +0.1100)"
    assert line["t"] == "+21.0"
    recalled = found["Facts beyond the window: accuracy"]
    assert [list(each[3:]) for each in recalled.rows[:3]] == [["0.300", "0.990"], ["0.300", "0.950"], ["0.300", "–"]]
    assert all(len(each) == len(sheet.heads) for sheet in found.values() for each in sheet.rows)
    assert all(each.figure is not None for each in drawings(rows))
    assert tables([]) == []
    assert {each.figure for each in drawings([])} == {None}


def test_it_is_in_the_catalogue():
    told = next(each for each in papers() if each["paper"] == "sepllm")
    assert (told["arxiv"], told["replicate"]) == (sepllm.PAPER.arxiv, "lissome replicate sepllm")


def test_a_quick_look_proves_nothing_and_draws_the_page(tmp_path, story, monkeypatch):
    wanted = (TEXT, f"{TRAINING}, {FULL}", f"{STREAM}, {SEPLLM}")
    few = [cell for cell in sepllm.cells(asked(quick=True, data=[story])) if cell.name.startswith(wanted)]
    monkeypatch.setitem(vars(replication.PAPERS["sepllm"]), "cells", lambda settings: few)
    told = replicate("sepllm", tmp_path / "run", quick=True, data=[story], progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    assert "A stream: perplexity of each tenth" in (tmp_path / "run" / "index.html").read_text()
    assert (tmp_path / "run" / "figures" / "stream.svg").is_file()
    assert set(TRAINED) < set(READERS)
