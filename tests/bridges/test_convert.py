"""A decoder and a model of transformers are one function: by stock classes in float32, by an oracle in float64."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from lissome._errors import UsageError
from lissome.bridges import layout, llama, tokenizer
from lissome.language import Bpe, Bytes
from lissome.models import Decoder, DecoderShape
from lissome.models.decoder import EPS
from lissome.models.stored import filled
from tests.oracles import llama as oracle

SIZES = dict(vocabulary=40, layers=2, width=16, heads=4, length=32)
SHAPES = {
    "plain": {},
    "grouped": {"key_heads": 2},
    "one key head": {"key_heads": 1, "tied": False},
    "untied": {"tied": False, "feed_width": 20},
    "another base": {"position": "rotary(base=500000)"},
    "window": {"validity": "causal & window(5)", "key_heads": 2},
    "window first": {"validity": "window(5) & causal", "tied": False},
    "gelu": {"feed": "gelu", "key_heads": 2},
    "layer by layer alike": {"validity": "causal & window(5), window(5) & causal"},
}
THEIRS = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "llama eps": (LlamaForCausalLM, LlamaConfig, {"rms_norm_eps": EPS}),
    "llama wide eps": (LlamaForCausalLM, LlamaConfig, {"rms_norm_eps": 1e-3, "tie_word_embeddings": True}),
    "llama base": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 5}),
    "mistral whole": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "arcee": (ArceeForCausalLM, ArceeConfig, {"hidden_act": "gelu"}),
}


def stirred(module, seed=3, size=0.25):
    """Give a module weights that are no fresh start: norms other than 1, an embedding so small that eps counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
            if weight.ndim == 1:
                weight += 1
            if "embed" in name:
                weight *= 0.1
    return module.eval()


def tokens(count=14):
    return torch.randint(0, 40, (2, count), generator=torch.Generator().manual_seed(5))


def written(model, place):
    """Write a decoder as a folder; return its config and weights."""
    config = llama.config_of(model.shape, model.recipes, eps=EPS, end=None, dtype=model.embedding.weight.dtype)
    weights = layout.outward(model.state_dict(), model.shape)
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return config, weights


def taken(config, weights, dtype=torch.float32):
    shape = DecoderShape(**llama.sizes_of(config))
    weights = {name: value.to(dtype) for name, value in weights.items()}
    return filled(Decoder(shape), layout.inward(weights, shape, eps=llama.eps_of(config), own=EPS, source="it"), "it")


@pytest.mark.parametrize("name", SHAPES)
def test_a_decoder_is_a_stock_model_of_transformers(name, tmp_path):
    model = stirred(Decoder(DecoderShape(**SIZES | SHAPES[name])))
    config, _ = written(model, tmp_path / "folder")
    theirs, told = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(told.values())
    assert type(theirs).__name__ == config["architectures"][0]
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        ours = model(tokens())
        torch.testing.assert_close(ours, theirs(tokens()).logits, atol=1e-5, rtol=0)
    assert ours.abs().max() > 0.1


@pytest.mark.parametrize("name", SHAPES)
def test_in_double_precision_it_is_the_oracle(name, tmp_path):
    model = stirred(Decoder(DecoderShape(**SIZES | SHAPES[name])).double())
    config, weights = written(model, tmp_path / "folder")
    assert config["dtype"] == "float64"
    with torch.no_grad():
        ours = model(tokens())[0]
    torch.testing.assert_close(ours, oracle.logits(config, weights, tokens()[0]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_stock_model_is_a_decoder(name):
    make, settings, more = MODELS[name]
    theirs = stirred(make(settings(**THEIRS | more)))
    config = json.loads(theirs.config.to_json_string())
    weights = {key: value for key, value in theirs.state_dict().items()}
    model = taken(config, weights)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=0)
        double = taken(config, weights, torch.float64)(tokens())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double[0], oracle.logits(config, weights, tokens()[0]), atol=1e-10, rtol=0)


def test_the_eps_of_the_norms_counts_in_these_tests():
    theirs = stirred(LlamaForCausalLM(LlamaConfig(**THEIRS)))
    config = json.loads(theirs.config.to_json_string())
    with torch.no_grad():
        found = taken(config | {"rms_norm_eps": EPS}, theirs.state_dict())(tokens())
        assert (found - theirs(tokens()).logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_is_the_same_to_the_last_bit(name, tmp_path):
    model = stirred(Decoder(DecoderShape(**SIZES | SHAPES[name])))
    back = taken(*written(model, tmp_path / "folder"))
    assert back.recipes[0].explain().split("; ")[1:] == model.recipes[0].explain().split("; ")[1:]
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)


def test_half_precision_is_read_without_loss():
    theirs = stirred(LlamaForCausalLM(LlamaConfig(**THEIRS)))
    half = {name: value.bfloat16() for name, value in theirs.state_dict().items()}
    model = taken(json.loads(theirs.config.to_json_string()), half, torch.bfloat16)
    assert model.embedding.weight.dtype == torch.float32
    theirs.load_state_dict(half)  # in single precision
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=0)


