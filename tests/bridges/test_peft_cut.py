"""LoRA adapters of peft that are cut, held to the gated model and to their files."""

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn

from lissome.bridges.peft import choose_ranks, cut_adapter_, rotate_adapter_
from tests.bridges.gated import QUIET, close, cut_and_compare, every_basis, every_family, files_agree, only
from tests.bridges.hands import HANDS, Image, Paths, by_hand, drawn, inputs, noise, squares
from tests.bridges.small import (
    DEFAULT,
    SECOND,
    adapted,
    answers,
    base,
    batches,
    config,
    landed,
    layers_of,
    quietly,
    second_order,
    seeded,
    train,
)

pytestmark = QUIET


@pytest.mark.parametrize("compensate", [False, True])
@every_family
def test_the_cut_model_is_the_gated_one_and_so_it_is_from_its_files(family, compensate, tmp_path):
    model = adapted(family)
    ranks = cut_and_compare(model, family, compensate=compensate)
    loaded = files_agree(model, family, tmp_path)
    assert layers_of(loaded).keys() == layers_of(model).keys()
    assert sum(ranks.allocation.ranks.values()) == 5


@pytest.mark.parametrize("settings", [{"use_rslora": True}, {"lora_alpha": 7, "r": 3}, {"use_rslora": True, "r": 3}])
def test_scalings_stay_and_are_those_of_the_files(settings, tmp_path):
    model = adapted("bert", **settings)
    before = {path: layer.scaling[DEFAULT] for path, layer in layers_of(model).items()}
    cut_and_compare(model, "bert")
    loaded = layers_of(files_agree(model, "bert", tmp_path))
    for path, layer in layers_of(model).items():
        assert layer.scaling[DEFAULT] == pytest.approx(before[path], rel=1e-14)
        assert layer.scaling[DEFAULT] == loaded[path].scaling[DEFAULT]


@every_family
def test_settings_build_just_these_ranks(family):
    model = adapted(family)
    scalings = {path: layer.scaling[DEFAULT] for path, layer in layers_of(model).items()}
    ranks = choose_ranks(model, None, batches(family), 5)
    new = get_peft_model(base(family), config(family, **ranks.settings()))
    built = {path: layer.r[DEFAULT] for path, layer in layers_of(new).items()}
    assert built == {path: r for path, r in ranks.allocation.ranks.items() if r}
    for path, layer in layers_of(new).items():
        assert layer.scaling[DEFAULT] == pytest.approx(scalings[path], rel=1e-14)


def test_a_cut_model_trains_on():
    model = adapted("llama")
    cut_and_compare(model, "llama")
    assert all(p.grad is None for p in model.parameters())
    before = {path: layer.lora_A[DEFAULT].weight.detach().clone() for path, layer in layers_of(model).items()}
    first, last = train(model, "llama", SECOND, 20, 3e-3, 5)
    assert last < first
    assert all(not torch.equal(layer.lora_A[DEFAULT].weight, before[path]) for path, layer in layers_of(model).items())


def test_a_cut_model_is_chosen_from_and_cut_again(tmp_path):
    model = adapted("bert")
    one = cut_and_compare(model, "bert", 9)
    two = cut_and_compare(model, "bert", 4)
    assert two.allocation.choice.layers == {path: r for path, r in one.allocation.ranks.items() if r}
    files_agree(model, "bert", tmp_path)


def test_a_merged_cut_model_is_the_cut_model():
    model = adapted("llama")
    cut_and_compare(model, "llama")
    wanted = answers(model, "llama")
    close(answers(model.merge_and_unload(), "llama"), wanted, 1e-4)


def test_keeping_all_terms_as_they_are_changes_nothing_but_rounding():
    model = adapted("gpt2")
    before = answers(model, "gpt2")
    ranks = choose_ranks(model, None, batches("gpt2"), 16, compensate=False)
    assert ranks.exclude_modules is None
    assert ranks.settings().keys() == {"rank_pattern", "alpha_pattern"}
    cut_adapter_(model, ranks)
    close(answers(model, "gpt2"), before, 2e-5)


