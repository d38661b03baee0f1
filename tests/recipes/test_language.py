"""Recipes of language models: settings, what decays, texts that are kept, prompts, and figures."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lissome import report
from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Kerple, causal
from lissome.language import Bpe, Bytes
from lissome.models import PRESETS, Decoder, DecoderShape
from lissome.optim.machine import PRECISIONS
from lissome.optim.method import SCHEDULES
from lissome.optim.optimizers import assign
from lissome.recipes import compare, evaluate_language, generate_text, show, train_language
from lissome.recipes.language import settings as words
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.evaluate import bytes_of
from lissome.recipes.language.generate import prompt_ids
from lissome.recipes.language.network import method_of, new_model, shape_of
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.source import opened, prepare
from lissome.recipes.language.train import sentence_of
from lissome.recipes.settings import load
from lissome.report.drawing import palette
from lissome.report.language import heading
from lissome.report.language_curves import by_length
from lissome.report.language_files import Lengths

SMALL = {"model.layers": 1, "model.width": 16, "model.heads": 2, "scored": 64, "length": 16, "batch": 4}
SMALL |= {"training.steps": 4}
STAGES = {"model.position": "kerple", "model.refine": "dape(3)", "model.normalize": "self_adjust(4)"}


def asked(**given):
    """Return small settings; keys are dotted, with `__` for a dot."""
    return load(LanguageSettings, given=SMALL | {key.replace("__", "."): value for key, value in given.items()})


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave out the page, which takes seconds."""
    monkeypatch.setattr(report, "language_page", lambda out: None)


@pytest.fixture
def text(tmp_path):
    place = tmp_path / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n" for i in range(120)))
    return str(place)


def test_the_words_of_settings_are_those_of_the_library():
    assert tuple(PRESETS) == words.PRESETS
    assert words.PRECISIONS == PRECISIONS
    assert words.SCHEDULES == SCHEDULES


def test_steps_are_usual_where_no_end_is_said():
    assert load(LanguageSettings, given={}).training.steps == words.STEPS
    assert load(LanguageSettings, given={"training.seconds": 5}).training.steps is None
    assert load(LanguageSettings, given={"training.seconds": 5, "training.steps": 7}).training.steps == 7


@pytest.mark.parametrize("stages", [{}, STAGES | {"model.tied": False}], ids=["plain", "all"])
def test_matrices_alone_decay(stages):
    settings = load(LanguageSettings, given=SMALL | stages)
    model = new_model(shape_of(settings, 256), 0)
    parameters = dict(model.named_parameters())
    method = method_of(settings, parameters)
    decayed = {
        name
        for group, names in zip(method.groups, assign(method, parameters), strict=True)
        for name in names
        if group.options["weight_decay"]
    }
    assert decayed == {name for name, p in parameters.items() if p.ndim == 2 and ".recipe." not in name}
    assert {"embedding.weight", "blocks.0.feed.up.weight"} <= decayed


def test_weights_are_drawn_by_the_seed_alone():
    before = torch.random.get_rng_state()
    one, other, third = (new_model(shape_of(asked(), 256), seed).embedding.weight for seed in (0, 0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.random.get_rng_state(), before)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_batch_in_parts_gives_the_losses_of_the_whole(text, tmp_path):
    for parts in (1, 4):
        train_language(asked(data=text, training__accumulate=parts), tmp_path / str(parts), progress=False)
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)


def test_half_precision_trains(text, tmp_path):
    found = train_language(asked(data=text, precision="bf16", device="cpu"), tmp_path / "run", progress=False)
    assert math.isfinite(found["validation_loss"])
    assert load_trained(tmp_path / "run").model.embedding.weight.dtype == torch.float32


def test_training_lowers_what_held_out_text_costs(text, tmp_path):
    found = train_language(asked(data=text, training__steps=60), tmp_path / "run", progress=False)
    assert found["bits_per_byte"] == pytest.approx(found["validation_loss"] / math.log(2))
    assert found["validation_loss"] < 0.8 * math.log(256)


