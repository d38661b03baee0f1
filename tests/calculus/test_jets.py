"""One pass equals nested reverse mode, in value and in the parameters' gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome._errors import UsageError
from lissome.calculus import derivatives, explain
from lissome.models import ACTIVATIONS, MLP
from tests.oracles.derivatives import by_hessian

TIGHT = 1e-10


def fields(result):
    return result.value, result.first, result.second, result.along


def largest(a, b):
    return float((a - b).detach().abs().max()) if a.numel() else 0.0


def parameter_gradients(result, model, seeds):
    total = sum(
        (part * seed[: part.numel()].reshape(part.shape)).sum()
        for part, seed in zip(fields(result), seeds, strict=True)
    )
    return torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True)


def assert_same(model, z, first, second, along, mode):
    ours = derivatives(model, z, first, second, along, mode=mode)
    truth = derivatives(model, z, first, second, along, mode="nested")
    for mine, other in zip(fields(ours), fields(truth), strict=True):
        assert mine.shape == other.shape
        # relu3 cubes, so values reach 1e5, where one rounding is 1e-10 by itself
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        assert largest(mine, other) < TIGHT * scale
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(max(part.numel(), 1), generator=generator, dtype=z.dtype) for part in fields(truth)]
    for mine, other in zip(
        parameter_gradients(ours, model, seeds), parameter_gradients(truth, model, seeds), strict=True
    ):
        assert largest(mine, other) < TIGHT * max(1.0, float(other.abs().max()))


@settings(max_examples=40, deadline=None)
@given(
    dimension=st.integers(1, 7),
    width=st.integers(1, 9),
    depth=st.integers(1, 3),
    name=st.sampled_from(sorted(ACTIVATIONS)),
    mode=st.sampled_from(["auto", "one-pass", "compressed"]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_one_pass_equals_nested(dimension, width, depth, name, mode, seed, data):
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand(dimension, generator=generator).tolist()
    model = MLP(dimension, width=width, depth=depth, activation=name, offset=offset, generator=generator).double()
    z = torch.randn(5, dimension, generator=generator, dtype=torch.float64)
    weight = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0])
    first = tuple(data.draw(st.lists(st.integers(0, dimension - 1), max_size=3)))
    second = tuple(tuple(data.draw(weight) for _ in range(dimension)) for _ in range(data.draw(st.integers(0, 2))))
    count = data.draw(st.integers(0, 2))
    along = torch.randn(count, 5, dimension, generator=generator, dtype=torch.float64) if count else None
    assert_same(model, z, first, second, along, mode)


@pytest.mark.parametrize("second", [(), ((1.0,) * 5,)])
def test_large_values_agree_to_rounding(second):
    generator = torch.Generator().manual_seed(234)
    offset = torch.rand(5, generator=generator).tolist()
    model = MLP(5, width=6, depth=3, activation="relu3", offset=offset, generator=generator).double()
    z = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    along = torch.randn(1, 5, 5, generator=generator, dtype=torch.float64)
    assert derivatives(model, z, along=along).along.abs().max() > 1e5
    assert_same(model, z, (), second, along, "one-pass")


def test_nested_equals_the_whole_hessian():
    model = MLP(4, width=7, depth=2, activation="tanh").double()
    z, along = torch.randn(6, 4).double(), torch.randn(2, 6, 4).double()
    second = ((1.0, -2.0, 0.0, 1.0), (0.0, 0.0, 3.0, 0.0))
    truth = by_hessian(model, z, (1, 3), second, along)
    ours = derivatives(model, z, (1, 3), second, along, mode="nested")
    assert all(largest(mine, other) < TIGHT for mine, other in zip(fields(ours), truth, strict=True))


@pytest.mark.parametrize("layer", [nn.SiLU(), nn.Sigmoid(), nn.GELU(), nn.Tanh(), nn.Identity()])
def test_torchs_own_activations(layer):
    model = nn.Sequential(nn.Linear(3, 6), layer, nn.Linear(6, 5), layer, nn.Linear(5, 1)).double()
    assert_same(
        model, torch.randn(4, 3).double(), (0, 2), ((1.0, 1.0, 1.0),), torch.randn(1, 4, 3).double(), "one-pass"
    )


def test_an_activation_on_the_points_themselves():
    model = nn.Sequential(nn.Tanh(), nn.Linear(12, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    assert_same(model, torch.randn(4, 12).double(), (1,), ((1.0,) * 12,), None, "auto")


@pytest.mark.parametrize("points", [2, 9])
@pytest.mark.parametrize(
    "parts",
    [
        [nn.Linear(4, 6), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1)],
        [nn.Linear(4, 6), nn.Tanh(), nn.Sigmoid(), nn.Linear(6, 1)],
        [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 1)],
        [nn.Sigmoid(), nn.Tanh(), nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1), nn.Tanh()],
        [nn.Linear(4, 1), nn.Tanh()],
        [nn.Linear(4, 5), nn.Linear(5, 1)],
    ],
)
@pytest.mark.parametrize("second", [(), ((1.0, 1.0, 0.0, 2.0),), ((1.0, 0.0, -1.0, 0.0), (0.0, 3.0, 0.0, 0.0))])
@pytest.mark.parametrize("count", [0, 2])
def test_linear_maps_and_activations_in_any_order(points, parts, second, count):
    along = torch.randn(count, points, 4).double() if count else None
    assert_same(nn.Sequential(*parts).double(), torch.randn(points, 4).double(), (2, 0), second, along, "one-pass")


def test_compression_is_exact_in_many_dimensions_and_keeps_signs_apart():
    model = MLP(60, width=6, depth=2).double()
    second = ((0.0,) + (1.0,) * 30 + (-0.5,) * 29,)
    assert "compressed" in explain(model, 60, (0,), second)
    assert_same(model, torch.randn(5, 60).double(), (0, 7), second, torch.randn(1, 5, 60).double(), "auto")


@pytest.mark.parametrize("mode", ["one-pass", "compressed"])
def test_second_derivatives_in_the_parameters(mode):
    model = MLP(9, width=3, depth=2).double()
    z, weight = torch.randn(3, 9).double(), model.layers[0].weight

    def curvature(mode):
        lap = derivatives(model, z, second=((1.0,) * 9,), mode=mode).second.square().sum()
        (gradient,) = torch.autograd.grad(lap, weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    truth = curvature("nested")
    assert largest(curvature(mode), truth) < 1e-9 * float(truth.abs().max())


def test_a_plain_function_takes_the_nested_path():
    out = derivatives(lambda z: (z[:, 0] ** 3 * z[:, 1])[:, None], torch.tensor([[2.0, 5.0]]), (0, 1), ((1.0, 1.0),))
    assert out.first.flatten().tolist() == [60.0, 8.0]
    assert out.second.item() == 60.0


def test_a_linear_function_has_no_curvature():
    out = derivatives(lambda z: z @ torch.tensor([1.0, 2.0]), torch.randn(3, 2), (1,), ((1.0, 1.0),))
    assert out.second.abs().max() == 0
    assert torch.equal(out.first, torch.full((1, 3), 2.0))


def test_nothing_is_recorded_when_gradients_are_off():
    model = MLP(3, width=4, depth=2)
    for mode in ("one-pass", "nested"):
        with torch.no_grad():
            out = derivatives(model, torch.randn(2, 3), (0,), ((1.0,) * 3,), mode=mode)
        assert not any(part.requires_grad for part in fields(out))


def test_stochastic_laplacian_is_unbiased_with_the_stated_variance():
    model = MLP(5, width=8, depth=2, activation="sin").double()
    point = torch.randn(1, 5).double()
    row = (1.0, 1.0, 0.5, -1.0, -2.0)
    hessian = torch.func.hessian(lambda x: model(x[None])[0, 0])(point[0]).detach()
    weights = torch.tensor(row).double()
    exact = float((weights * hessian.diag()).sum())
    alike = (weights[:, None] * weights[None, :]) > 0
    off = hessian.square() * (weights[:, None] * weights[None, :]).abs() * alike
    variance = float(2 * (off.sum() - off.diag().sum()))
    draws = 40_000
    out = derivatives(
        model, point.expand(draws, -1), (1,), (row,), mode="stochastic", generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(out.second.detach().mean()) - exact) < 5 * (variance / draws) ** 0.5
    assert abs(float(out.second.detach().var()) / variance - 1) < 0.05
    assert largest(out.first, derivatives(model, point.expand(draws, -1), (1,)).first) < TIGHT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'"),
        ({"first": (3,)}, "coordinate 3"),
        ({"second": ((1.0, 1.0),)}, "row of 2 weights"),
        ({"z": torch.zeros(3)}, r"legal is \(N, D\)"),
    ],
)
def test_bad_requests_are_sentences(change, words):
    asked = {"u": MLP(3), "z": torch.zeros(2, 3), "first": (), "second": ()} | change
    with pytest.raises(UsageError, match=words):
        derivatives(**asked)


def test_a_module_without_rules_is_named_when_one_pass_is_forced():
    with pytest.raises(UsageError, match="LayerNorm"):
        derivatives(nn.LayerNorm(3), torch.zeros(2, 3), mode="one-pass")


def test_explain_names_the_path():
    assert explain(MLP(11), 11, (0,), ((0.0,) + (1.0,) * 10,)).startswith("one pass: 12 products")
    assert explain(nn.LayerNorm(3), 3, (), ((1.0,) * 3,)).startswith("nested reverse mode, 8 passes")


def test_the_step_compiles_to_the_same_numbers():
    model = MLP(4, width=8, depth=2).double()
    z = torch.randn(6, 4).double()

    def loss():
        return derivatives(model, z, (0,), ((0.0, 1.0, 1.0, 1.0),)).second.square().mean()

    captured = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert largest(captured(), loss()) < TIGHT


@pytest.mark.parametrize(
    "modules", [[nn.Linear(3, 5), nn.Linear(5, 1)], [nn.Tanh(), nn.Linear(3, 1)], [nn.Linear(3, 1), nn.Tanh()]]
)
def test_unusual_stacks_equal_nested(modules):
    net = nn.Sequential(*modules).double()
    z = torch.randn(4, 3, dtype=torch.float64)
    along = torch.randn(2, 4, 3, dtype=torch.float64)
    asked = {"first": (2, 0), "second": ((1.0, 2.0, -1.0), (0.0, 0.0, 3.0)), "along": along}
    mine, truth = (derivatives(net, z, **asked, mode=mode) for mode in ("one-pass", "nested"))
    for name in ("value", "first", "second", "along"):
        torch.testing.assert_close(getattr(mine, name), getattr(truth, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", [(), (0,)])
def test_hessians_of_a_loss_go_through(first):
    net = MLP(2, width=3, depth=2).double()
    z = torch.randn(4, 2, dtype=torch.float64)
    start = {name: p.detach() for name, p in net.named_parameters()}

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            found = derivatives(self.net, z, first, ((1.0, 1.0),), mode="one-pass")
            return found.second.square().sum()

    def loss(weight):
        name = "layers.2.weight"
        changed = {f"net.{key}": weight if key == name else value for key, value in start.items()}
        return torch.func.functional_call(Loss(), changed, ())

    weight = start["layers.2.weight"]
    fast = torch.func.hessian(loss)(weight)
    slow = torch.autograd.functional.hessian(loss, weight)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