@pytest.mark.parametrize(
    "excluded",
    [None, ["up_proj"], r".*\.1\..*up_proj|nothing", r"(?i).*\.1\..*UP_PROJ"],
    ids=["no", "list", "regex", "flags"],
)
def test_layers_without_a_term_give_up_their_adapter(excluded, tmp_path):
    model = adapted("llama", exclude_modules=excluded)
    before = set(layers_of(model))
    gone = only("q_proj", model)
    ranks = cut_and_compare(model, "llama", 5, most=gone)
    assert not set(layers_of(model)) & set(gone)
    assert all(type(model.get_submodule(f"base_model.model.{path}")) is nn.Linear for path in gone)
    loaded = files_agree(model, "llama", tmp_path)
    assert set(layers_of(loaded)) == {path for path in before if ranks.allocation.ranks[path]}
    pattern = loaded.peft_config[DEFAULT].to_dict()["exclude_modules"]
    assert all(re.fullmatch(pattern, path) for path in gone)


@every_basis
@pytest.mark.parametrize("kind", HANDS)
def test_modules_of_one_s_own_have_gates_too(kind, basis):
    make, targets, shape = HANDS[kind]
    model, data = by_hand(make, targets), inputs(*shape)
    found = choose_ranks(model, squares, data, 3, basis=basis, probe=noise).allocation
    b, A = second_order(model, squares, data, found)
    close(found.expansion.gradient, b, 1e-8)
    close(found.expansion.blocks[0], A, 1e-8)


@pytest.mark.parametrize("gone", [("q",), ("a.q",), ("a.b.q", "q"), ("q", "a.q", "aq")], ids=",".join)
def test_a_path_that_ends_another_is_told_from_it(gone, tmp_path):
    model, data = by_hand(*HANDS["paths"][:2]), inputs(7, 5)
    ranks = choose_ranks(model, squares, data, 2, probe=noise, most=dict.fromkeys(gone, 0))
    assert all(ranks.allocation.ranks[path] == 0 for path in gone)
    cut_adapter_(model, ranks)
    left = {path: layer.r[DEFAULT] for path, layer in layers_of(model).items()}
    assert left == {path: r for path, r in ranks.allocation.ranks.items() if r}
    fresh = get_peft_model(drawn(Paths), LoraConfig(target_modules=HANDS["paths"][1], **ranks.settings()))
    assert {path: layer.r[DEFAULT] for path, layer in layers_of(fresh).items()} == left
    quietly(lambda: model.save_pretrained(tmp_path))
    loaded = PeftModel.from_pretrained(drawn(Paths).double(), tmp_path, autocast_adapter_dtype=False).double()
    assert torch.equal(loaded(data[0]), model(data[0]))


def test_convolutions_are_cut(tmp_path):
    model, data = by_hand(Image, ["wide", "point"]), inputs(3, 2, 6, 6)
    ranks = choose_ranks(model, squares, data, 3, probe=noise)
    choice = ranks.allocation.choice
    cut_adapter_(model, ranks)
    after = sum(float(squares(model, x).detach()) for x in data) / 2
    assert after == pytest.approx(landed(choice), rel=1e-10)
    before = [model(x) for x in data]
    rotate_adapter_(model, data, probe=noise)
    torch.testing.assert_close(model(data[0]), before[0], rtol=1e-9, atol=1e-9)
    quietly(lambda: model.save_pretrained(tmp_path))
    loaded = PeftModel.from_pretrained(drawn(Image).double(), tmp_path, autocast_adapter_dtype=False).double()
    assert torch.equal(loaded(data[0]), model(data[0]))


def test_an_adapter_that_transformers_added_is_cut_as_well(tmp_path):
    model = base("llama")
    model.add_adapter(config("llama"))
    train(model, "llama", SECOND, 20, 1e-2, 2)
    cut_and_compare(model, "llama", 5)
    wanted = answers(model, "llama")
    quietly(lambda: model.save_pretrained(tmp_path))
    loaded = PeftModel.from_pretrained(base("llama"), tmp_path).eval()
    assert torch.equal(answers(loaded, "llama"), wanted)


def test_a_model_into_which_peft_injected_layers_is_cut_as_well():
    model: Any = inject_adapter_in_model(LoraConfig(r=3, target_modules=["q", "aq"]), drawn(Paths)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(3)))
    data = inputs(7, 5)
    ranks = choose_ranks(model, squares, data, 3, probe=noise)
    cut_adapter_(model, ranks)
    after = sum(float(squares(model, x).detach()) for x in data) / 2
    assert after == pytest.approx(landed(ranks.allocation.choice), rel=1e-10)
