"""What peft can do beside: DoRA, biases, several adapters, modules saved whole; labels that are drawn."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import RobertaConfig, RobertaForMaskedLM

from lissome._errors import UsageError
from lissome.allocation import Gates
from lissome.bridges.peft import PeftTerms, choose_ranks, cut_adapter_, sampled_likelihood
from tests.bridges.gated import QUIET, close, cut_and_compare, files_agree, gated_answers, only
from tests.bridges.small import (
    DEFAULT,
    SECOND,
    adapted,
    answers,
    base,
    batches,
    config,
    layers_of,
    same,
    seeded,
    snapshot,
    train,
)

pytestmark = QUIET


# what peft can do beside


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_curvature_of_dora_sees_the_norm_that_its_own_gradient_does_not(family):
    """DoRA's gradient holds the norm of each row of the weight constant; its loss does not."""
    model, data = adapted(family, use_dora=True).double(), batches(family)

    def loss(net, given):  # that of transformers is in float32
        return net(**given).logits.square().mean()

    found = choose_ranks(model, loss, data, 9).allocation
    gates = Gates(PeftTerms(model), loss, data, found.rotations)
    n = sum(gates.layers.values())
    ones, step = torch.ones(n, dtype=torch.float64), 1e-4
    unit = step * torch.eye(n, dtype=torch.float64)
    b = torch.tensor([(gates.mean(ones + e) - gates.mean(ones - e)) / (2 * step) for e in unit], dtype=torch.float64)
    close(found.expansion.gradient, b, 1e-5)
    d = torch.randn(n, generator=seeded(), dtype=torch.float64)
    around = [gates.mean(ones + sign * 1e-3 * d) for sign in (-1, 0, 1)]
    bent = (around[0] - 2 * around[1] + around[2]) / 1e-6
    assert float(d @ found.expansion.blocks[0] @ d) == pytest.approx(bent, rel=1e-3)


def test_weights_of_dora_are_cut_and_saved(tmp_path):
    model = adapted("bert", use_dora=True)
    cut_and_compare(model, "bert", 9)
    files_agree(model, "bert", tmp_path)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "lora_bias"])
def test_a_layer_that_does_more_than_its_terms_keeps_one(settings, tmp_path):
    """A magnitude or a bias of its own would be lost with the last term: peft has no rank of 0."""
    model = adapted("bert", **settings)
    ranks = cut_and_compare(model, "bert", 7, rule="magnitude")
    assert min(ranks.allocation.ranks.values()) == 1
    files_agree(model, "bert", tmp_path)
    again = adapted("bert", **settings)
    with pytest.raises(UsageError, match="budget is 5; legal is a whole number from 6 to 24"):
        choose_ranks(again, None, batches("bert"), 5)


def test_a_bias_of_the_adapter_stays(tmp_path):
    model = adapted("bert", lora_bias=True)
    before = {path: layer.lora_B[DEFAULT].bias.detach().clone() for path, layer in layers_of(model).items()}
    assert all(bool(bias.any()) for bias in before.values())
    cut_and_compare(model, "bert", 8)
    assert all(torch.equal(layer.lora_B[DEFAULT].bias, before[path]) for path, layer in layers_of(model).items())


def test_one_adapter_is_cut_and_the_other_left(tmp_path):
    model = adapted("llama")
    model.add_adapter("other", config("llama", r=2))
    model.set_adapter("other")
    train(model, "llama", SECOND, 3, 1e-2, 7)
    other, wanted = copy.deepcopy(get_peft_model_state_dict(model, adapter_name="other")), answers(model, "llama")
    settings = model.peft_config["other"].to_dict()
    model.set_adapter(DEFAULT)
    gone = only("q_proj", model)
    cut_and_compare(model, "llama", 5, most=gone)
    default = answers(model, "llama")
    model.set_adapter("other")
    assert torch.equal(answers(model, "llama"), wanted)
    now = get_peft_model_state_dict(model, adapter_name="other")
    assert now.keys() == other.keys()
    assert all(torch.equal(now[name], tensor) for name, tensor in other.items())
    assert model.peft_config["other"].to_dict() == settings
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base("llama"), tmp_path).eval()
    assert torch.equal(answers(loaded, "llama"), default)
    loaded = PeftModel.from_pretrained(base("llama"), tmp_path / "other").eval()
    assert torch.equal(answers(loaded, "llama"), wanted)


