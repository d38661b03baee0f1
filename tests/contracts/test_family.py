"""What every family promises, those of the zoo and a person's own."""

import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.calculus import derivatives
from lissome.calculus.nested import nested
from lissome.pde import DRAWS, Constrained, Points, Problem, families
from tests.oracles import pde as oracle
from tests.oracles.derivatives import by_hessian
from tests.pde.members import FEW, MEMBERS, Formula, cache, every_member, network_for, problem_of, seeded

pytestmark = pytest.mark.usefixtures(cache.__name__)
NUMERIC = {"burgers", "allen-cahn-1d"}  # their references are held to other solvers in tests/pde/test_reference.py
analytic = pytest.mark.parametrize("label", [label for label in MEMBERS if label not in NUMERIC])
hard = pytest.mark.parametrize("constraint", ["boundary", "exact"])
MEASURABLE = 1e-3  # of what the first member teaches; the least of the zoo is 3.3e-3, the near member of allen-cahn-1d
every_draw = pytest.mark.parametrize("draw", DRAWS)


def by_point(family, what, z):
    function = getattr(oracle.BY_NAME[family.name], what)
    return torch.tensor([function(family.values, point) for point in z], dtype=torch.float64)


def start_of(problem):
    return problem.domain.time[0]


def test_every_family_of_the_zoo_has_a_member_here():
    assert {make().name for make in MEMBERS.values()} == {*families(), "decay"}


@every_member
def test_its_name_finds_it(label):
    family = MEMBERS[label]()
    if family.name != "decay":
        assert families()[family.name] is type(family)
    assert family.title or label in ("a file", "an object")
    assert repr(family).startswith(f"{family.name}(dimension={family.dimension}")


@every_member
def test_targets_are_legal_and_unlike_the_default(label):
    family = MEMBERS[label]()
    targets = type(family).targets()
    assert list(targets) == ([] if label in ("a file", "an object") else ["near", "middle", "far"])
    first = family.parameters[0]
    for values in targets.values():
        there = family.at(**values)
        assert there.values == {**family.values, **values}
        assert there.dimension == family.dimension
        assert values[first.name] != first.default
    away = [abs(values[first.name] - first.default) for values in targets.values()]
    assert away == sorted(away)


@every_member
def test_parameters_are_checked(label):
    family = MEMBERS[label]()
    for parameter in family.parameters:
        for bad in (math.nan, math.inf, "much", None):
            with pytest.raises(UsageError, match=f"parameter '{parameter.name}' of family '{family.name}' is"):
                family.at(**{parameter.name: bad})
        if parameter.low > -math.inf:
            with pytest.raises(UsageError, match=f"legal is {parameter.low:g} to"):
                family.at(**{parameter.name: parameter.low - 1})
        assert family.at(**{parameter.name: parameter.default}).values[parameter.name] == parameter.default
    with pytest.raises(UsageError, match=f"unknown parameter of family '{family.name}': 'nonsense'; legal are"):
        family.at(nonsense=1.0)


@every_member
def test_dimensions_are_checked(label):
    kind = type(MEMBERS[label]())
    for bad in (0, -1, 2.0, True, "3"):
        with pytest.raises(UsageError, match="legal is a whole number of at least 1"):
            kind(bad)
    if kind.dimensions is not None:
        with pytest.raises(UsageError, match=f"has {kind.dimensions} space dimensions; it was asked for 7"):
            kind(7)
    else:
        assert kind(7).domain().dimension == 7
    assert kind().domain().dimension == kind().dimension


@analytic
def test_exact_solution_is_the_formula(label):
    family = MEMBERS[label]()
    domain = family.domain()
    z = domain.interior(20, seeded())
    torch.testing.assert_close(family.exact(Points(z, domain.time is not None)), by_point(family, "exact", z))


@every_member
def test_right_hand_side_is_the_one_derived_by_hand(label):
    problem = problem_of(label, points={"interior": 30}, pool=0)
    batch = problem.sample(seeded(1))
    truth = by_point(problem.family, "source", batch["interior"])
    assert ("source" in batch) != problem.family.homogeneous
    source = batch.get("source", torch.zeros_like(truth))
    assert (source - truth).abs().max() < 1e-9 * (1 + truth.abs().max())