def test_layers_that_differ_are_all_told(text, tmp_path):
    settings = asked(data=text, model__layers=3, model__validity="h(causal & window(8))", training__steps=1)
    summary = train_language(settings, tmp_path / "run", progress=False)
    assert summary is not None
    assert summary["stages"] == "causal; rotary; softmax / causal & window(8); rotary; softmax"


def test_a_body_is_named_wherever_a_run_is_described(text, tmp_path):
    settings = asked(data=text, model__layers=3, model__body="algoformer(2)", training__steps=1)
    summary = train_language(settings, tmp_path / "run", progress=False)
    assert summary is not None
    assert summary["stages"] == "algoformer(2); causal; rotary; softmax"
    assert heading(summary) == "Language model: algoformer(2); causal; rotary; softmax"
    (tmp_path / "run" / "summary.json").unlink()  # as in progress
    assert show(tmp_path / "run")[0]["stages"] == "algoformer(2); causal; rotary; softmax"
    plain = asked(data=text, model__layers=3, training__steps=1)
    train_language(plain, tmp_path / "plain", progress=False)
    rows = compare([tmp_path / "run", tmp_path / "plain"], tmp_path / "both")
    assert [row["label"] for row in rows] == ["algoformer(2)", "plain"]


@pytest.mark.parametrize("refined", [0, 1])
def test_a_window_takes_the_memory_of_the_layer_that_holds_most(refined):
    shape = DecoderShape(vocabulary=256, layers=2, width=32, heads=4)
    mixed = Decoder(shape, lambda layer: Attention(causal, Kerple(4), Dape(4) if layer == refined else None))
    whole = Decoder(shape, lambda layer: Attention(causal, Kerple(4), Dape(4)))
    plain = Decoder(shape, lambda layer: Attention(causal, Kerple(4)))
    assert bytes_of(mixed, 64, 1) == bytes_of(whole, 64, 1) > bytes_of(plain, 64, 1)


