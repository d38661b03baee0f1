import pytest
import torch
from torch import nn

from lissome.calculus import derivatives, explain
from lissome.calculus.rules import chain_of
from lissome.models import MLP
from lissome.pde.constraint import Composed
from lissome.pde.zoo.allen_cahn_1d import Smoothed


def points(n=9):
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return torch.stack([z[:, 0].clamp_min(0.05), 2 * z[:, 1] - 1], 1), torch.randn(
        2, n, 2, generator=generator
    ).double()


@pytest.mark.parametrize("second", [((0.0, 1.0),), ((1.0, 1.0), (0.0, -2.0)), ()])
@pytest.mark.parametrize("mode", ["auto", "one-pass", "stochastic"])
def test_a_network_behind_a_chart_agrees_with_nested_reverse_mode_in_value_and_gradient(second, mode):
    net = MLP(3, width=5, depth=2, generator=torch.Generator().manual_seed(1)).double()
    model, (z, along) = Composed(Smoothed(1e-2), net), points()
    found = derivatives(model, z, (0, 1), second, along, mode=mode)
    truth = derivatives(model, z, (0, 1), second, along, mode="nested")
    for name in ("value", "first", "second", "along"):
        a, b = getattr(found, name), getattr(truth, name)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        if a.numel():
            ours = torch.autograd.grad(
                a.square().sum(), list(net.parameters()), retain_graph=True, materialize_grads=True
            )
            theirs = torch.autograd.grad(
                b.square().sum(), list(net.parameters()), retain_graph=True, materialize_grads=True
            )
            for p, q in zip(ours, theirs, strict=True):
                torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


def test_a_chart_anywhere_but_at_the_start_is_no_chain():
    assert chain_of(nn.Sequential(nn.Linear(2, 2), Smoothed(1e-2))) is None
    assert chain_of(nn.Sequential(Smoothed(1e-2), nn.Linear(3, 1))) is not None


def test_explain_says_that_one_pass_is_taken():
    model = Composed(Smoothed(1e-2), MLP(3, width=5, depth=2))
    assert explain(model, 2, second=((0.0, 1.0),)).startswith("one pass: 3 products")
