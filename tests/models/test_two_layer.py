"""The two-layer KAN of the theorems: its definition by loops, its derivatives, its start, its tangent kernel."""

import math

import pytest
import torch
from torch.func import functional_call, hessian

from lissome._errors import UsageError
from lissome._vector import functional
from lissome.calculus import derivatives, explain, gram
from lissome.models.bases import BASES, basis
from lissome.models.two_layer import TwoLayerKAN

every_basis = pytest.mark.parametrize("name", list(BASES))
either = pytest.mark.parametrize("centred", [False, True])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, inputs, seed=1):
    return 2 * torch.rand(n, inputs, generator=seeded(seed), dtype=torch.float64) - 1


def network(inputs=2, *, moved=0.3, **more):
    """Return a network away from its start, in float64."""
    net = TwoLayerKAN(inputs, **{"width": 4, "intervals": 3, "generator": seeded()} | more).double()
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            p += moved * torch.randn(p.shape, generator=seeded(3 + number), dtype=torch.float64)
    return net


def by_loops(name, A, C, x):
    """Return f at one point (inputs,), function by function."""
    one, total = basis(name, 1, intervals=3), 0.0
    phi = [one(x[p].reshape(1, 1))[0, :, 0] for p in range(len(x))]  # (K,) of each coordinate
    for q in range(len(A)):
        u = sum(float(A[q, k, p] * phi[p][k]) for k in range(A.shape[1]) for p in range(A.shape[2]))
        psi = one(torch.tensor([[math.tanh(u)]], dtype=torch.float64))[0, :, 0]
        total += sum(float(C[0, k, q] * psi[k]) for k in range(C.shape[1]))
    return total / len(A) ** 0.5


@every_basis
@either
def test_it_is_its_definition_less_its_start(name, centred):
    net, x = network(name=name, centred=centred), points(5, 2)
    start = TwoLayerKAN(2, width=4, intervals=3, name=name, generator=seeded()).double().state_dict()
    for value, point in zip(net(x)[:, 0].tolist(), x, strict=True):
        truth = by_loops(name, net.inner.weight.detach(), net.outer.weight.detach(), point)
        if centred:
            truth -= by_loops(name, start["inner.weight"], start["outer.weight"], point)
        assert value == pytest.approx(truth, abs=1e-12)


@every_basis
@pytest.mark.parametrize("second", [((1.0, 1.0),), ((0.0, 1.0), (-2.0, 0.5))])
def test_one_pass_is_nested_reverse_mode(name, second):
    net, z = network(name=name), points(6, 2)
    found = [derivatives(net, z, (0, 1), second, mode=mode) for mode in ("one-pass", "nested")]
    assert explain(net, 2, second=second).startswith("one pass")
    seeds = torch.randn(6, generator=seeded(9), dtype=torch.float64)
    slopes = []
    for each in found:
        torch.testing.assert_close(each.first, found[1].first, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(each.second, found[1].second, rtol=1e-9, atol=1e-9)
        total = sum((part * seeds).sum() for part in (each.value, each.first, each.second))
        slopes.append(torch.autograd.grad(total, list(net.parameters())))
    for mine, other in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_its_offset_moves_the_points():
    net, moved = (network(name="rbf", offset=offset) for offset in (None, (0.25, -0.5)))
    x = points(4, 2)
    torch.testing.assert_close(moved(x), net(x - torch.tensor([0.25, -0.5], dtype=torch.float64)))


def test_torch_func_goes_through_it():
    net, x = network(name="rbf"), points(1, 2)[0]
    H = hessian(lambda x: functional_call(net, dict(net.named_parameters()), (x[None],))[0, 0])(x)
    found = derivatives(net, x[None], second=((1.0, 0.0), (0.0, 1.0))).second[:, 0]
    torch.testing.assert_close(found, H.diagonal(), rtol=1e-9, atol=1e-10)


@every_basis
def test_it_is_zero_at_the_start_and_so_is_its_laplacian(name):
    net, x = TwoLayerKAN(3, width=7, name=name, generator=seeded()).double(), points(9, 3)
    found = derivatives(net, x, second=((1.0,) * 3,))
    assert found.value.abs().max() < 1e-12
    assert found.second.abs().max() < 1e-9


def test_a_frozen_start_is_no_parameter_and_is_kept_with_the_weights():
    net = network()
    assert [name for name, _ in net.named_parameters()] == ["inner.weight", "outer.weight"]
    other = network(generator=seeded(8))
    other.load_state_dict(net.state_dict())
    x = points(4, 2)
    assert torch.equal(other(x), net(x))


@either
def test_its_tangent_kernel_is_positive_and_does_not_know_of_the_frozen_start(centred):
    x = points(6, 2)
    r, theta = functional(lambda net: net(x)[:, 0], network(moved=0.0, width=32, centred=centred))
    K = gram(r, theta).dense()
    assert torch.linalg.eigvalsh(K)[0] > 0
    other = gram(*functional(lambda net: net(x)[:, 0], network(moved=0.0, width=32, centred=not centred))).dense()
    torch.testing.assert_close(K, other)


@every_basis
def test_the_start_keeps_the_variance_times_the_asked_size(name):
    before = torch.get_rng_state()
    net, small = (
        TwoLayerKAN(20, width=2000, name=name, centred=False, inner=inner, generator=seeded(2)).double()
        for inner in (1.0, 0.2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(0.2 * net.inner.weight, small.inner.weight, rtol=1e-5, atol=1e-7)
    u = net.inner(points(100, 20))  # (100, m)
    assert u.var().item() == pytest.approx(1.0, rel=0.1)
    phi = basis(name, 1)(points(400, 1))[:, :, 0]  # (400, K)
    psi = phi @ net.outer.weight.detach()[0]  # (400, m)
    assert psi.var().item() == pytest.approx(1.0, rel=0.1)
    assert abs(net.outer.weight.mean().item()) < 0.05 * net.outer.weight.std().item()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": 0}, "inputs is 0; legal are whole numbers, 1 and more"),
        ({"width": 0}, "width is 0; legal are whole numbers, 1 and more"),
        ({"inner": 0.0}, "inner is 0.0; legal is a number above 0"),
        ({"inner": math.nan}, "inner is nan; legal is a number above 0"),
        ({"offset": (1.0,)}, r"offset has 1 numbers; the network has 2 inputs"),
        ({"name": "rfb"}, "unknown basis 'rfb'"),
        ({"width": 2.5}, "width is 2.5; legal are whole numbers, 1 and more"),
        ({"width": "8"}, "width is '8'; legal are whole numbers, 1 and more"),
        ({"intervals": 2.5}, "intervals is 2.5; legal are whole numbers, 1 and more"),
    ],
)
def test_what_it_cannot_be_is_refused(given, said):
    asked = {"inputs": 2} | given
    with pytest.raises(UsageError, match=said):
        TwoLayerKAN(asked.pop("inputs"), **asked)
