"""The maps of one sentence are the stages of the model's own pass, and the bias by distance is its formula."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lissome._errors import UsageError
from lissome.attention import Frame
from lissome.attention.bias import slopes
from lissome.language import Bytes
from lissome.recipes.language.maps import HEADS, LAYERS, TOKENS, distances, observe
from lissome.recipes.language.separators import separators
from tests.recipes.decoders import SENTENCE, WORDS, decoder, seen


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
    maps = load_file(tmp_path / "maps.safetensors")
    assert maps["layers/1/correction"].abs().max() < 1e-6 * maps["layers/1/scores"].abs().max()  # but for rounding


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
