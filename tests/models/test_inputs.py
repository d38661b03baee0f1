import pytest
import torch

from lissome._errors import UsageError
from lissome.calculus import derivatives
from lissome.models import KAN
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
