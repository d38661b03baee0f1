"""A run that begins with the weights of another one."""

import json
import shutil

import pytest

from lissome import report
from lissome._errors import UsageError
from lissome.recipes import export_language, import_language, train_language
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.start import begin_with, check_start
from lissome.recipes.settings import load

SMALL = {"model.layers": 2, "model.width": 16, "model.heads": 2, "scored": 64, "length": 32, "batch": 4}
SMALL |= {"training.steps": 4, "training.evaluate": 1}
SEEN = "separators(near=8)"


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave out the page, which takes seconds."""
    monkeypatch.setattr(report, "language_page", lambda out: None)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n" for i in range(120)))
    return str(place)


def asked(**given):
    return load(LanguageSettings, given=SMALL | {key.replace("__", "."): value for key, value in given.items()})


@pytest.fixture(scope="module")
def full(text, tmp_path_factory):
    """A run of full attention, on pairs of bytes, that tests read and never change."""
    out = tmp_path_factory.mktemp("runs") / "full"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "language_page", lambda out: None)
        train_language(asked(data=text, vocabulary="bpe", vocabulary_size=270), out, progress=False)
    return out


def rows(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(out):
    return (out / "checkpoint" / "model.safetensors").read_bytes()


def test_it_begins_at_the_loss_and_with_the_vocabulary_of_the_other(full, text, tmp_path):
    summary = train_language(asked(data=text, start=str(full)), tmp_path / "run", progress=False)
    end = rows(full)[-1]["validation_loss"]
    assert summary["start"]["loss"] == rows(tmp_path / "run")[0]["validation_loss"] == end
    assert summary["start"] | {"loss": 0} == {"run": str(full), "steps": 4, "drawn": [], "left": [], "loss": 0}
    assert (tmp_path / "run" / "vocabulary.json").read_bytes() == (full / "vocabulary.json").read_bytes()
    assert summary["validation_loss"] < end


def test_with_fewer_keys_in_sight_it_begins_at_the_loss_of_the_same_weights_under_the_mask(full, text, tmp_path):
    out = tmp_path / "run"
    summary = train_language(asked(data=text, start=str(full), model__visible=SEEN), out, progress=False)
    model = load_trained(out).model
    begin_with(full, model)
    assert "separators(" in model.shape.validity
    again = tmp_path / "again"  # a run of that rule in full, of the weights as they are
    settings = asked(data=text, start=str(full), model__validity=model.shape.validity, training__steps=1)
    train_language(settings, again, progress=False)
    assert rows(again)[0]["validation_loss"] == summary["start"]["loss"] != rows(full)[-1]["validation_loss"]


def test_what_goes_on_has_the_same_bits_and_needs_the_other_no_more(full, text, tmp_path):
    start = shutil.copytree(full, tmp_path / "start")
    given = {"data": text, "start": str(start), "model__visible": SEEN, "training__schedule": "constant"}
    train_language(asked(**given), tmp_path / "whole", progress=False)
    train_language(asked(**given, training__steps=2), tmp_path / "cut", progress=False)
    shutil.rmtree(start)
    summary = train_language(asked(**given), tmp_path / "cut", resume=True, progress=False)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert summary["start"]["loss"] == rows(tmp_path / "whole")[0]["validation_loss"]


def test_weights_of_other_stages_are_drawn_or_left(full, text, tmp_path):
    staged = asked(data=text, start=str(full), model__position="kerple", model__refine="dape(3)")
    summary = train_language(staged, tmp_path / "staged", progress=False)
    drawn = summary["start"]["drawn"]
    assert drawn
    assert all(".recipe." in name for name in drawn)
    assert summary["start"]["left"] == []
    other = asked(data=text, start=str(tmp_path / "staged"), model__refine="dape", model__position="kerple")
    told = train_language(other, tmp_path / "other", progress=False)["start"]
    assert set(told["drawn"]) | set(told["left"]) < set(drawn)
    kept = {name for name in drawn if ".bias." in name}
    assert kept
    assert kept.isdisjoint(told["drawn"])


def test_an_imported_run_is_trained_on(text, tmp_path):
    plain, folder, back = (tmp_path / name for name in ("plain", "folder", "back"))
    train_language(asked(data=text), plain, progress=False)
    export_language(plain, folder)
    import_language(folder, back)
    told = train_language(asked(data=text, start=str(back)), tmp_path / "run", progress=False)["start"]
    assert told["loss"] == pytest.approx(rows(plain)[-1]["validation_loss"], rel=1e-5)
    assert told["steps"] is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"model.width": 32},
            "has width 16 where 32 is asked for, feed_width 48 where 80 is asked for",
        ),
        ({"model.layers": 1}, "need its sizes: --set model.layers=2"),
        ({"model.tied": False}, "--set model.tied=true"),
        ({"model.key_heads": 1}, "has key_heads 2 where 1 is asked for"),
        ({"vocabulary": "bpe"}, "and 'bpe' is asked for; leave it out"),
        ({"start": "nowhere"}, "there is no run directory"),
    ],
)
def test_a_run_that_does_not_fit_is_a_sentence_and_leaves_nothing(full, text, tmp_path, given, sentence):
    def train():
        settings = load(LanguageSettings, given=SMALL | {"data": text, "start": str(full)} | given)
        train_language(settings, tmp_path / "run", progress=False)

    with pytest.raises(UsageError) as error:
        train()
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_without_weights_is_a_sentence(full, tmp_path):
    start = shutil.copytree(full, tmp_path / "start")
    shutil.rmtree(start / "checkpoint")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        check_start(start, load_trained(full).model.shape)
