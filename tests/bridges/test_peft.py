"""Gates of LoRA adapters of peft, held to gates by hooks, and terms that are turned."""

import copy

import pytest
import torch

from lissome.bridges.peft import choose_ranks, own_loss, rotate_adapter_
from tests.bridges.gated import BASES, QUIET, close, every_basis, every_family
from tests.bridges.small import DEFAULT, adapted, answers, batches, layers_of, same, second_order, snapshot

pytestmark = QUIET


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