def test_folders_of_old_are_read_too():
    old = THEIRS | {"model_type": "llama", "rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "float16"}
    assert llama.sizes_of(old)["position"] == "rotary(base=1000000)"
    theirs = stirred(LlamaForCausalLM(LlamaConfig(**THEIRS, tie_word_embeddings=True)))
    weights = theirs.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    taken(json.loads(theirs.config.to_json_string()), weights)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"position": "kerple"}, "position is 'kerple'.*lissome.bridges.transformers.attach"),
        ({"position": "alibi"}, "position is 'alibi'"),
        ({"position": "none"}, "position is 'none'.*legal is rotary"),
        ({"refine": "dape(3)"}, r"refine is 'dape\(3\)'"),
        ({"normalize": "self_adjust(4)"}, r"normalize is 'self_adjust\(4\)'.*legal is softmax"),
        ({"validity": "causal & every_kth(2)"}, r"validity is 'causal & every_kth\(2\)'"),
        ({"validity": "causal & window(4)", "feed": "gelu"}, "feed 'gelu' with validity"),
        (
            {"validity": "h(causal & window(8))"},
            r"differ .*'causal; rotary; softmax' and 'causal & window\(8\); rotary; softmax', .*one validity for all",
        ),
        ({"validity": "causal & window(8), causal & window(9)"}, r"layers differ in their attention"),
        ({"validity": "causal, causal & sinks(2)"}, r"validity is 'causal & sinks\(2\)'"),
    ],
)
def test_parts_that_transformers_has_not_are_named(parts, says):
    model = Decoder(DecoderShape(**SIZES | parts))
    with pytest.raises(UsageError, match=says):
        llama.config_of(model.shape, model.recipes, eps=EPS, end=None, dtype=torch.float32)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model_type": "lama"}, r"unknown model type 'lama'.*did you mean 'llama'"),
        ({"model_type": None}, "unknown model type 'None'"),
        ({"model_type": "qwen2"}, "adds biases to q, k and v.*legal are llama, mistral, arcee"),
        ({"attention_bias": True}, "attention_bias is True, and a decoder adds no biases"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' in a model of type llama; legal is silu"),
        ({"model_type": "arcee"}, "hidden_act is 'relu2' in a model of type arcee; legal is gelu"),
        ({"head_dim": 8}, "head_dim is 8 for 4 heads of a width of 16"),
        ({"hidden_size": 18}, "4 heads do not divide the width 18"),
        ({"num_key_value_heads": 3}, "3 key heads do not divide 4 heads"),
        ({"hidden_size": "16"}, "hidden_size in config.json is '16'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps in config.json is 0; legal are numbers above 0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling in config.json scales rotary by 'linear'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
            "scales rotary by 'llama3'; legal is default",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "is one object for all layers"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": -1}, "rope_theta in config.json is -1"),
        ({"quantization_config": {"bits": 4}}, "holds quantized weights"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings in config.json is 'no'"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window in config.json is 0"),
        ({"model_type": "mistral", "layer_types": ["full_attention"]}, "legal is one window for all"),
    ],
)
def test_forms_that_a_decoder_has_not_are_named(more, says):
    told = {"model_type": "llama"} | THEIRS | more
    with pytest.raises(UsageError, match=says):
        (DecoderShape(**llama.sizes_of(told)), llama.eps_of(told))


def test_sizes_that_are_missing_are_named():
    gone = ("num_hidden_layers", "intermediate_size")
    told = {key: value for key, value in THEIRS.items() if key not in gone}
    with pytest.raises(UsageError, match="^config.json lacks num_hidden_layers, intermediate_size$"):
        llama.sizes_of({"model_type": "llama"} | told)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("model.norm.weight"), "it lacks 'model.norm.weight' of shape"),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(16)}),
            "holds 'model.layers.0.self_attn.q_proj.bias'",
        ),
        (lambda w: w.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(25, 16)}), "mlp.up_proj.weight"),
        (lambda w: w.update({"lm_head.weight": torch.zeros(40, 16)}), "holds another lm_head.weight"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}),
            "is torch.int8; legal are float16",
        ),
    ],
)
def test_weights_of_another_model_are_refused(change, says):
    theirs = LlamaForCausalLM(LlamaConfig(**THEIRS, tie_word_embeddings=True))
    weights, config = dict(theirs.state_dict()), json.loads(theirs.config.to_json_string())
    change(weights)
    shape = DecoderShape(**llama.sizes_of(config))
    with pytest.raises(UsageError, match=says):
        layout.inward(weights, shape, eps=EPS, own=EPS, source="'folder'")


def test_layers_that_no_weights_are_of_are_told_at_once():
    weights = LlamaForCausalLM(LlamaConfig(**THEIRS)).state_dict()
    told = {"model_type": "llama"} | THEIRS
    shape = DecoderShape(**llama.sizes_of(told | {"num_hidden_layers": 10_000}))
    with pytest.raises(UsageError, match="^'folder' says that it has 10,000 layers and holds weights of 2;"):
        layout.inward(weights, shape, eps=EPS, own=EPS, source="'folder'")
    with pytest.raises(UsageError, match="^the body has 1,000,000,000 layers; legal are up to 10,000$"):
        DecoderShape(**llama.sizes_of(told | {"num_hidden_layers": 10**9}))


def test_bytes_are_a_tokenizer_of_256():
    read = Tokenizer.from_str(json.dumps(tokenizer.of_bytes()))
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), *range(0x1F600, 0x1F700)]))
    assert read.get_vocab_size() == Bytes.size
    assert read.encode(text).ids == Bytes().encode(text).tolist()
    assert read.decode(list(text.encode())) == text
    assert tokenizer.is_of_bytes(json.loads(read.to_str()))
    assert not tokenizer.is_of_bytes(json.loads(Bpe.train(["aa ab " * 9], 258)._tokenizer.to_str()))


def test_a_tokenizer_is_filled_up_to_the_model():
    bpe = Bpe.train(["low lower lowest " * 9], 262)
    text = "lower <|unused_262|> low"
    kept = bpe.encode(text).tolist()
    more = Bpe(tokenizer.filled(bpe._tokenizer, 270, "it"))
    assert (more.size, more.end, more.encode(text).tolist()) == (270, bpe.end, kept)
    with pytest.raises(UsageError, match="it has 270 tokens and the model 269"):
        tokenizer.filled(more._tokenizer, 269, "it")
