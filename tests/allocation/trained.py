"""Adapted networks after a little training, on a regression and on a differential equation."""

import copy
import functools

import torch
from torch import nn

from lissome.adapt import Adapted, lora, lora_xs, pissa, svd
from lissome.adapt.basis import rotated
from lissome.allocation import replaced
from lissome.models import MLP
from tests.contracts.test_adapt import Net, three_way_lora
from tests.pde.members import problem_of

FORMS = {
    "lora": lambda W, seed: lora(W, 3, generator=seeded(seed), scale=0.5),
    "pissa": lambda W, seed: pissa(W, 2),
    "svd": lambda W, seed: svd(W),
    "svd cut": lambda W, seed: svd(W, 2),
    "lora-xs": lambda W, seed: lora_xs(W, 3),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def residual(model, batch):
    """Return what a regression leaves, (N,)."""
    return model(batch["x"])[:, 0] - batch["y"]


def loss(model, batch):
    return residual(model, batch).square().mean()


def batches(count=2, rows=9, dtype=torch.float64):
    found = []
    for seed in range(count):
        x = torch.randn(rows, 3, generator=seeded(50 + seed), dtype=torch.float64).to(dtype)
        found.append({"x": x, "y": torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2]})
    return found


@functools.cache
def _regression(kind, dtype):
    base = Net().to(dtype)
    forms = {path: FORMS[kind](base.get_parameter(path), j) for j, path in enumerate(["hidden.weight", "wide.weight"])}
    with torch.no_grad():
        forms["cube"] = three_way_lora(base.cube, 2)
    return _train(Adapted(base, forms, train=["first.*"]), loss, batches(dtype=dtype))


def regression(kind="lora", dtype=torch.float64):
    """Return a network with forms of one kind on two matrices, of which one is used twice, and another on a tensor."""
    return copy.deepcopy(_regression(kind, dtype))


@functools.cache
def equation():
    """Return a problem with second derivatives in its residual."""
    return problem_of("heat", points={"interior": 12, "boundary": 4, "initial": 4})


def equation_loss(model, batch):
    return equation().loss(model, batch)


def equation_residual(model, batch):
    return equation().residual(model, batch)


def equation_batches(count=2):
    return [equation().sample(seeded(seed)) for seed in range(count)]


@functools.cache
def _solver():
    problem = equation()
    net = MLP(problem.inputs, width=6, depth=3, offset=problem.offset, generator=seeded()).to(problem.dtype)
    paths = [f"layers.{layer}.weight" for layer in (2, 4)]
    forms = {path: lora(net.get_parameter(path), 3, generator=seeded(j)) for j, path in enumerate(paths)}
    return _train(Adapted(net, forms, train=["*.bias"]), equation_loss, equation_batches())


def solver():
    return copy.deepcopy(_solver())


def _train(model, loss, data, steps=25):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, data[step % len(data)]).backward()
        optimizer.step()
    model.zero_grad()
    return model


def gated(terms, rotations, call):
    """Return the model in a basis, and `call` on it as a function of gates (n,) written into the forms' own buffers."""
    forms = dict(terms.model.forms())
    for path in terms.names:
        forms[path] = rotated(forms[path], rotations[path])
    model, carrier = replaced(terms.model, forms), _Call(call)
    carrier.model = model
    sizes = [min(forms[path].ranks) for path in terms.names]

    def function(gates, batch):
        parts = zip(terms.names, gates.split(sizes), strict=True)
        full = {path: part if forms[path].gates.dim() == 1 else torch.diag(part) for path, part in parts}
        given = {f"model.form.{path}.gates": part for path, part in full.items()}
        return torch.func.functional_call(carrier, given, (batch,))

    return model, function


class _Call(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, batch):
        return self.call(self.model, batch)


def second_order(function, n, data, dtype=torch.float64):
    """Return the mean gradient and Hessian in the gates by nested reverse mode."""
    ones = torch.ones(n, dtype=dtype, requires_grad=True)
    value = torch.stack([function(ones, batch) for batch in data]).mean()
    (gradient,) = torch.autograd.grad(value, ones, create_graph=True)
    rows = [torch.autograd.grad(each, ones, retain_graph=True, materialize_grads=True)[0] for each in gradient]
    return gradient.detach(), torch.stack(rows)


def landed(choice):
    """Return the loss that was measured."""
    return choice.before + choice.measured


def snapshot(model):
    """Return all by which a model could have been changed."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "wants": [(name, p.requires_grad, p.grad) for name, p in model.named_parameters()],
        "ids": [id(p) for p in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def same(before, after):
    """Return whether two snapshots are the same, bit for bit."""
    state, other = before.pop("state"), after.pop("state")
    equal = state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
    return equal and before == after
