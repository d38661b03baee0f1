"""What ranks of a LoRA are not chosen from, in words; the model is left bit for bit as it was."""

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model
from torch import nn

from lissome._errors import LissomeError, UsageError
from lissome.bridges.peft import choose_ranks, cut_adapter_, own_loss, rotate_adapter_
from tests.bridges.hands import HANDS, Image, Matrix, by_hand, drawn, inputs, noise, squares
from tests.bridges.small import (
    DEFAULT,
    adapted,
    base,
    batch,
    batches,
    config,
    layers_of,
    quietly,
    same,
    seeded,
    snapshot,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def refusal(what):
    """Return a model, and what is asked of it beside a loss, batches and a budget."""
    model: Any = adapted("bert")
    asked: dict[str, Any] = {}
    if what == "no LoRA":
        model = base("bert")
    elif what == "untrained":
        model = get_peft_model(base("bert"), config("bert")).eval()
    elif what == "merged":
        model.merge_adapter()
    elif what == "disabled":
        model.base_model.disable_adapter_layers()
    elif what == "embedding":
        model = quietly(
            lambda: get_peft_model(base("bert"), config("bert", target_modules=["word_embeddings", "query"]))
        )
    elif what == "parameters":
        settings = LoraConfig(r=2, target_modules=[], target_parameters=["inner.matrix"])
        model = quietly(lambda: get_peft_model(nn.Sequential(OrderedDict(inner=Matrix())), settings))
    elif what == "multihead":
        net = nn.Sequential()
        net.add_module("attend", nn.MultiheadAttention(8, 2))
        model = get_peft_model(net, LoraConfig(r=2, target_modules=["attend"]))
    elif what == "adalora":
        settings = AdaLoraConfig(init_r=4, target_r=2, total_step=100, target_modules=["query"])
        model = get_peft_model(base("bert"), settings)
    elif what == "ia3":
        settings = IA3Config(target_modules=["query"], feedforward_modules=[])
        model = get_peft_model(base("bert"), settings)
    elif what == "inactive":
        model.add_adapter("other", config("bert"))
        asked = {"adapter": "other"}
    elif what == "groups":
        net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
        model = quietly(lambda: get_peft_model(net, LoraConfig(r=2, target_modules=["0"])))
    elif what == "shared":
        pair = [layer for path, layer in layers_of(model).items() if path.endswith("query")]
        pair[1].lora_A[DEFAULT].weight = pair[0].lora_A[DEFAULT].weight
    elif what == "dora of a convolution":
        model = get_peft_model(drawn(Image), LoraConfig(r=2, target_modules=["point"], use_dora=True))
    elif what == "half":
        for layer in layers_of(model).values():
            layer.lora_A[DEFAULT].bfloat16()
            layer.lora_B[DEFAULT].bfloat16()
    elif what == "nan weights":
        with torch.no_grad():
            next(iter(layers_of(model).values())).lora_B[DEFAULT].weight[0, 0] = math.nan
    return model, asked


REFUSED = {
    "no LoRA": "the BertForMaskedLM has no LoRA layer of peft; make one by peft.get_peft_model",
    "untrained": "all 6 low-rank updates are 0, as those of an untrained LoRA are",
    "merged": "the adapter is merged into '.*query'; call model.unmerge_adapter",
    "disabled": "adapters are disabled in '.*query'; leave disable_adapter",
    "embedding": "'.*word_embeddings' is an embedding's LoRA, whose terms cannot be measured",
    "parameters": "'.*inner' is a LoRA of target_parameters, whose terms cannot be measured",
    "multihead": "'.*attend' is MultiheadAttention, whose terms cannot be measured; legal are linear and convolution",
    "adalora": "'.*query' is a SVDLinear with factors of type Parameter, which is not covered",
    "ia3": "the PeftModel has no LoRA layer of peft",
    "inactive": r"the adapter 'other' is not active; call model.set_adapter\('other'\) first",
    "groups": "'.*0' is a convolution in groups, of which each has terms of its own",
    "dora of a convolution": "'.*point' is of the variant DoraConv2dVariant; legal are LoRA, and DoRA of a linear",
    "shared": "'.*query' and '.*query' share a factor; cutting one would cut the other",
    "half": "the terms of '.*query' are torch.bfloat16, in which curvature is 3 to 4% off",
    "nan weights": "the terms of .* hold numbers that are not finite",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_measured_is_refused_by_name(what):
    model, asked = refusal(what)
    before = snapshot(model)
    with pytest.raises(LissomeError, match=REFUSED[what]):
        choose_ranks(model, None, batches("bert"), 5, **asked)
    if what == "multihead":
        return  # its state_dict alone makes new parameters
    assert same(before, snapshot(model))
    if what not in ("half", "nan weights"):  # which are no reason not to turn, or show in the measurement alone
        with pytest.raises(LissomeError, match=REFUSED[what]):
            rotate_adapter_(model, batches("bert"), **asked)
        assert same(before, snapshot(model))


def without_labels():
    return [{key: value for key, value in each.items() if key != "labels"} for each in batches("bert")]


def bad_labels():
    return [each | {"labels": torch.full_like(each["labels"], -100)} for each in batches("bert")]


ASKED_WRONGLY = {
    "budget 0": ({"budget": 0}, "budget is 0; legal are 1 to 24, for peft has no LoRA without a term"),
    "budget above all": ({"budget": 25}, "budget is 25; legal are 1 to 24, for peft has no LoRA without a term"),
    "a budget in words": ({"budget": "8"}, "budget is '8'; legal are 1 to 24"),
    "layers that may keep nothing": ({"most": 0}, "most is 0, which leaves no term"),
    "one batch for a list": ({"batches": batches("bert")[0]}, "batches is a dict; legal is a list of batches"),
    "budget below the least": ({"least": 1}, "budget is 5; legal is a whole number from 6 to 24"),
    "an unknown adapter": ({"adapter": "defualt"}, "unknown adapter 'defualt'; .*did you mean 'default'"),
    "an unknown basis": ({"basis": "svdd"}, "unknown basis 'svdd'"),
    "an unknown rule": ({"rule": "revers"}, "unknown rule 'revers'"),
    "no labels": ({"batches": without_labels()}, "the model gives no loss for a batch with input_ids, attention_mask"),
    "no batch": ({"batches": []}, "batches is empty"),
    "a loss that is not finite": ({"batches": bad_labels(), "basis": "svd"}, "the loss of batch 0 is nan"),
    "a loss without graph": ({"loss": lambda m, b: own_loss(m, b).detach()}, "does not depend on x by any graph"),
    "a loss that is a number": ({"loss": lambda m, b: 2.0}, "returned a float; legal is a tensor"),
    "a probe without graph": ({"probe": lambda m, b: own_loss(m, b).detach()}, "the probe has to return a scalar"),
}


@pytest.mark.parametrize("what", ASKED_WRONGLY)
def test_what_is_asked_wrongly_is_a_sentence_and_leaves_the_model(what):
    settings, words = ASKED_WRONGLY[what]
    given = {"loss": None, "batches": batches("bert"), "budget": 5} | settings
    model = adapted("bert").train()
    before = snapshot(model)
    with pytest.raises(UsageError, match=words):
        choose_ranks(model, given.pop("loss"), given.pop("batches"), given.pop("budget"), **given)
    assert same(before, snapshot(model))


def test_a_model_that_gives_no_logits_needs_a_probe_or_the_basis_of_its_factors():
    model, data = by_hand(*HANDS["paths"][:2]), inputs(7, 5)
    with pytest.raises(UsageError, match="gives no logits of two or more classes to draw labels from; give a probe"):
        choose_ranks(model, squares, [{"x": x} for x in data], 3)
    assert choose_ranks(model, squares, data, 3, basis="svd").allocation.basis == "svd"


def test_logits_that_are_not_finite_are_told():
    model = adapted("bert")
    with torch.no_grad():
        model.base_model.model.bert.embeddings.word_embeddings.weight[65] = math.nan
    before = snapshot(model)
    with pytest.raises(UsageError, match="the model's logits are not finite; look at the batch"):
        choose_ranks(model, None, [batch("bert", b"A" * 30, seeded())], 5)
    assert same(before, snapshot(model))


def test_a_basis_by_batches_needs_batches():
    for basis in ("whitened", "kronecker"):
        with pytest.raises(UsageError, match=f"the basis '{basis}' needs .*batches"):
            rotate_adapter_(adapted("bert"), basis=basis)


def test_a_choice_for_another_adapter_is_refused():
    ranks = choose_ranks(adapted("bert"), None, batches("bert"), 5)
    other = adapted("bert", r=3)
    before = snapshot(other)
    with pytest.raises(UsageError, match="the adapter does not have the terms that were chosen from"):
        cut_adapter_(other, ranks)
    assert same(before, snapshot(other))


def test_a_cut_adapter_is_not_cut_twice():
    model = adapted("bert")
    ranks = choose_ranks(model, None, batches("bert"), 5)
    cut_adapter_(model, ranks)
    before = snapshot(model)
    with pytest.raises(UsageError, match="the adapter does not have the terms that were chosen from"):
        cut_adapter_(model, ranks)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_that_change_the_base_are_measured_and_not_cut(start):
    """peft would take something else off the base when it loads them with other ranks."""
    model = get_peft_model(base("llama"), config("llama", init_lora_weights=start))
    ranks = choose_ranks(model, None, batches("llama"), 5)
    before = snapshot(model)
    with pytest.raises(UsageError, match=f"^the adapter began by '{start}', which takes its start off the base"):
        cut_adapter_(model, ranks)
    assert same(before, snapshot(model))


def test_a_module_around_a_peft_model_is_measured_and_not_cut():
    """Its settings are not where peft would look for them."""
    outer = nn.Sequential()
    outer.add_module("inner", by_hand(*HANDS["paths"][:2]))
    ranks = choose_ranks(outer, squares, inputs(7, 5), 3, probe=noise)
    alone = choose_ranks(outer.inner, squares, inputs(7, 5), 3, probe=noise)
    assert ranks.settings() == alone.settings()
    assert choose_ranks(outer.inner.base_model, squares, inputs(7, 5), 3, probe=noise).settings() == alone.settings()
    before = snapshot(outer)
    with pytest.raises(UsageError, match="the Sequential has no settings of peft"):
        cut_adapter_(outer, ranks)
    assert same(before, snapshot(outer))
