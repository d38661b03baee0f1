"""Grids that move: the function on the data is the best that the new splines hold, and always a number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.models import KAN, KANLayer, update_grid
from tests.oracles import splines as oracle

few = settings(max_examples=15, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, inputs=2, reach=1.0, seed=1):
    return (2 * torch.rand(n, inputs, generator=seeded(seed), dtype=torch.float64) - 1) * reach


def layer_of(intervals=4, seed=0):
    layer = KANLayer(2, 3, intervals=intervals, generator=seeded()).double()
    with torch.no_grad():
        layer.weight.normal_(0, 0.5, generator=seeded(seed))
    return layer


def rms(values):
    return values.square().mean().sqrt().item()


@few
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_a_finer_grid_over_the_same_range_holds_the_function_to_five_digits(n, copies, intervals, times, seed):
    layer = layer_of(intervals, seed)
    ends = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    data = torch.cat([ends, points(n, seed=seed)]).repeat(copies, 1)
    between = points(200, seed=seed + 1)
    before = layer(data).detach(), layer(between).detach()
    change = update_grid(layer, data, times * intervals, uniform=1.0)
    assert change < 1e-5
    assert rms(layer(data).detach() - before[0]) < 1e-5 * rms(before[0])
    assert rms(layer(between).detach() - before[1]) < 1e-4 * rms(before[1])  # where no data are, too


@few
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_data_at_one_place_keep_range_and_function(n, intervals, times, within, seed):
    layer = layer_of(intervals, seed)
    data = (points(1, seed=seed) + (0.0 if within else 2.5)).expand(n, 2)  # 2.5: beyond the end of the grid
    before = layer(data).detach()
    update_grid(layer, data, times * intervals, uniform=0.2)
    torch.testing.assert_close(layer(data).detach(), before, rtol=0, atol=(1e-5 if within else 1e-2) * rms(before))
    low, high = layer.basis.knots[:, 3], layer.basis.knots[:, -4]
    assert bool((low == -1).all())
    assert bool((high == 1).all()) == within
    assert bool((high <= data[0].clamp_min(1) + 1e-12).all())


@few
@given(st.integers(1, 80), st.integers(1, 8), st.floats(0.1, 1.0), st.floats(-1.5, 1.5), st.integers(0, 99))
def test_no_other_numbers_on_the_new_knots_are_nearer_to_the_function(n, intervals, uniform, middle, seed):
    layer, data = layer_of(4, seed), points(n, reach=0.8, seed=seed) + middle
    silu = torch.nn.functional.silu(data) @ layer.weight[:, -1].detach().T
    before = layer(data).detach() - silu
    update_grid(layer, data, intervals, uniform)
    after, best = layer(data).detach() - silu, torch.zeros_like(before)
    assert bool(after.isfinite().all())
    parts = [torch.from_numpy(oracle.basis(layer.basis.knots[p].numpy(), 3, data[:, p].numpy(), 0)) for p in range(2)]
    old = KANLayer(2, 3, intervals=4).double().basis(data)
    weight = layer_of(4, seed).weight[:, :-1].detach()
    for p, new in enumerate(parts):
        target = old[:, :, p] @ weight[:, :, p].T  # each edge is fitted by itself
        best += target - new @ (torch.linalg.pinv(new) @ target)
    # the part of the objective beside the data is 1e-4 of it
    assert rms(after - before) < 2 * rms(best) + 3e-2 * rms(weight)


@few
@given(
    st.sampled_from([torch.float64, torch.float32]),
    st.sampled_from(["any", "one", "equal", "two", "repeated", "tiny", "outside", "outlier"]),
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_no_data_make_a_network_that_is_no_number(dtype, kind, n, intervals, seed):
    net = KAN(2, width=3, depth=2, generator=seeded(seed)).to(dtype)
    data = points(1 if kind == "one" else n, seed=seed)
    data = {
        "equal": data[:1].expand(n, 2),
        "two": torch.where(data > 0, 0.5, -0.5).double(),
        "repeated": data.repeat(5, 1),
        "tiny": 0.2 + 1e-9 * data,
        "outside": data + 4,
        "outlier": torch.cat([data, torch.full((1, 2), 1e6, dtype=torch.float64)]),
    }.get(kind, data).to(dtype)
    change = update_grid(net, data, intervals)
    assert 0 <= change < float("inf")
    for z in (data, points(50, reach=3.0).to(dtype)):
        assert bool(net(z).isfinite().all())
    for layer in net.layers:
        assert bool((layer.basis.knots.diff(dim=1) > 0).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_are_no_numbers_change_nothing(bad):
    net, data = KAN(2, width=3, generator=seeded()).double(), points(5)
    data[3, 1] = bad
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UsageError, match="^data hold numbers that are not finite; leave those rows out$"):
        update_grid(net, data)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_data_of_another_dtype_are_cast_to_the_networks():
    nets = [KAN(2, width=3, generator=seeded()) for _ in range(2)]
    changes = [update_grid(net, data) for net, data in zip(nets, (points(9), points(9).float()), strict=True)]
    assert changes[0] == changes[1]
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])
    with pytest.raises(UsageError, match="data hold numbers that are not finite"):
        update_grid(nets[0], points(9) * 1e300)  # beyond float32


def test_what_has_no_grids_and_parts_of_an_interval_are_told():
    with pytest.raises(UsageError, match="model is of type Linear; legal are a KAN and a KANLayer"):
        update_grid(torch.nn.Linear(2, 2), points(9))
    with pytest.raises(UsageError, match="intervals is 2.5; legal are whole numbers, 1 and more"):
        update_grid(KAN(2), points(9), 2.5)
