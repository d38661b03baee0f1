"""What a run of a language model keeps for its page, held to its formulas."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lissome._errors import UsageError
from lissome.attention import Frame, stages
from lissome.attention.bias import slopes
from lissome.language import Bytes, Text
from lissome.models import Decoder, DecoderShape
from lissome.optim import Budget, Group, Method, fit
from lissome.optim.journal import read
from lissome.recipes.language.gradients import Gradients
from lissome.recipes.language.maps import HEADS, LAYERS, TOKENS, distances, observe
from lissome.recipes.language.separators import CLASSES, LONGEST, is_separator, separators

SENTENCE = "Of a text, one line: is it read?\n"
WORDS = np.frombuffer(b"one, two; three words. And a line\nof more: is it so? It is! " * 12, np.uint8)


def decoder(seed=0, **named):
    torch.manual_seed(seed)
    sizes = {"vocabulary": 256, "layers": 2, "width": 16, "heads": 4, "length": 16, "position": "kerple"}
    model = Decoder(DecoderShape(**(sizes | named)))
    with torch.no_grad():  # as drawn, scores are near 0 and nothing could be told apart
        for block in model.blocks:
            block.heads.qkv.weight.mul_(20)
    return model


def seen(model, tokens):
    """Return the stages of each layer, by a hook on what its heads are given."""
    found, hooks = [], []
    for block in model.blocks:

        def look(heads, given):
            q, k, _ = heads.project(given[0], given[1])
            found.append(stages(q, k, given[1], heads.recipe))

        hooks.append(block.heads.register_forward_pre_hook(look))
    with torch.no_grad():
        model.eval()(tokens)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    "named",
    [
        {"refine": "dape(3)"},
        {"position": "rotary", "refine": "dape", "normalize": "self_adjust(4)"},
        {"position": "alibi", "validity": "causal & window(8)", "key_heads": 2},
        {"position": "fire", "normalize": "self_adjust(1)"},
    ],
)
def test_maps_are_the_stages_of_the_models_own_pass(tmp_path, named):
    model = decoder(**named)
    told = observe(model, Bytes(), SENTENCE, tmp_path)
    maps = load_file(tmp_path / "maps.safetensors")
    truth = seen(model, torch.tensor([list(SENTENCE.encode())]))
    assert told["pieces"] == list(SENTENCE)
    assert json.loads((tmp_path / "sentence.json").read_text()) == told
    for layer, each in enumerate(truth):
        for name in ("scores", "refined", "weights"):
            torch.testing.assert_close(maps[f"layers/{layer}/{name}"], getattr(each, name)[0])
        assert torch.equal(maps[f"layers/{layer}/valid"], each.valid[0, 0])
        assert (f"layers/{layer}/bias" in maps) == (each.bias is not None)
        assert (f"layers/{layer}/correction" in maps) == ("refine" in named)
        if "refine" in named:
            rest = maps[f"layers/{layer}/scores"] + maps.get(f"layers/{layer}/bias", 0)
            torch.testing.assert_close(rest + maps[f"layers/{layer}/correction"], each.refined[0])
            assert maps[f"layers/{layer}/correction"].abs().max() > 1e-3


def test_a_refinement_that_starts_at_zero_corrects_nothing(tmp_path):
    observe(decoder(refine="dape(3, zero_init=True)"), Bytes(), SENTENCE, tmp_path)
    assert load_file(tmp_path / "maps.safetensors")["layers/1/correction"].abs().max() < 1e-5


def test_the_bias_by_distance_is_the_formula_of_kerple(tmp_path):
    model = decoder()
    observe(model, Bytes(), SENTENCE, tmp_path)
    maps = load_file(tmp_path / "maps.safetensors")
    d = maps["distance"].double()
    assert d.tolist() == list(range(65))
    for layer, block in enumerate(model.blocks):
        bias = block.heads.recipe.bias
        p, a = (x.detach().double().clamp(min=0.01)[:, None] for x in (bias.p, bias.a))
        truth = -p * torch.log(1 + a * d)
        torch.testing.assert_close(maps[f"layers/{layer}/decay"].double(), truth, rtol=1e-5, atol=1e-6)
        assert f"layers/{layer}/near" not in maps


def test_the_bias_by_distance_is_the_line_of_alibi(tmp_path):
    observe(decoder(position="alibi"), Bytes(), SENTENCE, tmp_path, length=400)
    maps = load_file(tmp_path / "maps.safetensors")
    d = maps["distance"]
    assert {0, 32, 400, 1600} <= set(d.tolist())
    assert len(d) < 450
    torch.testing.assert_close(maps["layers/0/decay"], -torch.tensor(slopes(4))[:, None] * d)


def test_the_bias_of_fire_is_told_at_the_training_length_too(tmp_path):
    model = decoder(position="fire")
    observe(model, Bytes(), SENTENCE, tmp_path)
    maps = load_file(tmp_path / "maps.safetensors")
    for name, place in (("near", 16), ("decay", 64)):
        with torch.no_grad():
            rows = model.blocks[0].heads.recipe.bias(Frame.full(place + 1))[0, :, -1].flip(-1)  # (H, place + 1)
        torch.testing.assert_close(maps[f"layers/0/{name}"], rows)
    assert (maps["layers/0/near"] - maps["layers/0/decay"][:, :17]).abs().max() > 1e-3


def test_of_a_large_model_and_a_long_text_a_part_is_kept_and_said(tmp_path):
    model = decoder(layers=15, width=40, heads=20)
    told = observe(model, Bytes(), "a" * 100, tmp_path)
    maps = load_file(tmp_path / "maps.safetensors")
    assert (len(told["layers"]), len(told["heads"]), len(told["pieces"])) == (LAYERS, HEADS, TOKENS)
    assert told["layers"][0] == told["heads"][0] == 0
    assert (told["layers"][-1], told["heads"][-1], told["depth"], told["width"], told["cut"]) == (14, 19, 15, 20, 4)
    truth = seen(model, torch.full((1, TOKENS), ord("a")))
    for layer in told["layers"]:
        kept = maps[f"layers/{layer}/weights"]
        torch.testing.assert_close(kept, truth[layer].weights[0, told["heads"]])
    assert "layers/1/valid" not in maps or 1 in told["layers"]


def test_looking_leaves_the_model_as_it_was(tmp_path):
    model = decoder(dropout=0.5, refine="dape").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    observe(model, Bytes(), SENTENCE, tmp_path)
    first = (tmp_path / "maps.safetensors").read_bytes()
    separators(model, Bytes(), WORDS, length=30)
    observe(model, Bytes(), SENTENCE, tmp_path)
    assert (tmp_path / "maps.safetensors").read_bytes() == first  # without dropout
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("text", "size", "words"), [("", 256, "is empty"), ("ab", 98, "has id 98, and .* below 98")])
def test_a_sentence_that_cannot_be_read_is_refused(tmp_path, text, size, words):
    with pytest.raises(UsageError, match=words):
        observe(decoder(vocabulary=size), Bytes(), text, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [1, 7, 128, 5000])
def test_distances_reach_four_times_the_length_and_are_few(length):
    d = distances(length)
    assert (d[0], d[-1]) == (0, 4 * length)
    assert (d.diff() > 0).all()
    assert length in d
    assert len(d) < 450


def slowly(weights, valid, tokens):
    """Return the shares of one head's weights (T, T) and of its keys, class by class, pair by pair."""
    found, keys, rows = dict.fromkeys(CLASSES, 0.0), dict.fromkeys(CLASSES, 0.0), 0
    for i in range(20, len(tokens)):
        total = sum(abs(float(weights[i, j])) for j in range(len(tokens)))
        sees = sum(bool(valid[i, j]) for j in range(len(tokens)))
        rows += 1
        for j in range(i + 1):
            ends = chr(tokens[j]) in ".,?!;:\n\t"
            first, near = j < 4, i - j < 16
            classes = {"separators": ends, "first": j == 0, "first_4": first, "nearest_16": near}
            classes |= {"far_separators": ends and not first and not near}
            classes["rest"] = not (ends or first or near)
            for name, holds in classes.items():
                found[name] += holds * abs(float(weights[i, j])) / total
                keys[name] += holds * bool(valid[i, j]) / sees
    return {name: value / rows for name, value in found.items()}, {name: value / rows for name, value in keys.items()}


