"""Periodic inputs, lifts from faces, and the seam of a circle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.calculus import derivatives
from lissome.calculus.nested import nested
from lissome.models import MLP
from lissome.pde import Ball, Box, Family, Periodic, Points, Problem, load_family
from lissome.pde.lift import boundary_lift, whole_lift
from tests.pde.members import FEW, cache, network_for, problem_of, seeded


@settings(max_examples=30, deadline=None)
@given(low=st.floats(-3, 3), length=st.floats(0.3, 9), timed=st.booleans(), seed=st.integers(0, 99))
def test_periodic_inputs_agree_at_both_ends_with_their_derivatives(low, length, timed, seed):
    features = Periodic(low, low + length, timed).double()
    D = 1 + timed
    z = torch.rand(6, D, generator=seeded(seed), dtype=torch.float64)
    z[:, -1] = low + length * z[:, -1]
    z[0, -1] = low
    far = z.clone()
    far[:, -1] += length
    assert features(z).shape == (6, features.outputs)
    net = MLP(features.outputs, width=5, depth=2, generator=seeded(seed)).double()
    model = torch.nn.Sequential(features, net)
    second = tuple(float(i == D - 1) for i in range(D))
    ours = derivatives(model, z, tuple(range(D)), (second,))
    for other in (derivatives(model, far, tuple(range(D)), (second,)), nested(model, z, tuple(range(D)), (second,))):
        for name in ("value", "first", "second"):
            a, b = getattr(ours, name), getattr(other, name)
            assert (a - b).detach().abs().max() < 1e-9 * (1 + b.detach().abs().max())


def test_periodic_inputs_tell_all_places_apart():
    features = Periodic(0.0, 2.0, False).double()
    x = torch.linspace(0, 2, 201, dtype=torch.float64)[:-1, None]
    a = features(x)
    assert a[0].tolist() == [1.0, 0.0]
    quarter = Periodic(-1.0, 3.0, True).double()(torch.tensor([[0.7, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(quarter, torch.tensor([[0.7, 0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(a.square().sum(1), torch.ones(200).double())
    assert torch.cdist(a, a).fill_diagonal_(9).min() > 0.03
    assert not list(features.parameters())
    assert not features.state_dict()


def edges(box, n, seed):
    return Points(box.boundary(n, seeded(seed)), box.time is not None)


class Anything(Family):
    """Values that vanish nowhere."""

    name = "anything"
    default_dimension = 2
    timed = False

    def domain(self):
        return Box(
            (-1.0, 0.0, 2.0)[: self.dimension], (1.0, 3.0, 2.5)[: self.dimension], (0.0, 2.0) if self.timed else None
        )

    def operator(self, u, p):
        return u.laplacian

    def exact(self, p):
        waves = torch.cos(p.x * torch.arange(1.0, self.dimension + 1).to(p.z)).prod(1) + p.x.sum(1) ** 2
        return waves * torch.exp(-p.t) if self.timed else waves


class Moving(Anything):
    timed = True


class Waving(Moving):
    order_in_time = 2

    def operator(self, u, p):
        return u.dtt - u.laplacian


@pytest.mark.parametrize("kind", [Anything, Moving, Waving])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_faces_blend_into_one_function(kind, d):
    family = kind(d)
    p = edges(family.domain(), 80, d)
    torch.testing.assert_close(boundary_lift(family)(p), family.exact(p), rtol=1e-12, atol=1e-12)
    inside = Points(family.domain().interior(9, seeded()), kind.timed)
    assert (boundary_lift(family)(inside) - family.exact(inside)).abs().max() > 1e-3  # it is no copy of the solution


@pytest.mark.parametrize("kind", [Moving, Waving])
@pytest.mark.parametrize("d", [1, 2])
def test_initial_values_and_rates_are_added_to_the_faces(kind, d):
    family = kind(d)
    lift, box = whole_lift(family), family.domain()
    for p in (edges(box, 60, d), Points(box.initial(60, seeded()), True)):
        torch.testing.assert_close(lift(p), family.exact(p), rtol=1e-12, atol=1e-12)
    if family.order_in_time == 2:
        start = box.initial(60, seeded())
        ours, truth = (nested(lambda z, f=f: f(Points(z, True)), start, (0,)).first for f in (lift, family.exact))
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


class Bump(Family):
    """A function of |x| in a square, whose faces are blended from values that are not."""

    name = "bump"
    radial = True

    def domain(self):
        return Box((-1.0, -0.5), (1.0, 0.5))

    def operator(self, u, p):
        return -u.laplacian

    def exact(self, p):
        return torch.exp(-(p.r**2))


def test_a_radial_solution_in_a_box():
    problem = Problem(Bump(), constraint="boundary", points=FEW, test_points=20)
    model = network_for(problem)
    p = edges(problem.domain, 40, 0)
    torch.testing.assert_close(model(p.z)[:, 0], Bump().exact(p))
    z = problem.domain.interior(5, seeded())
    ours, truth = derivatives(model, z, (0,), ((1.0, 1.0),)), nested(model, z, (0,), ((1.0, 1.0),))
    torch.testing.assert_close(ours.second, truth.second)
    source = problem.sample(seeded())
    x = source["interior"]
    torch.testing.assert_close(source["source"], (4 - 4 * x.square().sum(1)) * torch.exp(-x.square().sum(1)))


@pytest.mark.usefixtures(cache.__name__)
def test_a_smooth_seam_is_not_given_a_kink():
    """allen-cahn-1d has a kink at the first time only; its own lift belongs to exact initial values alone."""
    for constraint in ("boundary", "exact"):
        problem = problem_of("allen-cahn-1d", constraint)
        model = network_for(problem)
        t = torch.linspace(0.1, 1, 5).double()[:, None]
        ends = [torch.cat([t, torch.full_like(t, x)], 1) for x in (-1 + 1e-9, 1 - 1e-9)]
        left, right = (derivatives(model, z, (1,)).first for z in ends)
        assert (left - right).abs().max() < 1e-5
    early = torch.tensor([[1e-12, -1 + 1e-3], [1e-12, 1 - 1e-3]]).double()
    slopes = derivatives(model, early, (1,)).first[0]
    torch.testing.assert_close(slopes, torch.tensor([2.0, -2.0]).double(), rtol=0.02, atol=0.0)


def test_a_lift_that_misses_its_values_is_refused():
    class Wrong(Anything):
        def lift(self, p):
            return self.exact(p) + 1e-3

    with pytest.raises(
        UsageError, match=r"test_constraint.py, line \d+: lift of .* misses the boundary values by 0.001"
    ):
        boundary_lift(Wrong())


def test_a_lift_that_cannot_be_differentiated_is_refused():
    class Frozen(Anything):
        @torch.no_grad()
        def lift(self, p):
            return self.exact(p)

    problem = Problem(Frozen(), constraint="boundary", points=FEW, test_points=20)
    with pytest.raises(UsageError, match="lift of .* cannot be differentiated"):
        problem.wrap(MLP(problem.inputs).double())


def test_values_on_a_sphere_need_the_familys_own_lift():
    class Shell(Anything):
        def domain(self):
            return Ball(2)

    with pytest.raises(UsageError, match="family 'anything' has boundary values up to .* take constraint 'soft'"):
        boundary_lift(Shell())
    parabolic = load_family("parabolic")(3, c=2)
    p = Points(parabolic.domain().boundary(20, seeded()), True)
    torch.testing.assert_close(boundary_lift(parabolic)(p), parabolic.exact(p))


def test_values_that_vanish_need_no_lift():
    assert boundary_lift(load_family("allen-cahn")(4, c=3)) is None
    assert boundary_lift(load_family("convection")()) is None
    assert math.isclose(float(load_family("heat")(2).domain().factor(torch.full((1, 3), 0.5), (), (), None).value), 1)