@analytic
def test_residual_of_the_exact_solution_vanishes(label):
    """By nested reverse mode through all coordinates, where the right-hand side may come from |x| alone."""
    problem = problem_of(label, mode="nested")
    exact = Formula(lambda z: problem.family.exact(Points(z, problem.timed)))
    batch = problem.sample(seeded(1))
    scale = 1 + float(batch.get("source", torch.zeros(1)).abs().max())
    assert problem.residual(exact, batch).abs().max() < 1e-9 * scale
    for kind in ("error", "squared_error", "fresh"):
        assert problem.evaluate(exact)[kind] < 1e-12 * scale**2


@every_member
@every_draw
def test_points_lie_where_they_should(label, draw):
    family = MEMBERS[label]()
    domain = family.domain()
    timed = int(domain.time is not None)
    inside, edge = domain.interior(64, seeded(), draw), domain.boundary(64, seeded(), draw)
    for z in (inside, edge):
        assert z.shape == (64, domain.coordinates)
        assert z.dtype == torch.float64
        assert bool(domain.contains(z).all())
    x = edge[:, timed:]
    if hasattr(domain, "radius"):
        torch.testing.assert_close(x.norm(dim=1), torch.full((64,), domain.radius, dtype=torch.float64))
        assert bool((inside[:, timed:].norm(dim=1) < domain.radius).all())
    else:
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (domain.low, domain.high))
        assert bool(((x == low) | (x == high)).any(1).all())
        assert bool(((inside[:, timed:] > low) & (inside[:, timed:] < high)).all())
    if timed:
        start = domain.initial(64, seeded(), draw)
        assert start.shape == inside.shape
        assert bool((start[:, 0] == domain.time[0]).all())
        assert bool(domain.contains(start).all())


@every_member
@every_draw
def test_points_follow_from_the_generator_alone(label, draw):
    domain = MEMBERS[label]().domain()
    kinds = [domain.interior, domain.boundary] + ([domain.initial] if domain.time is not None else [])
    for kind in kinds:
        assert torch.equal(kind(9, seeded(3), draw), kind(9, seeded(3), draw))
        generator = seeded(3)
        first, second = kind(9, generator, draw), kind(9, generator, draw)
        if not (label.endswith("in 1") and kind == domain.boundary and domain.time is None):
            assert not torch.equal(first, second)


@every_member
def test_batches_follow_from_generator_and_seed(label):
    one, twin, other = (problem_of(label, seed=seed) for seed in (0, 0, 1))
    a, b = one.sample(seeded(5)), twin.sample(seeded(5))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["interior"], one.sample(seeded(6))["interior"])
    derived = not one.family.homogeneous
    assert torch.equal(a["interior"], other.sample(seeded(5))["interior"]) != derived  # a pool is drawn from the seed


@hard
@every_member
def test_hard_constraints_hold_for_any_network(label, constraint):
    problem = problem_of(label, constraint)
    model, domain = network_for(problem), problem.domain
    edge = domain.boundary(40, seeded(1))
    if domain.periodic:
        there = domain.opposite(edge)
        assert (model(edge) - model(there)).abs().max() < 1e-12
        nudge = torch.tensor([0.0, 1e-9]).double()  # at the seam itself a kink that is to cancel has no slope
        here, there = (derivatives(model, z, (1,)).first for z in (edge + nudge, there - nudge))
        assert (here - there).abs().max() < 1e-5
    else:
        values = by_point(problem.family, "exact", edge)
        assert (model(edge)[:, 0] - values).abs().max() < 1e-12 * (1 + values.abs().max())
    if constraint == "exact" and problem.timed:
        start = domain.initial(40, seeded(2))
        assert (model(start)[:, 0] - by_point(problem.family, "exact", start)).abs().max() < 1e-12
        if problem.family.order_in_time == 2:
            found = nested(model, start, (0,)).first[0]
            assert (found - by_point(problem.family, "velocity", start)).abs().max() < 1e-12


