"""What a run lets its tokens see: words become rules, and rules are trained on as the obvious way would."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from lissome import report
from lissome._errors import UsageError
from lissome.attention import Frame, attend
from lissome.attention.backends import compact
from lissome.attention.notation import by_layer
from lissome.bridges.separators import separator_ids
from lissome.language import Bytes
from lissome.models import Decoder, DecoderShape, decoder
from lissome.models.generation import generate
from lissome.recipes import evaluate_language, export_language, generate_text, train_language
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.network import shape_of
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.sight import sight
from lissome.recipes.language.visible import asked_ids, resolved
from lissome.recipes.settings import load
from tests.oracles import separators as oracle
from tests.recipes.decoders import WORDS

SMALL = {"model.layers": 2, "model.width": 16, "model.heads": 2, "scored": 64, "length": 48, "batch": 4}
SMALL |= {"training.steps": 3, "model.visible": "separators(initial=2, near=6)"}
IDS = (10, 46)


def asked(**given):
    return load(LanguageSettings, given=SMALL | {key.replace("__", "."): value for key, value in given.items()})


def rule(visible, validity="causal", layers=2):
    return resolved(visible, validity, layers=layers, length=128, ids=IDS)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave out the page, which takes seconds."""
    monkeypatch.setattr(report, "language_page", lambda out: None)


@pytest.mark.parametrize(
    ("visible", "validity", "found"),
    [
        ("all", "causal", "causal"),
        ("all", "causal & window(9)", "causal & window(9)"),
        ("all", "h(causal & window(9))", "h(causal & window(9))"),
        ("separators", "causal", "causal & (sinks(4) | separators(10, 46) | window(64))"),
        ("separators(initial=1, near=8)", "causal", "causal & (sinks(1) | separators(10, 46) | window(8))"),
        ("sinks(near=32)", "causal", "causal & (sinks(4) | window(32))"),
        ("fixed(5)", "causal", "causal & (sinks(4) | every_kth(5) | window(64))"),
        ("fixed", "causal", "causal & (sinks(4) | every_kth(8) | window(64))"),
        (" h( sinks ) ", "causal", "causal, causal & (sinks(4) | window(64))"),
        ("sinks", "causal & window(99)", "causal & window(99) & (causal & (sinks(4) | window(64)))"),
        ("h(sinks)", "causal & window(99), causal", "causal & window(99), causal & (sinks(4) | window(64))"),
    ],
)
def test_words_become_the_rules_of_layers(visible, validity, found):
    assert rule(visible, validity) == found


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ("sinks(initial=120, near=8)", "hides none of the 128 tokens"),
        ("fixed(1)", "hides none of the 128 tokens"),
        ("ht(h(sinks))", "h, ht and hmt stand around one of all, separators, sinks and fixed"),
        ("hh(sinks)", "legal are: all, separators, sinks, fixed, h, ht, hmt"),
    ],
)
def test_words_that_hide_nothing_or_are_none_are_told(visible, said):
    with pytest.raises(UsageError, match=said):
        rule(visible)
    assert rule("sinks(initial=119, near=8)")


def test_rules_let_a_token_see_what_a_slow_count_lets_it_see():
    tokens = torch.from_numpy(WORDS[:40].astype(np.int64))[None]
    (one, other) = by_layer(resolved("h(separators(near=5))", "causal", layers=2, length=40, ids=IDS), 2)
    past = torch.ones(40, 40, dtype=torch.bool).tril()
    slow = oracle.visible(tokens[0].tolist(), set(IDS), 4, 5)
    frame = Frame.full(40, tokens=tokens)
    assert torch.equal(one(frame)[0, 0], past)
    assert torch.equal(other(frame)[0, 0], torch.tensor(slow))


