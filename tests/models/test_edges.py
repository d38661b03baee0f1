"""Functions on edges against the layers that they make up, and how they share out what a network does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.adapt import Adapted, tucker
from lissome.models import KAN, KANLayer, SlimKANLayer, edge_functions, update_grid
from lissome.models.bases import BASES

every_basis = pytest.mark.parametrize("name", list(BASES))
few = settings(max_examples=20, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, inputs, reach=1.5, seed=1):
    return (2 * torch.rand(n, inputs, generator=seeded(seed), dtype=torch.float64) - 1) * reach


def network(**sizes):
    return KAN(3, **{"width": 4, "depth": 2, "outputs": 2} | sizes, generator=seeded()).double()


def check_sums(layers, found):
    for layer, one in zip(layers, found, strict=True):
        torch.testing.assert_close(one.values.sum(1).T, layer(one.x.T).detach(), rtol=1e-12, atol=1e-12)


@every_basis
@pytest.mark.parametrize("ranks", [None, (2, 3, 2)])
def test_edges_add_up_to_their_layer(name, ranks):
    net = network(name=name, ranks=ranks)
    check_sums(net.layers, edge_functions(net, points(50, 3), n=17))


@few
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(0, 99))
def test_edges_add_up_at_any_size_and_importances_to_one(inputs, width, depth, n, seed):
    net = KAN(inputs, width=width, depth=depth, generator=seeded(seed)).double()
    found = edge_functions(net, points(20, inputs, seed=seed), n)
    check_sums(net.layers, found)
    for one in found:
        assert one.x.shape[1] == one.values.shape[2] == n
        assert bool((one.importance >= 0).all())
        assert one.importance.sum().item() == pytest.approx(1, rel=1e-12)


def test_the_range_is_what_each_layer_was_given():
    net, z = network(offset=[0.5, 0.0, -1.0]), points(40, 3)
    entered = net.shift(z)
    for layer, one in zip(net.layers, edge_functions(net, z), strict=True):
        torch.testing.assert_close(one.x[:, 0], entered.amin(0))
        torch.testing.assert_close(one.x[:, -1], entered.amax(0))
        assert torch.equal(one.ends, torch.tensor([-1.0, 1.0]).double().expand(layer.inputs, 2))
        entered = layer(entered).detach()


def test_shares_are_those_of_the_deviations():
    layer, x = KANLayer(3, 2, generator=seeded()).double(), points(80, 3)
    found = edge_functions(layer, x)[0]
    alone = torch.stack([layer(torch.where(torch.arange(3) == p, x, 0)) for p in range(3)], 2).detach()
    deviation = alone.std(0, correction=0)  # (outputs, inputs); what the others add at 0 is constant
    torch.testing.assert_close(found.importance, deviation / deviation.sum(1, keepdim=True) / 2)


def test_a_dead_edge_and_what_leads_to_a_dead_node_have_no_importance():
    net = network()
    with torch.no_grad():
        net.layers[1].weight[2, :, 1] = 0  # an edge
        net.layers[2].weight[:, :, 3] = 0  # all that leave node 3
    found = edge_functions(net, points(30, 3))
    assert found[1].importance[2, 1] == 0
    assert not found[1].values[2, 1].any()
    assert not found[2].importance[:, 3].any()
    assert not found[1].importance[3].any()
    assert found[1].importance[:3].sum().item() == pytest.approx(1)


def test_a_constant_edge_has_no_importance():
    layer = KANLayer(2, 1, generator=seeded()).double()
    with torch.no_grad():
        layer.weight[:, :-1, 0], layer.weight[:, -1, 0] = 5.0, 0.0  # B-splines add up to 1
    found = edge_functions(layer, points(60, 2, 1.0))[0]
    torch.testing.assert_close(found.values[0, 0], torch.full_like(found.values[0, 0], 5.0))
    assert found.importance.tolist() == [[0.0, 1.0]]


@every_basis
def test_a_slim_layer_has_the_edges_of_its_dense_tensor(name):
    slim, whole = SlimKANLayer(4, 3, 2, name=name, generator=seeded()).double(), KANLayer(4, 3, name=name).double()
    with torch.no_grad():
        whole.weight.copy_(slim.tensor())
    z = points(30, 4)
    for mine, other in zip(edge_functions(slim, z), edge_functions(whole, z), strict=True):
        torch.testing.assert_close(mine.values, other.values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mine.importance, other.importance, rtol=1e-9, atol=1e-9)


def test_an_adapted_network_that_is_merged_has_the_edges_of_its_own_weights():
    net, z = network(), points(30, 3)
    adapted = Adapted(net, {"layers.1.weight": tucker(net.layers[1].weight, (2, 2, 2))})
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter += 0.1
    found = edge_functions(adapted.merged(), z)
    check_sums(adapted.merged().layers, found)
    assert not torch.allclose(found[1].values, edge_functions(net, z)[1].values)


def test_a_moved_grid_says_its_ends():
    net, z = network(), points(60, 3, 0.4)
    update_grid(net, z)
    found = edge_functions(net, z)
    torch.testing.assert_close(found[0].ends, torch.stack([z.amin(0), z.amax(0)], 1))
    check_sums(net.layers, found)


@pytest.mark.parametrize("z", [points(1, 3), points(1, 3).expand(9, 3)])
def test_at_one_point_nothing_is_important(z):
    for one in edge_functions(network(), z):
        assert not one.importance.any()
        assert bool(one.values.isfinite().all())


def test_a_network_in_float32_is_told_in_float64():
    found = edge_functions(network().float(), points(9, 3))
    assert {each.dtype for one in found for each in (one.x, one.values, one.importance, one.ends)} == {torch.float64}


@pytest.mark.parametrize(
    ("z", "n", "says"),
    [
        (points(5, 2), 9, r"points have shape \(5, 2\); legal is \(N, 3\) with N at least 1"),
        (points(0, 3), 9, r"points have shape \(0, 3\); legal is"),
        (points(5, 3) / 0, 9, "points hold numbers that are not finite; leave those rows out"),
        (points(5, 3), 1, "n is 1; legal are 2 points and more"),
    ],
)
def test_what_cannot_be_told_is_a_sentence(z, n, says):
    with pytest.raises(UsageError, match=says):
        edge_functions(network(), z, n)
