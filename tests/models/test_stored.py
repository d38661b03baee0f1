"""A decoder on disk and back, bit for bit, and what is said of files that are not one."""

import json

import pytest
import safetensors.torch
import torch

from lissome._errors import LissomeError, UsageError
from lissome.attention import Attention, Dape, Kerple, causal, window
from lissome.models import Decoder, DecoderShape
from lissome.models.stored import SHAPE, WEIGHTS, filled, read_decoder, save_decoder
from tests.models.decoders import ALL, SMALL, decoder, drawn, every_kind


def own(layer):
    return Attention(causal & window(3 + layer), Kerple(4), Dape(4, kernel=3))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_read_is_what_was_saved(kind, dtype, tmp_path):
    model = decoder(**ALL[kind]).to(dtype).train()
    save_decoder(model, tmp_path / "new" / "place")
    again = read_decoder(tmp_path / "new" / "place")
    assert again.shape == model.shape
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
        assert again.state_dict()[name].dtype == dtype
        assert again.get_parameter(name).requires_grad
    assert torch.equal(again(drawn(2, 5)), model.eval()(drawn(2, 5)))
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == [WEIGHTS, SHAPE]


def test_own_stages_are_kept_by_their_weights(tmp_path):
    model = Decoder(DecoderShape(**SMALL), own).eval()
    save_decoder(model, tmp_path)
    assert torch.equal(read_decoder(tmp_path, own)(drawn(2, 5)), model(drawn(2, 5)))
    with pytest.raises(UsageError, match=r"of another network: it holds 'blocks.\d.heads.recipe."):
        read_decoder(tmp_path)


def test_layers_may_share_a_stage(tmp_path):
    def shared():
        bias = Kerple(4)
        return lambda layer: Attention(causal, bias)

    model = Decoder(DecoderShape(**SMALL), shared()).eval()
    save_decoder(model, tmp_path)
    again = read_decoder(tmp_path, shared())
    assert torch.equal(again(drawn(2, 5)), model(drawn(2, 5)))
    assert again.blocks[0].heads.recipe.bias is again.blocks[1].heads.recipe.bias


def test_saving_again_replaces(tmp_path):
    for layers in (1, 2):
        save_decoder(decoder(layers=layers), tmp_path)
        assert len(read_decoder(tmp_path).blocks) == layers


@pytest.fixture
def place(tmp_path):
    save_decoder(decoder(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [SHAPE, WEIGHTS])
def test_a_missing_file_is_named(place, name):
    (place / name).unlink()
    with pytest.raises(UsageError, match=f"{name}' is missing; a decoder is shape.json and model.safetensors"):
        read_decoder(place)


def test_a_directory_that_is_none_is_named(place):
    with pytest.raises(UsageError, match="nowhere/shape.json' is missing"):
        read_decoder(place / "nowhere")
    with pytest.raises(UsageError, match="cannot be read \\(Not a directory\\)"):
        read_decoder(place / SHAPE)
    with pytest.raises(LissomeError, match="cannot be written"):
        save_decoder(decoder(), place / SHAPE)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", ""),
        ("{", ""),
        ("[1]", r"shape.json is \[1\]; legal is an object with vocabulary, layers, "),
        ("{}", "shape.json lacks vocabulary, layers, width, heads$"),
        ('{"layers": 1}', "shape.json lacks vocabulary, width, heads$"),
        ("7", "shape.json is 7; legal is an object with vocabulary, layers, "),
        (
            '{"vocabulary": 17, "layers": 2, "width": 16, "heads": 4, "depth": 3}',
            "unknown size 'depth'; legal are: vocabulary, layers, ",
        ),
    ],
)
def test_a_damaged_shape_is_named(place, text, cause):
    (place / SHAPE).write_text(text)
    with pytest.raises(UsageError, match=f"^the decoder in '{place}' is damaged: {cause}"):
        read_decoder(place)


def test_arguments_of_another_kind_are_named(tmp_path):
    for call, sentence in (
        (lambda: read_decoder(3), "directory is 3; legal is the path of a directory"),
        (lambda: read_decoder(tmp_path, 3), "recipe is 3; legal is a function layer -> Attention, or None"),
        (lambda: save_decoder(3, tmp_path), "model is 3; legal is a Decoder"),
    ):
        with pytest.raises(UsageError) as told:
            call()
        assert str(told.value) == sentence


@pytest.mark.parametrize(("name", "value"), [("width", "16"), ("heads", 5), ("layers", 1.5), ("position", "rotery")])
def test_a_wrong_value_of_a_shape_is_named(place, name, value):
    told = json.loads((place / SHAPE).read_text()) | {name: value}
    (place / SHAPE).write_text(json.dumps(told))
    with pytest.raises(UsageError, match=f"^the decoder in '{place}' is damaged: .*{value}"):
        read_decoder(place)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_damaged_weights_are_named(place, length):
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes()[:length])
    with pytest.raises(UsageError, match=f"^the decoder in '{place}' is damaged: "):
        read_decoder(place)


def test_weights_of_another_model_are_named(place):
    weights = safetensors.torch.load_file(place / WEIGHTS)
    name = "blocks.1.feed.up.weight"
    lacking = {key: value for key, value in weights.items() if key != name}
    cases = {
        f"here is of another network: it lacks '{name}' of shape (48, 16)": lacking,
        "here is of another network: it holds 'more', which the network lacks": weights | {"more": torch.zeros(1)},
        f"here is of another network: '{name}' is torch.float32 of shape (3, 2) there and torch.float64 of shape "
        "(48, 16) in the network": weights | {name: torch.zeros(3, 2)},
    }
    for sentence, given in cases.items():
        model = decoder()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(UsageError) as told:
            filled(model, given, "here")
        assert str(told.value) == sentence
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