@pytest.mark.parametrize("normalize", ["softmax", "self_adjust(1)", "self_adjust(4)"])
def test_shares_of_attention_are_those_of_a_slow_count(normalize):
    model = decoder(normalize=normalize, refine="dape(3)").double()
    told = separators(model, Bytes(), WORDS, length=48, windows=1)
    (first, second) = seen(model, torch.tensor(WORDS[:48].astype(int))[None])
    for layer, each in enumerate((first, second)):
        for head in range(4):
            shares, keys = slowly(each.weights[0, head], each.valid[0, 0], WORDS[:48])
            for name in CLASSES:
                assert told["attention"][name][layer][head] == pytest.approx(shares[name], abs=1e-9)
                assert told["keys"][name] == pytest.approx(keys[name], abs=1e-12)
        sums = each.weights[0, :, 20:].sum(-1).mean(-1)
        assert told["row_sum"][layer] == pytest.approx(sums.tolist())
    assert (told["rows"], told["windows"], told["length"]) == (28, 1, 48)


@pytest.mark.parametrize("normalize", ["softmax", "self_adjust(4)"])
def test_parts_sum_to_one(normalize):
    told = separators(decoder(normalize=normalize), Bytes(), WORDS, length=64)
    for source in (told["attention"], {name: [[value]] for name, value in told["keys"].items()}):
        parts = sum(np.array(source[name]) for name in ("first_4", "nearest_16", "far_separators", "rest"))
        assert parts == pytest.approx(np.ones_like(parts))
        assert (np.array(source["separators"]) >= np.array(source["far_separators"])).all()
    assert np.allclose(told["row_sum"], 1) == (normalize == "softmax")
    assert told["windows"] == len(WORDS) // 64


