"""Balls and boxes: where their points lie, how they are spread, and the factor that vanishes on the boundary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.calculus.nested import nested
from lissome.pde import DRAWS, Ball, Box
from lissome.pde.sampling import unit

TIMES = st.sampled_from([None, (0.0, 1.0), (-0.5, 2.0)])
balls = st.builds(Ball, st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]), TIMES)


@st.composite
def boxes(draw):
    low = draw(st.lists(st.floats(-2, 2), min_size=1, max_size=4))
    high = [a + draw(st.floats(0.25, 3)) for a in low]
    return Box(tuple(low), tuple(high), draw(TIMES), periodic=len(low) == 1 and draw(st.booleans()))


domains = st.one_of(balls, boxes())
quick = settings(max_examples=40, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def on_boundary(domain, x):
    """Say by the definition which places (N, d) lie on the boundary."""
    if isinstance(domain, Ball):
        return (x.norm(dim=1) - domain.radius).abs() < 1e-12 * domain.radius
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (domain.low, domain.high))
    return ((x == low) | (x == high)).any(1)


@quick
@given(domain=domains, draw=st.sampled_from(DRAWS), seed=st.integers(0, 99))
def test_points_are_where_they_are_said_to_be(domain, draw, seed):
    timed = int(domain.time is not None)
    inside, edge = domain.interior(33, seeded(seed), draw), domain.boundary(33, seeded(seed), draw)
    assert inside.shape == edge.shape == (33, domain.coordinates)
    assert bool(domain.contains(inside).all() & domain.contains(edge).all())
    assert not bool(on_boundary(domain, inside[:, timed:]).any())
    assert bool(on_boundary(domain, edge[:, timed:]).all())
    if domain.periodic:
        assert torch.equal(domain.opposite(edge)[:, timed:], torch.full((33, 1), domain.high[0], dtype=torch.float64))
        assert torch.equal(domain.opposite(edge)[:, :timed], edge[:, :timed])
    if timed:
        start = domain.initial(33, seeded(seed), draw)
        assert bool((start[:, 0] == domain.time[0]).all() & domain.contains(start).all())
    else:
        with pytest.raises(UsageError, match="a domain that has no time"):
            domain.initial(3, seeded(), draw)


@quick
@given(domain=domains, seed=st.integers(0, 99))
def test_what_is_outside_is_not_contained(domain, seed):
    centre, edge = torch.tensor(domain.centre(), dtype=torch.float64), domain.boundary(20, seeded(seed))
    assert bool(domain.contains(centre[None]))
    timed = int(domain.time is not None)
    beyond = edge.clone()
    beyond[:, timed:] = centre[timed:] + 1.01 * (edge[:, timed:] - centre[timed:])
    assert not bool(domain.contains(beyond).any())
    if timed:
        late = domain.interior(20, seeded(seed))
        late[:, 0] = domain.time[1] + 0.01
        assert not bool(domain.contains(late).any())


@quick
@given(domain=domains, n=st.integers(2, 50))
def test_a_slice_crosses_the_domain_at_the_last_time(domain, n):
    s, z = domain.slice(n)
    assert s.shape == (n,)
    assert z.shape == (n, domain.coordinates)
    assert bool(domain.contains(z).all())
    assert bool((s[1:] > s[:-1]).all())
    if domain.time is not None:
        assert bool((z[:, 0] == domain.time[1]).all())


@quick
@given(domain=domains, initial=st.integers(0, 2), seed=st.integers(0, 99))
def test_the_factor_vanishes_on_the_boundary_alone(domain, initial, seed):
    initial = initial if domain.time is not None else 0
    timed = int(domain.time is not None)

    def factor(z):
        return domain.factor(z, (), (), None, initial).value

    inside, edge = domain.interior(30, seeded(seed)), domain.boundary(30, seeded(seed))
    assert bool((factor(inside) > 0).all() & (factor(inside) <= 1).all())
    if isinstance(domain, Box) and not domain.periodic:
        assert bool((factor(edge) == 0).all())
    elif not domain.periodic:
        assert float(factor(edge).abs().max()) < 1e-14
    else:
        assert torch.equal(factor(edge), factor(domain.opposite(edge)))
    if initial:
        start = domain.initial(30, seeded(seed))
        assert bool((factor(start) == 0).all())
        rate = nested(factor, start, (0,)).first[0]
        assert bool((rate == 0).all()) == (initial == 2)
    elif timed:
        assert bool((factor(domain.initial(30, seeded(seed))) > 0).all())


@quick
@given(domain=domains, initial=st.integers(0, 2), seed=st.integers(0, 99))
def test_the_factors_derivatives_are_those_of_its_value(domain, initial, seed):
    initial, D = initial if domain.time is not None else 0, domain.coordinates
    z = torch.cat([domain.interior(5, seeded(seed)), domain.boundary(5, seeded(seed))])
    first = tuple(range(D))
    second = (tuple(float(i + 1) for i in range(D)), tuple(float(i % 2) for i in range(D)))
    along = torch.randn(2, 10, D, generator=seeded(seed), dtype=torch.float64)
    ours = domain.factor(z, first, second, along, initial)
    truth = nested(lambda z: domain.factor(z, (), (), None, initial).value, z, first, second, along)
    for name in ("value", "first", "second", "along"):
        mine, other = getattr(ours, name), getattr(truth, name)
        assert mine.shape == other.shape
        assert (mine - other).abs().max() < 1e-10 * (1 + other.abs().max()), name


def moment(domain, draw, power, n=20_000):
    r = domain.interior(n, seeded(), draw)[:, 1:].norm(dim=1) / domain.radius
    return float((r**power).mean())


@pytest.mark.parametrize("d", [1, 3, 10])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_moments_of_the_radius(d, power):
    """E r^k is d / (d + k) uniform in the ball, 1 / (1 + k) as published."""
    domain, even, published = Ball(d, 2.0, time=(0.0, 1.0)), d / (d + power), 1 / (1 + power)
    within = 4 / math.sqrt(20_000)
    assert abs(moment(domain, "uniform", power) - even) < within
    assert abs(moment(domain, "published", power) - published) < within
    assert abs(moment(domain, "mixed", power) - (even + published) / 2) < within
    for draw in ("sobol", "latin"):  # the point of them
        assert abs(moment(domain, draw, power, n=4096) - even) < 2e-3


@pytest.mark.parametrize("draw", DRAWS)
def test_directions_have_no_preference(draw):
    for z in (Ball(3).interior(20_000, seeded(), draw), Ball(3).boundary(20_000, seeded(), draw)):
        x = z / z.norm(dim=1, keepdim=True)
        assert x.mean(0).abs().max() < 0.025
        assert (x.T @ x / len(x) - torch.eye(3) / 3).abs().max() < 0.015


def test_every_part_of_a_mixed_batch_has_both_laws():
    r = Ball(10).interior(4000, seeded(), "mixed").norm(dim=1)
    assert abs(float(r[0::2].mean()) - 1 / 2) < 0.03
    assert abs(float(r[1::2].mean()) - 10 / 11) < 0.03


@pytest.mark.parametrize("draw", DRAWS)
def test_faces_are_drawn_by_their_area(draw):
    box = Box((0.0, 0.0, 1.0), (1.0, 2.0, 5.0))
    z = box.boundary(8192, seeded(), draw)
    areas = torch.tensor([8.0, 8.0, 4.0, 4.0, 2.0, 2.0]) / 28
    found = torch.stack([(z[:, i] == end).double().mean() for i in range(3) for end in (box.low[i], box.high[i])])
    assert (found - areas).abs().max() < 0.02
    others = z[z[:, 0] == 0.0]
    assert abs(float(others[:, 1].mean()) - 1) < 0.06
    assert abs(float(others[:, 2].mean()) - 3) < 0.12


@pytest.mark.parametrize("draw", DRAWS)
def test_times_are_uniform(draw):
    t = Box((0.0,), (1.0,), time=(2.0, 4.0)).interior(8192, seeded(), draw)[:, 0]
    assert abs(float(t.mean()) - 3) < 0.03
    assert abs(float(t.var()) - 1 / 3) < 0.02


@quick
@given(n=st.integers(0, 40), k=st.integers(0, 5), draw=st.sampled_from(DRAWS), seed=st.integers(0, 99))
def test_the_unit_cube_is_open_and_follows_the_generator(n, k, draw, seed):
    points = unit(n, k, seeded(seed), draw)
    assert points.shape == (n, k)
    assert bool(((points > 0) & (points < 1)).all())
    assert torch.equal(points, unit(n, k, seeded(seed), draw))


def test_sobol_and_latin_fill_evenly():
    for draw, blocks in (("sobol", 16), ("latin", 64)):
        points = unit(64, 2, seeded(), draw)
        for column in points.T:
            counts = torch.histc(column, blocks, 0, 1)
            assert bool((counts == 64 / blocks).all())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ball(3, radius=0.0), "a ball of radius 0.0 is empty or endless"),
        (
            lambda: Ball(3, time=(1.0, 1.0)),
            r"time \(1.0, 1.0\) is empty or endless; legal is \(start, end\) with start < end",
        ),
        (lambda: Box((0.0,), (0.0,)), "is empty or endless; legal is low < high, both finite"),
        (lambda: Box((0.0, 0.0), (1.0,)), "is empty or endless; legal is low < high, both finite"),
        (lambda: Box((0.0,), (1.0,), time=(2.0, 1.0)), "is empty or endless; legal is"),
        (lambda: Ball(3, radius=float("inf")), "a ball of radius inf is empty or endless"),
        (lambda: Ball(3, time=(0.0, float("inf"))), r"time \(0.0, inf\) is empty or endless"),
        (lambda: Box((0.0,), (float("inf"),)), "is empty or endless; legal is low < high, both finite"),
        (lambda: Box((float("nan"),), (1.0,)), "is empty or endless; legal is low < high, both finite"),
        (lambda: Box((0.0, 0.0), (1.0, 1.0), periodic=True), "a periodic box has 2 coordinates; legal is 1"),
        (lambda: Ball(2).interior(3, seeded(), "even"), "unknown sampling 'even'"),
    ],
)
def test_empty_and_endless_domains_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_points_keep_off_the_centre(monkeypatch):
    """|x| >= 1e-6 where an exact solution with a cone or an r^3 is differentiated."""
    monkeypatch.setattr("lissome.pde.domain.unit", lambda n, k, *_: torch.full((n, k), 1e-16, dtype=torch.float64))
    for draw in DRAWS:
        assert Ball(1).interior(4, seeded(), draw).abs().min() >= 1e-6 * (1 - 1e-12)