def test_of_two_adapters_one_is_named():
    model = adapted("llama")
    model.add_adapter("other", config("llama", r=2))
    model.base_model.set_adapter([DEFAULT, "other"])
    with pytest.raises(UsageError, match="the active adapters are default, other; name one by adapter="):
        choose_ranks(model, None, batches("llama"), 5)
    found = choose_ranks(model, None, batches("llama"), 5, adapter=DEFAULT)
    assert found.adapter == DEFAULT
    assert set(found.allocation.choice.layers.values()) == {4}


def test_modules_that_are_saved_whole_are_left(tmp_path):
    model = adapted("bert classes", modules_to_save=["classifier"])
    head = {name: p.detach().clone() for name, p in model.named_parameters() if "modules_to_save" in name}
    assert head
    cut_and_compare(model, "bert classes", 5)
    assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in head.items())
    files_agree(model, "bert classes", tmp_path)


def test_a_base_in_half_precision_may_have_a_lora_in_single():
    model: Any = get_peft_model(base("llama").bfloat16(), config("llama"))
    trained = adapted("llama").state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(trained[name])
    assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {torch.float32}
    model.eval()
    before = snapshot(model)
    ranks = choose_ranks(model, None, batches("llama"), 6)
    assert same(before, snapshot(model))
    assert ranks.allocation.expansion.blocks[0].dtype == torch.float32
    wanted = gated_answers(model, "llama", ranks.allocation)
    cut_adapter_(model, ranks)
    close(answers(model, "llama").float(), wanted.float(), 3e-2)


# labels that are drawn


def test_drawn_labels_count_where_the_loss_looks():
    """A row's log-probability enters where a label is: for a causal model one position before it."""

    class Net(nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = logits

        def forward(self, **given):
            return type("Out", (), {"logits": self.logits})

    class NetForCausalLM(Net):
        pass

    class Coder(Net):
        config = SimpleNamespace(is_encoder_decoder=True)

    logits = torch.zeros(1, 4, 3, requires_grad=True)
    labels, mask = torch.tensor([[5, -100, 5, 5]]), torch.tensor([[1, 1, 1, 0]])

    def rows(net, **given):
        (gradient,) = torch.autograd.grad(sampled_likelihood(net(logits), given, seeded()), logits)
        return gradient[0].any(1).int().tolist()

    assert rows(Net, labels=labels) == [1, 0, 1, 1]
    assert rows(Net, labels=labels, attention_mask=mask) == [1, 0, 1, 0]
    assert rows(Net, attention_mask=mask) == [1, 1, 1, 0]
    assert rows(Coder, labels=labels, attention_mask=mask) == [1, 0, 1, 1]
    assert rows(Coder, labels=labels, attention_mask=mask.flip(1), decoder_attention_mask=mask) == [1, 0, 1, 0]
    assert rows(NetForCausalLM, labels=labels) == [0, 1, 1, 0]
    assert rows(NetForCausalLM, labels=labels, attention_mask=mask) == [0, 1, 1, 0]


def test_a_masked_model_with_a_head_of_that_name_is_not_causal():
    """RobertaForMaskedLM has a RobertaLMHead, and looks at its labels where they stand."""
    sizes: dict[str, Any] = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=11, max_position_embeddings=16, **sizes)).eval()
    tokens = torch.tensor([[4, 5, 6, 7]])
    labels = torch.tensor([[-100, -100, 9, -100]])
    out = model(input_ids=tokens)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, out: out.register_hook(seen.append) and None)
    value = sampled_likelihood(model, {"input_ids": tokens, "labels": labels}, seeded())
    value.backward()
    assert out.logits.shape == seen[0].shape
    assert seen[0][0].any(1).tolist() == [False, False, True, False]


def test_settings_do_not_depend_on_the_order_of_a_set():
    model = adapted(
        "llama", exclude_modules=["k_proj", "o_proj", "gate_proj", "down_proj"], target_modules="all-linear"
    )
    cut_and_compare(model, "llama", 5)
    pattern = model.peft_config[DEFAULT].exclude_modules
    assert pattern.startswith("(?:(?:.*\\.)?(?:down_proj|gate_proj|k_proj|o_proj))|")