def test_a_length_costs_what_its_windows_cost(text, tmp_path):
    train_language(asked(data=text), tmp_path / "run", progress=False)
    found = evaluate_language(tmp_path / "run", [16], windows=3, scored=4, device="cpu")
    (row,) = found["rows"]
    held = opened(tmp_path / "run").tokens.ids[-math.ceil(0.1 * opened(tmp_path / "run").tokens.count) :]
    model, costs = load_trained(tmp_path / "run").model, []
    for end in (16, (16 + len(held) - 1) // 2, len(held) - 1):
        window = torch.from_numpy(held[end - 16 : end + 1].astype("int64"))
        with torch.no_grad():
            logs = model(window[None, :-1])[0].log_softmax(-1)
        costs += [-float(logs[place, window[place + 1]]) for place in range(12, 16)]
    assert row["nats"] == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    assert row["bits_per_byte"] == pytest.approx(row["nats"] / math.log(2))


def test_a_byte_costs_the_same_in_training_and_by_length_of_the_same_windows(text, tmp_path):
    settings = asked(data=text, vocabulary="bpe", vocabulary_size=270, scored=1 << 20)
    found = train_language(settings, tmp_path / "run", progress=False)
    source = opened(tmp_path / "run")
    held = source.tokens.ids[-math.ceil(0.1 * source.tokens.count) :]

    def size(parts):
        """Return the bytes of the text of some tokens; the end of a document has none."""
        return sum(len(source.vocabulary.decode(part[part != source.vocabulary.end]).encode()) for part in parts)

    many = (len(held) - 1) // 16
    starts = torch.linspace(0, len(held) - 17, many, dtype=torch.float64).long().tolist()
    bits = found["validation_loss"] * many * 16 / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / size(held[start + 1 : start + 17] for start in starts))
    (row,) = evaluate_language(tmp_path / "run", [16], windows=many, scored=16, device="cpu")["rows"]
    assert (row["windows"], row["scored"]) == (many, 16)
    assert row["nats"] == pytest.approx(found["validation_loss"], rel=1e-5)
    assert row["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-5)
    (few,) = evaluate_language(tmp_path / "run", [16], windows=2, scored=8, device="cpu")["rows"]
    bits = few["nats"] * 16 / math.log(2)
    assert few["bits_per_byte"] == pytest.approx(bits / size(held[end - 7 : end + 1] for end in (16, len(held) - 1)))


def test_what_is_written_is_read_aloud_on_the_way(text, tmp_path):
    train_language(asked(data=text), tmp_path / "run", progress=False)
    pieces = []
    found = generate_text(tmp_path / "run", "the sum", tokens=20, on_piece=pieces.append)
    assert found["text"].startswith("".join(pieces))
    assert found["tokens"] == 20
    few = []
    stopped = generate_text(tmp_path / "run", "the sum", tokens=20, on_piece=lambda piece: few.append(piece) or True)
    assert len(few) == 1
    assert stopped["tokens"] < 20


def test_pieces_are_the_text_to_its_last_character(text, tmp_path):
    """A model that knows nothing writes bytes that are no text: some of these end in the middle of a character."""
    train_language(asked(data=text), tmp_path / "run", progress=False)
    ends = set[str]()
    for seed in range(12):
        pieces = list[str]()
        run = tmp_path / "run"
        found = generate_text(run, "the", tokens=3, temperature=5, seed=seed, on_piece=pieces.append)
        assert "".join(pieces) == found["text"]
        ends.add(found["text"][-1:])
    assert "\ufffd" in ends


def test_tokens_are_written_once_and_mended(text, tmp_path):
    out, settings = tmp_path / "run", asked(data=text)
    prepare(out, settings)
    first = opened(out)
    assert bytes(first.tokens.ids) == Path(text).read_bytes()
    prepare(out, settings, resume=True)
    first.tokens.path.unlink()
    with pytest.raises(UsageError, match="there is no file of tokens"):
        opened(out)
    prepare(out, settings, resume=True)
    assert opened(out).tokens.digest == first.tokens.digest
    assert not list(out.glob("*.new*"))


def lettered(lower=False):
    """Return a vocabulary of the letters a to z and an unknown one, not over bytes."""
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz?")}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    if lower:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        )
    return Bpe(tokenizer)


def test_characters_that_a_vocabulary_lacks_are_named():
    assert prompt_ids(lettered(), "abc").tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="the vocabulary has no token for 'A' of the prompt"):
        prompt_ids(lettered(), "bAd")
    with pytest.raises(UsageError, match="no token for 'é'"):
        prompt_ids(lettered(), "né")
    assert prompt_ids(lettered(lower=True), "Né").tolist() == [13, 4]
    assert prompt_ids(Bytes(), "né").tolist() == [110, 195, 169]
    with pytest.raises(UsageError, match="makes no token of the prompt"):
        prompt_ids(lettered(), "  ")


def test_an_empty_prompt_needs_a_token_that_begins_a_text():
    bpe = Bpe.train(["a text"], 258)
    assert prompt_ids(bpe, "").tolist() == [bpe.end]
    with pytest.raises(UsageError, match="the prompt is empty"):
        prompt_ids(Bytes(), "")


def test_a_curve_of_one_short_length_is_drawn_beside_the_training_length(tmp_path):
    one = np.array([1.0])
    lengths = Lengths(64, "a text", 6, one, 250 * one, 240 * one, 260 * one)
    drawn = by_length([("run", lengths)], palette([("run", "svd")]))
    low, high = drawn.axes[0].get_xlim()
    assert low < 1 < 64 < high
    drawn.savefig(tmp_path / "drawn.svg")  # a layout without room warns


def test_a_sentence_to_look_at_is_never_empty():
    assert sentence_of("\n\n") == "\n\n"
    assert sentence_of("  short\n") == "short"
    assert len(sentence_of("x" * 500)) == 48
