"""Ranks of LoRA adapters of peft, held to gates by hooks, to the gated model and to files."""

import copy
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from torch import nn
from transformers import RobertaConfig, RobertaForMaskedLM

from lissome._errors import UsageError
from lissome.allocation import Gates
from lissome.bridges.peft import (
    PeftTerms,
    choose_ranks,
    cut_adapter_,
    own_loss,
    rotate_adapter_,
    sampled_likelihood,
)
from tests.bridges.hands import HANDS, Image, Paths, by_hand, drawn, inputs, noise, squares
from tests.bridges.small import (
    DEFAULT,
    FAMILIES,
    SECOND,
    adapted,
    answers,
    base,
    batches,
    config,
    hooked,
    landed,
    layers_of,
    quietly,
    same,
    second_order,
    seeded,
    snapshot,
    train,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape.*"),  # so peft says of a bias, wrongly
]
every_family = pytest.mark.parametrize("family", FAMILIES)
BASES = ("trained", "svd", "whitened", "kronecker")
every_basis = pytest.mark.parametrize("basis", BASES)


def close(found, wanted, to):
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=to, atol=to * scale, check_dtype=False)


def gated_answers(model, family, found):
    values = {path: torch.zeros(r, dtype=torch.float64) for path, r in found.choice.layers.items()}
    for path, kept in found.choice.kept.items():
        values[path][list(kept)] = found.choice.values[path].double()
    with hooked(model, values, found.rotations):
        return answers(model, family)


# what is measured


@every_basis
@every_family
def test_gradient_and_curvature_are_those_of_gates_by_hooks(family, basis):
    model, data = adapted(family).double(), batches(family)
    found = choose_ranks(model, None, data, 5, basis=basis).allocation
    b, A = second_order(model, own_loss, data, found)
    to = 2e-4 if family == "llama" else 1e-7  # its norms and softmax are in float32 whatever it is
    close(found.expansion.gradient, b, to)
    close(found.expansion.blocks[0], A, to)


@every_family
def test_so_they_are_in_single_precision(family):
    model, data = adapted(family), batches(family)
    found = choose_ranks(model, None, data, 5).allocation
    assert found.expansion.blocks[0].dtype == torch.float32
    b, A = second_order(copy.deepcopy(model).double(), own_loss, data, found)
    close(found.expansion.gradient.double(), b, 1e-2)
    close(found.expansion.blocks[0].double(), A, 1e-2)


@every_family
def test_choosing_leaves_the_model_as_it_is(family):
    model = adapted(family).train()
    next(iter(layers_of(model).values())).eval()  # modes may differ from module to module
    before = snapshot(model)
    for basis in BASES:
        choose_ranks(model, None, batches(family), 5, basis=basis)
    assert same(before, snapshot(model))


def test_choosing_again_gives_the_same_and_draws_nothing_from_torch_s_own_generator():
    model, data = adapted("bert"), batches("bert")
    state = torch.get_rng_state()
    one, two = (choose_ranks(model, None, data, 5, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.settings() == two.settings()
    assert torch.equal(one.allocation.expansion.blocks[0], two.allocation.expansion.blocks[0])


def test_a_loss_and_a_probe_of_one_s_own_are_taken():
    model, data = adapted("bert"), batches("bert")

    def loss(net, given):
        return net(**given).logits.square().mean()

    found = choose_ranks(model, loss, data, 5, probe=loss).allocation
    mean = sum(float(loss(model, each).detach()) for each in data) / len(data)
    assert found.choice.before == pytest.approx(mean, rel=1e-5)


# the change of basis


@every_basis
@every_family
def test_turning_the_terms_leaves_the_outputs(family, basis):
    model = adapted(family)
    before, ranks = answers(model, family), {path: layer.r[DEFAULT] for path, layer in layers_of(model).items()}
    turned = rotate_adapter_(model, batches(family), basis=basis)
    close(answers(model, family), before, 2e-5)
    assert turned.keys() == ranks.keys()
    for path, layer in layers_of(model).items():
        assert layer.lora_A[DEFAULT].weight.shape[0] == layer.r[DEFAULT] == ranks[path]
        assert layer.lora_A[DEFAULT].weight.requires_grad


def test_without_batches_the_terms_become_those_of_the_svd():
    model = adapted("llama")
    truth = {
        path: torch.linalg.svdvals((layer.lora_B[DEFAULT].weight @ layer.lora_A[DEFAULT].weight).detach().double())
        for path, layer in layers_of(model).items()
    }
    rotate_adapter_(model)
    for path, layer in layers_of(model).items():
        B, A = layer.lora_B[DEFAULT].weight.detach(), layer.lora_A[DEFAULT].weight.detach()
        sizes = (B.norm(dim=0) * A.norm(dim=1)).double()
        close(sizes, truth[path][:4], 1e-4)


def test_a_turned_model_is_chosen_from_as_it_was_before():
    model, data = adapted("gpt2").double(), batches("gpt2")
    one = choose_ranks(model, None, data, 6)
    rotate_adapter_(model, data)
    two = choose_ranks(model, None, data, 6, basis="trained")
    assert one.settings() == two.settings()
    close(two.allocation.expansion.blocks[0], one.allocation.expansion.blocks[0], 1e-6)


# the cut


def cut_and_compare(model, family, budget=5, to=2e-5, **options):
    """Cut, hold the outputs to the gated model, and the loss to what was measured; return the ranks."""
    data = batches(family)
    ranks = choose_ranks(model, None, data, budget, **options)
    wanted = gated_answers(model, family, ranks.allocation)
    assert cut_adapter_(model, ranks) is model
    close(answers(model, family), wanted, to)
    choice = ranks.allocation.choice
    with torch.no_grad():
        after = sum(float(own_loss(model, each)) for each in data) / len(data)
    assert after == pytest.approx(landed(choice), rel=max(to, 1e-6))
    for path, layer in layers_of(model).items():
        r = ranks.allocation.ranks[path]
        assert layer.r[DEFAULT] == r > 0
        assert layer.lora_A[DEFAULT].weight.shape[0] == layer.lora_B[DEFAULT].weight.shape[1] == r
    return ranks


def files_agree(model, family, folder):
    """Save, load onto a fresh base, and compare bit for bit."""
    wanted = answers(model, family)
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(family), folder).eval().to(wanted.dtype)
    found = answers(loaded, family)
    assert torch.equal(found, wanted)
    return loaded


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


def only(path, model, r=4):
    """Return bounds by which the first layer whose path ends so keeps nothing."""
    gone = [each for each in layers_of(model) if each.endswith(path)]
    assert gone
    return dict.fromkeys(gone, 0)


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
