"""Models of transformers with other stages: gradients, copies, dtypes, adapters of peft, recipes of one's own."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from lissome.attention import Attention, Kerple, SelfAdjust, causal
from lissome.bridges.transformers import attach, detach
from tests.bridges.seven import HEADS, LENGTH, NEAR, SEVEN, STAGES, config, in_parts, logits, made, tokens


def given(name, stages="kerple", **settings):
    return attach(made(name, **settings), **STAGES[stages])


@pytest.mark.parametrize("reentrant", [False, True])
@SEVEN
def test_gradients_are_the_same_with_checkpoints(name, reentrant):
    model, ids = given(name).train(), tokens()

    def gradients():
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return {key: p.grad.clone() for key, p in model.named_parameters()}

    plain = gradients()
    model._set_gradient_checkpointing(True, lambda run, *x: _checkpoint(run, *x, reentrant=reentrant))
    for key, slope in gradients().items():
        assert torch.equal(slope, plain[key]), key
        assert slope.abs().max() > 0 or "k_proj.bias" in key or key.endswith("query_key_value.bias"), key


def _checkpoint(run, *inputs, reentrant):
    return checkpoint(run, *inputs, use_reentrant=reentrant)


def test_stages_are_parameters_of_the_model():
    model = given("llama")
    own = [key for key, p in model.named_parameters() if ".lissome." in key and p.requires_grad]
    assert own[:2] == [f"model.layers.0.self_attn.lissome.recipe.bias.{name}" for name in "pa"]
    assert len(own) == 2 * 6


def test_a_head_size_of_the_config_and_half_precision_are_followed():
    model = attach(made("qwen3").bfloat16(), **STAGES["kerple"])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    fine = attach(made("qwen3").float(), **STAGES["kerple"])  # autocast leaves float64 as it is
    fine.load_state_dict(model.state_dict())
    ids = tokens()
    right = logits(fine, ids)
    with torch.autocast("cpu", torch.bfloat16):
        cast = logits(fine, ids)
    for found in (logits(model, ids), cast):
        assert found.dtype == torch.bfloat16
        assert (found.float() - right).abs().max() < 0.2


def test_copies_and_pickles_are_models_of_their_own():
    model, ids = given("llama"), tokens()
    before = logits(model, ids)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, ids), before)
        detach(other)
        assert torch.equal(logits(model, ids), before)


def test_models_of_one_config_stay_apart():
    torch.manual_seed(0)
    shared, ids = config("llama"), tokens()
    one, other = (LlamaForCausalLM(shared).eval() for _ in range(2))
    before = logits(other, ids)
    attach(one, **STAGES["kerple"])
    assert torch.equal(logits(other, ids), before)
    attach(other, refine="dape")
    assert one.config.lissome != other.config.lissome
    assert not hasattr(shared, "lissome")
    configs = {id(module.config) for module in one.modules() if hasattr(module, "config")}
    assert configs == {id(one.config)}


def test_recipes_by_a_function_of_the_layer():
    def recipe(layer):
        return Attention(causal, Kerple(HEADS) if layer else None, None, SelfAdjust(2))

    model = attach(made("llama"), recipe=recipe, position="none")
    found = [each.recipe.explain() for key, each in model.named_modules() if key.endswith(".lissome")]
    assert found == ["causal; self_adjust(2)", "causal; kerple; self_adjust(2)"]
    ids = tokens()
    torch.testing.assert_close(in_parts(model, ids, [0, 3, 5]), logits(model, ids), **NEAR)
    assert torch.equal(logits(model, ids, position_ids=torch.arange(LENGTH)[None] + 9), logits(model, ids))


class TestPeft:
    def test_attached_inside_it_is_the_model_without_it(self):
        wrapped, ids = get_peft_model(made("llama"), LoraConfig(r=2)), tokens()
        wrapped.eval()
        attach(wrapped, **STAGES["fire"])
        with torch.no_grad():
            for key, p in wrapped.named_parameters():
                if "lora_B" in key:
                    p.normal_()
        found, whole = in_parts(wrapped, ids, [0, 3, 5]), logits(wrapped, ids)
        torch.testing.assert_close(found, whole, **NEAR)
        torch.testing.assert_close(logits(wrapped.merge_and_unload(), ids), whole, rtol=0, atol=1e-5)

    def test_an_adapter_trains_saves_and_loads_the_stages(self, tmp_path):
        wrapped, ids = (
            get_peft_model(given("llama"), LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lissome"])),
            tokens(),
        )
        wrapped(input_ids=ids, labels=ids).loss.backward()
        slopes = {key: p.grad.abs().max() for key, p in wrapped.named_parameters() if p.requires_grad}
        assert min(slope for key, slope in slopes.items() if ".lissome." in key) > 0
        with torch.no_grad():
            for p in wrapped.parameters():
                p.add_(0.1 * torch.randn_like(p) if p.requires_grad else 0)
        wrapped.eval().save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(given("llama"), tmp_path).eval()
        assert torch.equal(logits(again, ids), logits(wrapped, ids))