def test_attention_that_is_even_falls_on_separators_as_often_as_there_are():
    model = decoder(position="none")
    with torch.no_grad():
        for block in model.blocks:
            block.heads.qkv.weight.zero_()
    told = separators(model, Bytes(), WORDS, length=40)
    for name in CLASSES:
        assert np.array(told["attention"][name]) == pytest.approx(np.full((2, 4), told["keys"][name]), abs=1e-6)
    assert told["kinds"] == sorted(",;.\n:?!")


def test_shares_are_written_where_they_are_asked_for_and_short_texts_are_refused(tmp_path):
    told = separators(decoder(), Bytes(), torch.from_numpy(WORDS.copy()), length=30, out=tmp_path)
    assert json.loads((tmp_path / "separators.json").read_text()) == told
    with pytest.raises(UsageError, match="20 tokens are too few to look for separators; legal are 21 and more"):
        separators(decoder(), Bytes(), WORDS[:20], length=64)
    assert separators(decoder(), Bytes(), np.tile(WORDS, 3), length=5000)["length"] == LONGEST


def test_separators_are_told_by_their_text_alone():
    assert [text for text in (" ,", ".\n", "\t\t", ";", "::", "a.", " ", "", '"') if is_separator(text)] == [
        " ,",
        ".\n",
        "\t\t",
        ";",
    ]


def trained(out, steps, *, clip=None, every=2, resume=False, watcher=None, **named):
    model = decoder(**named)
    text = Text(WORDS[:500], WORDS[500:], length=16, scored=32)
    method = Method((Group(optimizer="adamw", lr=1e-2),), points=4, resample_every=1, clip=clip)
    more = {"directory": out, "evaluate_every": 1, "checkpoint_every": 3, "resume": resume, "progress": False}
    fit(model, text, method, Budget(steps=steps), on_step=watcher or Gradients(out, every), **more)
    return model


def test_norms_are_those_of_the_gradient_of_the_step(tmp_path):
    class Both(Gradients):
        def __call__(self, step, model):
            super().__call__(step, model)
            kept.append({name: p.grad.double().norm().item() for name, p in model.named_parameters()})

    kept = []
    model = trained(tmp_path, 4, refine="dape(3)", watcher=Both(tmp_path, every=1))
    rows = read(tmp_path / "gradients.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, norms in zip(rows, kept, strict=True):
        for layer in range(2):
            own = {name: norm for name, norm in norms.items() if name.startswith(f"blocks.{layer}.")}
            for key, inside in (("layers", False), ("stages", True)):
                part = [norm for name, norm in own.items() if (".recipe." in name) == inside]
                assert part
                assert row[key][layer] == pytest.approx(math.hypot(*part), rel=1e-5)
        assert row["embedding"] == pytest.approx(norms["embedding.weight"], rel=1e-5)
        assert row["rest"] == pytest.approx(norms["norm.weight"], rel=1e-5)
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"blocks", "embedding", "norm"}


def test_a_gradient_that_was_clipped_counts_as_it_was_after(tmp_path):
    trained(tmp_path, 4, clip=1e-2, every=1)
    before = {row["step"]: row["gradient_norm"] for row in read(tmp_path / "metrics.jsonl")[1:]}
    for row in read(tmp_path / "gradients.jsonl"):
        assert before[row["step"]] > 0.1
        assert math.hypot(*row["layers"], *row["stages"], row["embedding"], row["rest"]) == pytest.approx(
            1e-2, rel=1e-3
        )


def test_without_stages_that_learn_their_norms_are_null(tmp_path):
    trained(tmp_path, 2, position="rotary")
    (row,) = read(tmp_path / "gradients.jsonl")
    assert row["stages"] == [None, None]
    assert all(value > 0 for value in (*row["layers"], row["embedding"], row["rest"]))


def test_a_resumed_run_has_the_rows_of_a_run_in_one_go(tmp_path):
    trained(tmp_path / "whole", 8)
    trained(tmp_path / "parts", 7)
    with (tmp_path / "parts" / "gradients.jsonl").open(
        "a"
    ) as file:  # of steps behind the checkpoint, and one cut short
        file.write('{"step": 8, "embedding": 7}\n{"step": 9')
    trained(tmp_path / "parts", 8, resume=True)
    one, two = ((tmp_path / name / "gradients.jsonl").read_text() for name in ("whole", "parts"))
    assert one == two
    assert [json.loads(line)["step"] for line in one.splitlines()] == [2, 4, 6, 8]


def test_a_new_run_drops_the_rows_of_an_old_one(tmp_path):
    (tmp_path / "gradients.jsonl").write_text('{"step": 1}\n')
    trained(tmp_path, 2)
    assert [row["step"] for row in read(tmp_path / "gradients.jsonl")] == [2]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, monkeypatch):
    watcher, model = Gradients(tmp_path, every=1), decoder()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    watcher.begin(0, model, [])
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    watcher(1, model)
    assert not list(tmp_path.iterdir())


def test_a_watcher_that_would_never_look_is_refused(tmp_path):
    with pytest.raises(UsageError, match="every is 0; legal are whole numbers of at least 1"):
        Gradients(tmp_path, every=0)
