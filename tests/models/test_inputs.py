import pytest
import torch

from lissome._errors import UsageError
from lissome.calculus import derivatives
from lissome.models import KAN, MLP, TwoLayerKAN
from lissome.pde import Problem, families, load_family
from lissome.recipes.archive import build
from lissome.recipes.settings import NetworkSettings


def test_a_kan_reads_points_shifted_and_scaled():
    same = {"width": 3, "depth": 1}
    plain = KAN(2, generator=torch.Generator().manual_seed(0), **same)
    placed = KAN(2, offset=(1.0, -2.0), extent=(0.5, 4.0), generator=torch.Generator().manual_seed(0), **same)
    z = torch.rand(7, 2, generator=torch.Generator().manual_seed(1))
    own = torch.tensor([1.0, -2.0]) + torch.tensor([0.5, 4.0]) * z
    assert torch.allclose(placed(own), plain(z), atol=1e-6)


@pytest.mark.parametrize("name", ["bspline", "rbf"])
def test_derivatives_in_one_pass_know_the_scale(name):
    net = KAN(2, width=3, depth=2, name=name, offset=(1.0, 0.0), extent=(0.5, 4.0)).double()
    z = torch.rand(9, 2, dtype=torch.float64)
    one, nested = (derivatives(net, z, (0, 1), ((1.0, 2.0),), mode=mode) for mode in ("one-pass", "nested"))
    for a, b in zip((one.value, one.first, one.second), (nested.value, nested.first, nested.second), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("constraint", ["soft", "boundary", "exact"])
@pytest.mark.parametrize("family", families())
def test_points_of_every_family_lie_on_the_grid_and_fill_it(family, constraint):
    problem = Problem(load_family(family)(), constraint=constraint, points={"interior": 500}, test_points=10)
    network = build(problem, NetworkSettings(kind="kan", width=2, depth=1), 0).double()
    seen = []
    network.scale.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    problem.wrap(network)(problem.domain.interior(500, torch.Generator().manual_seed(0)))
    most = seen[0].abs().amax(0)
    assert bool((most <= 1 + 1e-9).all())
    assert float(most[0]) > 0.9  # the time, or the first place


@pytest.mark.parametrize("extent", [(1.0,), (1.0, 0.0), (1.0, float("inf")), (-1.0, 1.0)])
def test_an_extent_that_is_none_is_refused(extent):
    with pytest.raises(UsageError, match="extent"):
        KAN(2, extent=extent)


@pytest.mark.parametrize("kind", [KAN, MLP, TwoLayerKAN])
def test_points_of_another_number_of_coordinates_are_refused_and_never_broadcast(kind):
    network, said = kind(2, width=3).double(), r"^points have shape \({}\); legal is \(N, 2\)$"
    short = torch.zeros(3, 1, dtype=torch.float64)
    ways = {
        "3, 1": [
            network,
            torch.compile(network, backend="eager"),
            lambda z: derivatives(network, z, (0,), ((1.0,),), mode="one-pass"),
            lambda z: derivatives(network, z, (0,), ((1.0,),), mode="nested"),
        ],
        "1, 1": [torch.vmap(lambda point: network(point[None]))],
    }
    for shape, calls in ways.items():
        for call in calls:
            with pytest.raises(UsageError, match=said.format(shape)):
                call(short)


@pytest.mark.parametrize("kind", [KAN, MLP, TwoLayerKAN])
def test_points_that_fit_go_through_the_compiler_and_vmap(kind):
    network = kind(2, width=3, generator=torch.Generator().manual_seed(0)).double()
    z = torch.rand(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(z), network(z))
    torch.testing.assert_close(torch.vmap(lambda point: network(point[None])[0])(z), network(z))


@pytest.mark.parametrize("offset", [(0.0, float("nan")), (float("inf"), 0.0)])
@pytest.mark.parametrize("kind", [KAN, MLP, TwoLayerKAN])
def test_an_offset_that_is_not_finite_is_refused(kind, offset):
    with pytest.raises(UsageError, match="^offset holds (nan|inf); legal are finite numbers$"):
        kind(2, offset=offset)
