"""Models with stages in folders: what comes back, and what is told where something does not."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
)

from lissome._errors import UsageError
from lissome.attention import Alibi, Attention, Dape, causal
from lissome.bridges.transformers import attach, detach, load
from tests.bridges.seven import HEADS, MODELS, STAGES, config, logits, made, tokens


@pytest.fixture
def folder(tmp_path):
    attach(made("llama"), **STAGES["kerple"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "stages"), [*((name, "kerple") for name in MODELS), *(("mistral", each) for each in STAGES)]
)
def test_what_is_saved_comes_back_bit_by_bit(name, stages, tmp_path):
    model, ids = attach(made(name), **STAGES[stages]), tokens()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    check_same(again, model)
    torch.testing.assert_close(logits(again, ids), logits(model, ids), rtol=0, atol=1e-12)
    assert again.config.lissome == model.config.lissome
    assert not again.training


def check_same(one, other):
    """Assert that two models hold the same bits; products may differ in the last one, for memory lies elsewhere."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype, key
        assert torch.equal(value, second[key]), key


def test_many_files_and_another_dtype(tmp_path):
    model = attach(made("phi3").bfloat16(), **STAGES["kerple"])
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    check_same(load(tmp_path), model)
    fine = load(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in fine.parameters()} == {torch.float32}


def test_other_heads(tmp_path):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config("llama", num_labels=3))
    attach(model, **STAGES["fire"]).save_pretrained(tmp_path)
    again = load(tmp_path, kind=AutoModelForSequenceClassification)
    check_same(again, model)
    check_same(load(tmp_path, kind=LlamaModel), model.model)


def test_what_came_back_goes_on(folder, tmp_path):
    model = load(folder)
    model.save_pretrained(tmp_path / "again")
    check_same(load(tmp_path / "again"), model)
    detach(model).save_pretrained(tmp_path / "plain")
    check_same(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"), made("llama"))


def test_no_report_speaks_of_stages_and_one_of_another_head_still_does(folder, caplog):
    logging.getLogger("transformers").propagate = True
    try:
        load(folder)
        assert "LOAD REPORT" not in caplog.text
        load(folder, kind=AutoModelForSequenceClassification)
        assert "score.weight" in caplog.text
    finally:
        logging.getLogger("transformers").propagate = False


def own(layer):
    return Attention(causal, Alibi(HEADS), Dape(HEADS))


def test_recipes_of_a_function_need_the_function_again(tmp_path):
    model, ids = attach(made("llama"), recipe=own, position="none"), tokens()
    model.save_pretrained(tmp_path)
    again = load(tmp_path, recipe=own)
    check_same(again, model)
    torch.testing.assert_close(logits(again, ids), logits(model, ids), rtol=0, atol=1e-12)
    with pytest.raises(UsageError, match=r"were given by a function, which a folder cannot keep; give it again by"):
        load(tmp_path)


def test_recipes_beside_names_are_refused(folder):
    with pytest.raises(UsageError, match=r"were given by names, .*'kerple'.*; leave recipe= out"):
        load(folder, recipe=own)


def test_an_error_of_the_recipe_is_its_own(tmp_path):
    attach(made("llama"), recipe=own, position="none").save_pretrained(tmp_path)

    def broken(layer):
        raise TypeError("the recipe's own")

    with pytest.raises(TypeError, match="^the recipe's own$"):
        load(tmp_path, recipe=broken)


@pytest.mark.parametrize("file", ["../apart.safetensors", "/apart.safetensors", "part.bin", 3])
def test_files_out_of_the_folder_are_not_opened(file, tmp_path):
    place = tmp_path / "model"
    attach(made("llama"), **STAGES["kerple"]).save_pretrained(place, max_shard_size="4KB")
    (tmp_path / "apart.safetensors").write_bytes(next(place.glob("model-*")).read_bytes())
    index = place / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"] |= {name: file for name in told["weight_map"] if ".lissome." in name}
    index.write_text(json.dumps(told))
    with pytest.raises(UsageError, match="names no files of weights beside it; save the model again"):
        load(place)


def test_a_folder_without_the_numbers_of_its_stages_is_refused(folder, tmp_path):
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "lost")
    with pytest.raises(UsageError, match=r"lacks 12 of the 12 tensors of its stages, the first is 'layers.0.self_attn"):
        load(tmp_path / "lost")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.lissome.recipe.bias.p"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the 12 .* 'layers.1.self_attn.lissome.recipe.bias.p'"):
        load(folder)


def test_a_model_read_without_its_stages_takes_no_new_ones(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    with pytest.raises(UsageError, match=r"names stages, and the model was read without them; read it by .*load"):
        attach(model, **STAGES["kerple"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"position": "none"}, r"holds 'layers.0.self_attn.lissome.recipe.bias.a', which is none of the stages"),
        ({"refine": "dape(5)"}, r"has shape \(32, 8, 1, 3\) in .* and the stages that its config names have"),
        ({"position": "kerpel"}, r"unknown position 'kerpel'; .*did you mean 'kerple'"),
        ({"position": 3}, r"the position is 3; legal are the texts"),
        ({"colour": "red"}, r"config.json in .* names stages wrongly: .*'colour'"),
        (None, r"names no stages of Lissome; read the model by from_pretrained"),
    ],
)
def test_a_config_that_names_others_is_refused(change, said, folder):
    place = folder / "config.json"
    told = json.loads(place.read_text())
    told["lissome"] = None if change is None else told["lissome"] | change
    place.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=said):
        load(folder)


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no config.json; legal is a folder that save_pretrained wrote"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"folder is 3; legal is the path of a directory"):
        load(3)  # type: ignore[arg-type]


def test_a_damaged_folder_is_told_in_a_sentence(folder):
    with pytest.raises(UsageError, match="kind is 3; legal are classes with from_pretrained"):
        load(folder, kind=3)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"the weights '.*model.safetensors' are damaged"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config.json' is no JSON \(.*\); save the model again"):
        load(folder)
