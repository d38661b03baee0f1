import pytest
import torch
from torch import nn

from lissome.adapt import Adapted, Tucker, adapt, lotra, slim, svd, tucker
from lissome.adapt.factored import factored, splits
from lissome.calculus import derivatives
from lissome.models import KAN, MLP


def network():
    return MLP(3, width=6, depth=3, generator=torch.Generator().manual_seed(0)).double()


def moved(adapted):
    with torch.no_grad():
        for p in adapted.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    return adapted


def agree(adapted):
    z = torch.randn(8, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    second = ((0.0, 1.0, 1.0),)
    many, few = [], []
    for out, rows in ((many, [z]), (few, list(z.split(1)))):
        found = [derivatives(adapted, each, (0,), second) for each in rows]
        out += [torch.cat([part.value for part in found]), torch.cat([part.second for part in found], 1)[0]]
        out.append(torch.cat([part.first for part in found], 1)[0])
        out.append(torch.cat([adapted(each) for each in rows])[:, 0])
        total = sum(part.square().sum() for part in out)
        out += torch.autograd.grad(total, list(adapted.trainable().values()))
    for a, b in zip(many, few, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["svd", "lora", "lora-xs", "full"])
def test_few_rows_and_many_give_the_same_values_derivatives_and_gradients(method):
    agree(moved(adapt(network(), method, generator=torch.Generator().manual_seed(2))))


TENSORS = {
    "lotra": lambda W: lotra(W, (2, 3, 4), generator=torch.Generator().manual_seed(2)),
    "tucker": tucker,
    "tucker cut": lambda W: tucker(W, (3, 2, 2)),
    "slim": lambda W: slim(W.shape, 3, power=0.5, generator=torch.Generator().manual_seed(2)).double(),
    "tucker moved whole": lambda W: Tucker(
        tucker(W, 2 * [3] + [2]).factors,
        torch.ones(3, 3, 2),
        base="residual",
        scale=0.5,
        train=["core", "factor0", "factor1", "factor2"],
    ).double(),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_layers_of_a_kan_are_left_in_factors_and_give_the_same(kind):
    base = KAN(3, width=5, depth=2, intervals=2, generator=torch.Generator().manual_seed(0)).double()
    path = "layers.1.weight"
    adapted = moved(Adapted(base, {path: TENSORS[kind](base.get_parameter(path))}, train=["layers.0.*"]))
    assert factored(adapted.base, adapted.forms(), {}) is not None
    agree(adapted)


def test_a_kan_without_a_small_form_is_left_as_it_is():
    base = KAN(3, width=5, depth=2, generator=torch.Generator().manual_seed(0)).double()
    assert factored(adapt(base, "full").base, {}, {}) is None


def test_singular_values_are_left_in_factors_and_other_forms_are_not():
    adapted = adapt(network(), "svd")
    assert all(splits(form) for form in adapted.forms().values())
    chain = factored(adapted.base, adapted.forms(), {})
    assert len(chain.chain()) > len(adapted.base.chain())
    assert factored(adapted.base, adapt(network(), "lora-xs").forms(), {}) is None


def test_a_module_with_parameters_that_are_no_linear_map_is_not_taken_apart():
    base = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 1)).double()
    adapted = Adapted(base, {"2.weight": svd(base[2].weight)})
    assert factored(adapted.base, adapted.forms(), {}) is None
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(adapted(z), base(z))
