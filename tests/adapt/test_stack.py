"""Modules side by side do what each of them does alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import Adapted, Stack, adapt, pissa
from lissome.models import MLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(width=6, seed=0):
    return MLP(3, width=width, depth=3, generator=seeded(seed)).double()


def members(method="svd", count=3, base=None):
    """Return adapters of one base that have moved apart."""
    base = network() if base is None else base
    found = [adapt(base, method, generator=seeded()) for _ in range(count)]
    with torch.no_grad():
        for seed, member in enumerate(found):
            for parameter in member.trainable().values():
                parameter += 0.2 * torch.randn(parameter.shape, generator=seeded(seed), dtype=torch.float64)
    return found


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def points(*shape):
    return torch.randn(*shape, 3, generator=seeded(5), dtype=torch.float64)


@pytest.mark.parametrize("method", ["svd", "lora", "lora-xs", "pissa", "last", "full"])
def test_all_at_once_is_one_after_another(method):
    found, z = members(method), points(3, 7)
    stack = Stack(found)
    loss = stack.each(lambda member, z: member(z).square().mean(), z)
    slopes = torch.autograd.grad(loss.sum(), list(stack.trainable().values()))
    for k, member in enumerate(found):
        alone = member(z[k]).square().mean()
        torch.testing.assert_close(loss[k], alone, rtol=1e-14, atol=0)
        own = torch.autograd.grad(alone, list(member.trainable().values()))
        for slope, each in zip(slopes, own, strict=True):
            torch.testing.assert_close(slope[k], each, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(stack(z), torch.stack([member(part) for member, part in zip(found, z, strict=True)]))


def test_trees_go_in_and_come_out_and_what_a_function_closes_over_is_for_all():
    found, z = members(), points(4)
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    out = Stack(found).each(lambda member, tree: {"moved": member(z + tree["by"][0])}, {"by": [shift]})["moved"]
    for k, member in enumerate(found):
        torch.testing.assert_close(out[k], member(z + shift[k]))


def test_names_are_the_modules_own_and_what_is_frozen_alike_is_kept_once():
    found = members()
    stack = Stack(found)
    assert {name: p.shape[1:] for name, p in stack.trainable().items()} == {
        name: p.shape for name, p in found[0].trainable().items()
    }
    assert {len(p) for p in stack.parameters()} == {stack.size} == {3}
    shared = stack.shared.tensors()
    assert set(shared) == set(found[0].state_dict()) - set(stack.trainable())
    assert shared["base.layers.2.weight"].shape == found[0].base.get_parameter("layers.2.weight").shape
    assert not stack.frozen.tensors()


def test_what_is_frozen_and_differs_is_stacked():
    found = [Adapted(network(seed=seed), train=["*.bias"]) for seed in range(3)]
    stack, z = Stack(found), points(3, 5)
    assert stack.frozen.tensors()["base.layers.0.weight"].shape == (3, 6, 3)
    assert not set(stack.frozen.tensors()) & set(stack.shared.tensors())
    for k, out in enumerate(stack(z)):
        torch.testing.assert_close(out, found[k](z[k]))


def test_split_gives_copies_with_their_own_numbers():
    found, z = members(), points(5)
    stack = Stack(found)
    before = copy.deepcopy([member.state_dict() for member in found])
    with torch.no_grad():
        for parameter in stack.trainable().values():
            parameter += torch.arange(3.0, dtype=torch.float64).view(3, *[1] * (parameter.dim() - 1))
    apart = stack.split()
    for k, member in enumerate(apart):
        torch.testing.assert_close(member(z), stack(z.expand(3, -1, -1))[k])
        for name, parameter in trained(member).items():
            torch.testing.assert_close(parameter, found[k].trainable()[name] + k)
    with torch.no_grad():
        next(iter(trained(apart[0]).values())).zero_()
    torch.testing.assert_close(stack.split()[0](z), stack(z.expand(3, -1, -1))[0])
    for member, state in zip(found, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in member.state_dict().items())


def test_a_stack_is_copied_pickled_loaded_and_cast_as_any_module():
    stack, z = Stack(members()), points(3, 4)
    other = Stack(members(base=network(seed=1)))
    other.load_state_dict(stack.state_dict())
    for again in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack)), other):
        torch.testing.assert_close(again(z), stack(z), rtol=0, atol=0)
    narrow = copy.deepcopy(stack).float()
    torch.testing.assert_close(narrow(z.float()), stack(z).float(), rtol=1e-4, atol=1e-4)
    assert {p.dtype for member in narrow.split() for p in member.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "SGD"])
def test_what_works_entry_by_entry_does_to_a_stack_what_it_does_to_each(name):
    found, z = members(), points(3, 7)
    options = {"momentum": 0.9} if name == "SGD" else {}
    stack = Stack(found)
    whole = getattr(torch.optim, name)(list(stack.trainable().values()), lr=1e-2, **options)
    for _ in range(8):
        whole.zero_grad()
        stack(z).square().mean((1, 2)).sum().backward()
        whole.step()
    for k, member in enumerate(found):
        alone = getattr(torch.optim, name)(list(member.trainable().values()), lr=1e-2, **options)
        for _ in range(8):
            alone.zero_grad()
            member(z[k]).square().mean().backward()
            alone.step()
        for path, parameter in member.trainable().items():
            torch.testing.assert_close(stack.trainable()[path][k], parameter, rtol=1e-10, atol=1e-12)


def _pissa(rank):
    base = network()
    return Adapted(base, {"layers.2.weight": pissa(base.get_parameter("layers.2.weight"), rank)})


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (lambda: [], "a stack is made of no modules; legal is one or more"),
        (
            lambda: [network(), network(width=5)],
            r"module 1 of a stack differs from the first: its module 'layers.0' is",
        ),
        (lambda: [nn.Tanh(), nn.Linear(1, 1)], r"its module 'itself' is Linear\(.*\), and the first's Tanh\(\)"),
        (lambda: [_pissa(2), _pissa(3)], "its module 'form.layers.2.weight' is Tucker.*ranks.*legal is one structure"),
        (
            lambda: [network(), network().float()],
            r"its tensor 'layers.0.weight' is \(6, 3\) of torch.float32, trained, and the first's .*float64",
        ),
        (lambda: [network(), network().requires_grad_(False)], "frozen, and the first's .* trained"),
        (
            lambda: [adapt(network(), "svd"), adapt(network(), "full")],
            "its module 'form.layers' is missing, and the first's Module",
        ),
        (lambda: [network().requires_grad_(False)] * 2, "nothing in a stack's modules requires gradients"),
    ],
)
def test_modules_that_are_made_otherwise_are_refused_by_where(modules, words):
    with pytest.raises(UsageError, match=words):
        Stack(modules())