@hard
@every_member
def test_hard_constraints_leave_the_inside_free(label, constraint):
    problem = problem_of(label, constraint)
    z = problem.domain.interior(20, seeded())
    one, other = (network_for(problem, seed)(z) for seed in (0, 1))
    assert bool(((one - other).abs() > 0).all())


def left_to_learn(family, z):
    """Return (exact - lift) / factor under the constraint `boundary`, (N,)."""
    problem = Problem(family, constraint="boundary", points=FEW, test_points=5)
    zero, one = (
        problem.wrap(Formula(lambda a, value=value: torch.full_like(a[:, 0], value)))(z)[:, 0] for value in (0.0, 1.0)
    )
    return (family.exact(Points(z, problem.timed)) - zero) / (one - zero)


@pytest.mark.parametrize("name", families())
def test_what_is_left_to_learn_within_the_boundary_differs_from_member_to_member(name):
    """Else adapting to near, middle and far members would measure nothing."""
    start = families()[name]()
    z = start.domain().interior(500, seeded())
    first = left_to_learn(start, z)
    moved = [(left_to_learn(start.at(**there), z) - first).norm() / first.norm() for there in start.targets().values()]
    assert len(moved) == 3
    assert min(moved) > MEASURABLE, moved


@hard
@every_member
def test_derivatives_under_a_constraint_equal_nested_reverse_mode(label, constraint):
    problem = problem_of(label, constraint)
    model, z = network_for(problem), problem.domain.interior(6, seeded(4))
    assert isinstance(model, Constrained)
    D = problem.coordinates
    first, second = tuple(range(D)), (tuple(float(i) for i in range(1, D + 1)), tuple(float(i % 2) for i in range(D)))
    along = torch.randn(2, 6, D, generator=seeded(5), dtype=torch.float64)
    ours, truth = (
        derivatives(model, z, first, second, along, mode="auto"),
        nested(model, z, first, second, along),
    )
    parameters = list(model.network.parameters())
    for name in ("value", "first", "second", "along"):
        mine, other = getattr(ours, name), getattr(truth, name)
        scale = 1 + float(other.detach().abs().max())
        assert mine.shape == other.shape
        assert (mine - other).detach().abs().max() < 1e-10 * scale, name
        probe = torch.randn(mine.shape, generator=seeded(6), dtype=torch.float64)
        one, two = (
            torch.autograd.grad((part * probe).sum(), parameters, retain_graph=True, allow_unused=True)
            for part in (mine, other)
        )
        for a, b in zip(one, two, strict=True):
            assert (a is None) == (b is None) or max(float(q.abs().max()) for q in (a, b) if q is not None) == 0
            if a is not None and b is not None:
                assert (a - b).abs().max() < 1e-10 * (1 + b.abs().max())


@hard
@pytest.mark.parametrize("label", ["parabolic", "poisson, faces not 0", "klein-gordon"])
def test_derivatives_under_a_constraint_equal_the_whole_hessian(label, constraint):
    problem = problem_of(label, constraint)
    model, z = network_for(problem), problem.domain.interior(4, seeded(4))
    D = problem.coordinates
    second, along = (tuple(float(i + 1) for i in range(D)),), torch.randn(1, 4, D, generator=seeded(5)).double()
    ours = derivatives(model, z, (0, D - 1), second, along)
    truth = by_hessian(model, z, (0, D - 1), second, along)
    for mine, other in zip((ours.value, ours.first, ours.second, ours.along), truth, strict=True):
        assert (mine - other).detach().abs().max() < 1e-10 * (1 + other.detach().abs().max())


@pytest.mark.parametrize("draw", ["published", "sobol"])
@analytic
def test_right_hand_sides_of_pool_and_fresh_points_agree(label, draw):
    """A part of the pool must keep points and right-hand sides together."""
    problem = problem_of(label, sampling=draw, pool=3)
    for _ in range(2):
        batch = problem.sample(seeded(1))
        if "source" in batch:
            truth = by_point(problem.family, "source", batch["interior"])
            assert (batch["source"] - truth).abs().max() < 1e-9 * (1 + truth.abs().max())


def test_a_problem_needs_a_member_and_not_a_class():
    with pytest.raises(UsageError, match="legal is a member"):
        Problem(families()["heat"])