@pytest.mark.parametrize(
    ("visible", "sentence"),
    [
        ("seperators", "unknown visible 'seperators'; legal are: all, separators, sinks, fixed, h, ht, hmt (did"),
        ("ht(sink)", "unknown visible 'sink'"),
        ("separators(64)", "the visible 'separators(64)' is given wrongly; separators takes initial=4, near=64"),
        ("fixed(0)", "k of every_kth is 0; legal are whole numbers, 1 and more"),
        ("sinks(near=0)", "the window is 0"),
        ("sinks(initial=few)", "the number of sinks is 'few'"),
        ("sinks(near=128)", "has a window of 128, and the model sees 128 tokens in training, so that nothing would be"),
        ("separators(near=10**9)", "holds something that is no number"),
        ("separators & sinks", "cannot be read"),
        ("ht(sinks)", "visible 'ht(sinks)' lets all 2 layers see all, so that nothing would be hidden"),
        ("ht()", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_seen_is_a_sentence(visible, sentence):
    with pytest.raises(UsageError) as error:
        rule(visible)
    assert sentence in str(error.value)


def test_ids_are_those_of_the_vocabulary_and_asked_for_where_they_are_needed():
    assert asked_ids("h(separators)", Bytes()) == separator_ids(Bytes())
    assert asked_ids("fixed(8)", Bytes()) == ()

    class Letters:
        kind, size = "letters", 2

        def decode(self, ids):
            return "ab"[ids[0]]

    with pytest.raises(UsageError, match=r"the vocabulary \(letters\) has none of"):
        asked_ids("separators", Letters())
    assert "separators(0)" in shape_of(asked(), 256).validity
    assert "separators(9, 10, 33" in shape_of(asked(), 256, asked_ids("separators", Bytes())).validity


def test_sight_is_a_slow_count_and_the_work_of_its_way():
    shape = DecoderShape(
        vocabulary=256,
        layers=2,
        width=16,
        heads=2,
        validity="h(causal & (sinks(4) | separators(10, 46) | window(5)))",
    )
    told = sight(Decoder(shape), WORDS, 40, windows=1)
    every = 40 * 41 / 2
    seen = sum(map(sum, oracle.visible(WORDS[:40].tolist(), set(IDS), 4, 5)))
    assert [layer["seen"] for layer in told["layers"]] == pytest.approx([1, seen / every])
    assert told["seen"] == pytest.approx((1 + seen / every) / 2)
    assert [layer["computed"] for layer in told["layers"]] == pytest.approx([1, 40 * 40 / every])
    assert told["layers"][1]["way"] == "sdpa"
    assert "separators(2 ids)" in told["layers"][1]["stages"]


def test_work_falls_where_keys_are_gathered():
    shape = DecoderShape(vocabulary=256, layers=1, width=16, heads=2, validity=rule("separators(near=32)"))
    told = sight(Decoder(shape), np.tile(WORDS, 3), 1536, windows=1)
    assert told["layers"][0]["way"] == "compact"
    assert told["seen"] < told["computed"] < 0.5


def test_dropout_takes_a_way_that_has_it():
    shape = DecoderShape(vocabulary=256, layers=1, width=16, heads=2, validity=rule("separators(near=32)"), dropout=0.1)
    told = sight(Decoder(shape), np.tile(WORDS, 3), 1536, windows=1)
    assert told["layers"][0]["way"] == "sdpa"
    assert told["computed"] == pytest.approx(2, abs=1e-2)


def test_work_is_not_told_of_ways_with_a_refinement():
    model = Decoder(DecoderShape(vocabulary=256, layers=1, width=16, heads=2, position="kerple", refine="dape"))
    told = sight(model, np.tile(WORDS, 3), 512)
    assert (told["computed"], told["layers"][0]["way"]) == (None, "dape")


@pytest.fixture
def text(tmp_path):
    place = tmp_path / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n" for i in range(120)))
    return str(place)


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_on_gathered_keys_is_training_under_a_mask(text, tmp_path, monkeypatch):
    losses = []
    for way in ("compact", "naive"):
        monkeypatch.setattr(decoder, "attend", partial(attend, backend=way))
        train_language(asked(data=text, training__evaluate=1), tmp_path / way, progress=False)
        losses.append([row[key] for row in rows(tmp_path / way) for key in ("loss", "validation_loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][1]


def test_a_run_that_sees_separators_is_measured_writes_and_is_no_llama(text, tmp_path):
    out = tmp_path / "run"
    summary = train_language(asked(data=text, model__visible="h(separators(near=6))"), out, progress=False)
    assert summary["stages"].endswith("causal & (sinks(4) | separators(8 ids) | window(6)); rotary; softmax")
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"]["seen"] / summary["seconds"])
    model = load_trained(out).model
    told = [row["nats"] for row in evaluate_language(out, [16, 64], windows=2, scored=4, device="cpu")["rows"]]
    assert all(map(math.isfinite, told))
    ids = torch.tensor([list(b"line 7: the sum of 7, and 8")])
    written = generate(model, ids, 12, temperature=0)  # step by step, with a cache
    with torch.no_grad():
        logits = model(written)  # at once, without
    assert torch.equal(logits[0, -13:-1].argmax(-1), written[0, -12:])
    assert generate_text(out, "line 7: the sum", tokens=5)["tokens"] == 5
    with pytest.raises(UsageError, match=r"separators\(8 ids\) .*which no class of transformers has"):
        export_language(out, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.slow
def test_a_compiled_step_gathers_keys_too(text, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "attend", partial(attend, backend="compact"))
    plans, plan = [], compact.Plan

    def counted(*given):
        plans.append(given)
        return plan(*given)

    monkeypatch.setattr(compact, "Plan", counted)
    losses = []
    for compile in (False, True):
        out, before = tmp_path / str(compile), len(plans)
        summary = train_language(asked(data=text, training__compile=compile, model__layers=1), out, progress=False)
        assert summary["compiled"].startswith("compiled" if compile else "not asked for")
        assert len(plans) - before >= 3 * 4  # a plan a step and a text, at least
        losses.append([row["loss"] for row in rows(out)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
