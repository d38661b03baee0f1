"""The hand-written backward pass equals automatic differentiation of its two lines, under every transform."""

import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from lissome.calculus import derivatives
from lissome.calculus.carry import _lines, _Rows, carry, spread
from lissome.models import MLP

SIGNS = [((1.0, 1.0),), ((1.0, -1.0),), ((0.5, 0.0), (-2.0, 1.0))]


def plain(slope, J, signs):
    return slope[:, None] * J, torch.einsum("mk,nkw->nmw", J.new_tensor(signs), J**2)


def inputs(n=3, k=2, w=2):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((n, w), (n, k, w))]


@pytest.mark.parametrize("signs", SIGNS)
def test_values_and_gradients_are_those_of_the_lines(signs):
    tensors = inputs()
    seeds = [torch.randn_like(out) for out in plain(*tensors, signs)]
    kept = []
    for function in (plain, carry, _Rows.apply, _lines):
        outs = function(*tensors, signs)
        kept.append([*outs, *torch.autograd.grad(outs, tensors, seeds)])
    for truth, *mine in zip(*kept, strict=True):
        for found in mine:
            torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("signs", SIGNS)
def test_it_can_be_differentiated_twice_and_forward(signs):
    tensors = inputs()

    def function(*tensors):
        return carry(*tensors, signs)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("points", [4, 5])
def test_shares_of_threads_are_put_together_again(points, monkeypatch):
    monkeypatch.setattr("lissome.calculus.carry._threads", lambda: 2)
    J = torch.randn(points, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(spread(J, weight), torch.einsum("nkw,vw->nkv", J, weight), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(spread, (J, weight))
    assert torch.autograd.gradgradcheck(spread, (J, weight))


# at 4 points the first activation's tangents are written out, at 8 they are not
@pytest.mark.parametrize("points", [4, 8])
@pytest.mark.parametrize("mode", ["one-pass", "compressed"])
def test_transforms_of_torch_func_agree_with_reverse_mode(mode, points):
    model = MLP(9, width=6, depth=3).double()
    z = torch.randn(points, 9, dtype=torch.float64)
    start = {name: p.detach() for name, p in model.named_parameters()}
    along = {name: torch.randn_like(p) for name, p in start.items()}

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, mode):
            out = derivatives(self.model, z, (0,), ((1.0,) * 9,), mode=mode)
            return out.second[0] + out.first[0] * out.value

    def residual(parameters, mode=mode):
        return functional_call(Residual(), {f"model.{name}": p for name, p in parameters.items()}, (mode,))

    def loss(parameters):
        return residual(parameters).square().sum()

    live = {name: p.clone().requires_grad_() for name, p in start.items()}
    rows = [torch.autograd.grad(r, list(live.values()), retain_graph=True) for r in residual(live, "nested")]
    for jacobian in (jacrev(residual)(start), jacfwd(residual)(start)):
        for k, name in enumerate(start):
            truth = torch.stack([row[k] for row in rows])
            torch.testing.assert_close(jacobian[name], truth, rtol=1e-9, atol=1e-10)
    _, product = jvp(residual, (start,), (along,))
    truth = sum((torch.stack([row[k] for row in rows]) * along[name]).flatten(1).sum(1) for k, name in enumerate(start))
    torch.testing.assert_close(product, truth, rtol=1e-9, atol=1e-10)
    two = vmap(grad(loss))({name: torch.stack([p, 2 * p]) for name, p in start.items()})
    second = {name: 2 * p for name, p in start.items()}
    for name, gradient in grad(loss)(second).items():
        torch.testing.assert_close(two[name][1], gradient, rtol=1e-9, atol=1e-10)


def test_mixed_precision_gives_gradients_in_the_parameters_own():
    model = MLP(3, width=8, depth=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = derivatives(model, torch.randn(6, 3), (0,), ((1.0,) * 3,), mode="one-pass")
        loss = out.second.float().square().mean() + out.value.float().square().mean()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_nested_derivatives_go_through_torch_func_too():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1)).double()
    z = torch.randn(4, 2, dtype=torch.float64)
    start = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters):
        found = derivatives(lambda z: functional_call(net, parameters, (z,)), z, (0,), ((1.0, 1.0),))
        return (found.second[0] + found.first[0]).square().sum()

    live = {name: p.clone().requires_grad_() for name, p in start.items()}
    truth = torch.autograd.grad(loss(live), list(live.values()), allow_unused=True, materialize_grads=True)
    for mine, other in zip(grad(loss)(start).values(), truth, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)
