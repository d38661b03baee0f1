"""KAN layers against their definition, their start, their derivatives in one pass, and grids that move."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.adapt import Adapted, lora, tucker
from lissome.calculus import derivatives, explain
from lissome.models import KAN, KANLayer, SlimKANLayer
from lissome.models.bases import BASES
from lissome.models.regrid import update_grid
from tests.oracles import splines as oracle

every_basis = pytest.mark.parametrize("name", list(BASES))
few = settings(max_examples=20, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, inputs, reach=1.0, seed=1):
    return (2 * torch.rand(n, inputs, generator=seeded(seed), dtype=torch.float64) - 1) * reach


def network(name="bspline", **sizes):
    net = KAN(3, **{"width": 4, "depth": 2, "name": name, "intervals": 3} | sizes, generator=seeded()).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=seeded(3), dtype=torch.float64))
    return net


def fields(found):
    return found.value, found.first, found.second, found.along


@few
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 4))
def test_a_layer_is_its_definition(inputs, outputs, intervals, order):
    layer = KANLayer(inputs, outputs, intervals=intervals, order=order, generator=seeded()).double()
    x = points(9, inputs, 2.0)
    truth = oracle.layer(layer.weight.detach().numpy(), layer.basis.knots.numpy(), order, x.numpy())
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(truth), rtol=1e-10, atol=1e-10)


@every_basis
@pytest.mark.parametrize("second", [((1.0, 1.0, 1.0),), ((0.0, 1.0, -2.0), (1.0, 0.0, 0.5)), ()])
def test_one_pass_is_nested_reverse_mode(name, second):
    net, z, along = network(name), points(7, 3), points(2 * 7, 3, seed=5).reshape(2, 7, 3)
    ours, truth = (derivatives(net, z, (0, 2), second, along, mode=mode) for mode in ("one-pass", "nested"))
    seeds = torch.randn(7, generator=seeded(9), dtype=torch.float64)
    for mine, other in zip(fields(ours), fields(truth), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)
    slopes = [
        torch.autograd.grad(sum((part * seeds).sum() for part in fields(found)), list(net.parameters()))
        for found in (ours, truth)
    ]
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)


def test_derivatives_of_a_kan_take_the_one_pass_way():
    assert explain(network(), 3, second=((1.0,) * 3,)).startswith("one pass")


@pytest.mark.parametrize("depth", [1, 2])
def test_stochastic_second_derivatives_have_no_bias(depth):
    net, z = network(depth=depth), points(5, 3)
    truth = derivatives(net, z, second=((1.0, 1.0, 1.0),)).second
    draws = [
        derivatives(net, z, second=((1.0,) * 3,), mode="stochastic", generator=seeded(k)).second for k in range(400)
    ]
    found = torch.stack(draws).detach()
    error = found.std(0) / len(draws) ** 0.5
    assert bool(((found.mean(0) - truth.detach()).abs() <= 5 * error + 1e-9).all())


@every_basis
def test_values_are_smooth_in_the_weights(name):
    layer, x = KANLayer(2, 2, name=name, intervals=2).double(), points(4, 2)
    assert torch.autograd.gradcheck(
        lambda W, x: torch.func.functional_call(layer, {"weight": W}, (x,)), (layer.weight, x.requires_grad_())
    )


@every_basis
def test_the_start_is_small_and_drawn_from_its_generator_alone(name):
    before = torch.get_rng_state()
    one, two = (KANLayer(400, 300, name=name, generator=seeded(5)).double() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.weight, two.weight)
    x = points(200, 400)
    splines = one.basis(x).flatten(1) @ one.weight[:, :-1].flatten(1).T
    assert splines.std().item() == pytest.approx(0.15, rel=0.1)
    assert one.weight[:, -1].std().item() == pytest.approx(1.5 / 400**0.5, rel=0.02)


@every_basis
def test_far_outside_the_grid_values_stay_bounded_but_for_silu(name):
    layer = KANLayer(1, 1, name=name, generator=seeded()).double()
    far = torch.tensor([[-1e4], [1e4]], dtype=torch.float64)
    rest = layer(far) - layer.weight[:, -1] * torch.nn.functional.silu(far)
    assert bool((rest.abs() <= layer.weight[:, :-1].abs().sum() + 1e-6).all())
    if name in ("bspline", "rbf"):
        assert not rest.abs().gt(1e-9).any()


def test_a_kan_is_adapted_by_forms_of_its_tensors():
    net, z = network(width=5), points(6, 3)
    W = net.layers[1].weight
    forms = {"layers.1.weight": tucker(W, (2, 3, 2))}
    adapted = Adapted(net, forms)
    torch.testing.assert_close(adapted(z), net(z), rtol=1e-10, atol=1e-10)
    ours, truth = (derivatives(adapted, z, second=((1.0,) * 3,), mode=mode).second for mode in ("auto", "nested"))
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)
    with pytest.raises(UsageError, match="this form takes matrices"):
        lora(W, 2, generator=seeded())


# grids


@pytest.mark.parametrize(("intervals", "most"), [(None, 0.1), (24, 5e-3)])
def test_a_grid_moves_and_the_function_on_the_data_stays(intervals, most):
    net, data = network(intervals=6), 0.3 + 0.5 * points(400, 3)
    before = net(data).detach()
    change = update_grid(net, data, intervals)
    after = net(data).detach()
    found = ((after - before).square().mean().sqrt() / before.square().mean().sqrt()).item()
    assert change == pytest.approx(found, rel=1e-9)
    assert change < most  # as near as splines on other knots come to it
    knots = net.layers[0].basis.knots
    torch.testing.assert_close(knots[:, 3], data.amin(0))
    torch.testing.assert_close(knots[:, -4], data.amax(0))
    assert net.layers[0].basis.intervals == (intervals or 6)


def test_twice_the_intervals_of_a_uniform_grid_hold_the_same_function():
    net = network(intervals=4)
    edge = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None].expand(2, 3)
    data = torch.cat([edge, points(500, 3)])
    before = net.layers[0](data).detach()
    assert update_grid(net.layers[0], data, 8, uniform=1.0) < 1e-5
    torch.testing.assert_close(net.layers[0](data).detach(), before, rtol=0, atol=1e-5)


@few
@given(st.integers(1, 12), st.sampled_from(["same", "two", "tiny", "outlier", "any"]), st.integers(1, 20))
def test_few_repeated_or_outlying_data_never_give_nan(n, kind, intervals):
    net, data = network(), points(n, 3)
    if kind == "same":
        data = data[:1].expand(n, 3)
    if kind == "two":
        data = torch.where(data > 0, 0.5, -0.5)
    if kind == "tiny":
        data = 0.2 + 1e-13 * data
    if kind == "outlier":
        data = torch.cat([data, torch.full((1, 3), 1e6, dtype=torch.float64)])
    before = net(data).detach()
    update_grid(net, data, intervals)
    after = net(data).detach()
    assert bool(after.isfinite().all())
    for layer in net.layers:
        assert bool((layer.basis.knots.diff(dim=1) > 0).all())
    if kind in ("same", "tiny"):
        torch.testing.assert_close(after, before, rtol=0.3, atol=0.3)


def test_a_moved_grid_comes_back_from_a_state_dict():
    net, data = network(), points(50, 3, 0.7)
    update_grid(net, data)
    again = network()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(data), net(data))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: KAN(0), "inputs is 0; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, name="spline"), "unknown basis 'spline'; legal are: bspline, chebyshev, fourier, rbf"),
        (lambda: KAN(2, intervals=0), "intervals is 0; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, offset=[1.0]), "offset has 1 numbers; the network has 2 inputs"),
        (lambda: KANLayer(2, 0), "outputs is 0; legal are whole numbers, 1 and more"),
        (
            lambda: update_grid(network("rbf"), points(5, 3)),
            "a basis of kind GaussianRBF has no grid; legal is bspline",
        ),
        (lambda: update_grid(network(), points(5, 2)), r"data have shape \(5, 2\); legal is \(N, 3\)"),
        (lambda: update_grid(network(), points(0, 3)), "with N at least 1"),
        (lambda: update_grid(network(), points(5, 3) / 0), "not finite; leave those rows out"),
        (lambda: update_grid(network(), points(5, 3), uniform=0.0), "uniform is 0.0; legal is a share above 0"),
        (lambda: update_grid(network(), points(5, 3), 0), "intervals is 0; legal are whole numbers, 1 and more"),
    ],
)
def test_what_cannot_be_is_told(call, says):
    with pytest.raises(UsageError, match=says):
        call()


# Slim KAN


@every_basis
def test_a_slim_layer_is_the_layer_of_its_dense_tensor(name):
    slim, whole = (
        SlimKANLayer(5, 4, (3, 2, 4), name=name, generator=seeded()).double(),
        KANLayer(5, 4, name=name).double(),
    )
    with torch.no_grad():
        whole.weight.copy_(slim.tensor())
    x = points(9, 5)
    torch.testing.assert_close(slim(x), whole(x), rtol=1e-10, atol=1e-12)


def test_a_slim_network_starts_with_outputs_of_a_size():
    layer = SlimKANLayer(80, 60, 8, generator=seeded(2)).double()
    assert layer(points(300, 80)).std().item() == pytest.approx(0.25, rel=0.4)
    again = SlimKANLayer(80, 60, 8, generator=seeded(2)).double()
    assert torch.equal(again.tensor(), layer.tensor())
    again.reset(seeded(3))
    assert not torch.equal(again.tensor(), layer.tensor())
    again.reset(seeded(2))
    assert torch.equal(again.tensor(), layer.tensor())


def test_a_slim_network_has_derivatives_in_one_pass_and_few_numbers():
    net = KAN(3, width=6, depth=2, ranks=(3, 2, 3), generator=seeded()).double()
    z = points(6, 3)
    ours, truth = (derivatives(net, z, (0,), ((1.0, 1.0, 2.0),), mode=mode) for mode in ("one-pass", "nested"))
    for mine, other in zip(fields(ours), fields(truth), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)
    full = sum(p.numel() for p in KAN(3, width=6, depth=2).parameters())
    assert sum(p.numel() for p in net.parameters()) < full / 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: KAN(3, ranks=0), "ranks are 0; legal are one number, or three"),
        (lambda: KAN(3, ranks=(1, 2)), r"ranks are \(1, 2\); legal are one number, or three"),
        (lambda: update_grid(KAN(3, ranks=2).double(), points(5, 3)), "the grid of a Slim KAN stays"),
    ],
)
def test_what_a_slim_network_cannot_be_is_told(call, says):
    with pytest.raises(UsageError, match=says):
        call()


# sizes that are no whole numbers


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: KAN(2, width=2.5), "width is 2.5; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, width="8"), "width is '8'; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, width=(3, 2.5)), "width is 2.5; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, width=True), "width is True; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, depth=1.5), "depth is 1.5; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, intervals=2.5), "intervals is 2.5; legal are whole numbers, 1 and more"),
        (lambda: KAN(2, order=2.5), "order is 2.5; legal are whole numbers, 0 and more"),
        (lambda: KANLayer(2.5, 1), "inputs is 2.5; legal are whole numbers, 1 and more"),
        (lambda: SlimKANLayer(2, "1", 2), "outputs is '1'; legal are whole numbers, 1 and more"),
        (lambda: SlimKANLayer(2, 1, 2.5), "ranks are 2.5; legal are one number, or three .* each whole"),
        (lambda: KAN(2, ranks=(1, 2, 2.5)), r"ranks are \(1, 2, 2.5\); legal are one number, or three"),
        (lambda: KAN(2, ranks="222"), "ranks are '222'; legal are one number, or three"),
    ],
)
def test_what_is_no_whole_number_is_told(call, says):
    with pytest.raises(UsageError, match=says):
        call()


def test_whole_numbers_of_numpy_are_sizes():
    whole = np.array([4, 5])
    assert [layer.outputs for layer in KAN(2, width=whole).layers] == [4, 5, 1]
    assert KAN(2, width=whole[0], ranks=whole[0], depth=1).layers[0].ranks == [4, 4, 2]
