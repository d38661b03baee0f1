"""What an operator reads is what is computed, and formulas are differentiated rightly and once."""

import doctest
import importlib
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lissome.pde
from lissome._errors import UsageError
from lissome.calculus import derivatives
from lissome.calculus.nested import nested
from lissome.models import MLP
from lissome.pde import Points
from lissome.pde import field as fields
from lissome.pde.field import apply, closed_form, rate, record
from tests.oracles.pde import at_point
from tests.pde.members import seeded

MODULES = [name for _, name, _ in pkgutil.walk_packages(lissome.pde.__path__, "lissome.pde.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_everything_that_a_field_offers():
    """Read all at once, against gradient and Hessian of each point."""
    net, z = MLP(4, width=5, depth=2, generator=seeded()).double(), torch.randn(6, 4, generator=seeded()).double()
    p, weights = Points(z, True), torch.randn(12, generator=seeded(1)).double()
    direction = torch.randn(6, 3, generator=seeded(2)).double()

    def operator(u, p):
        read = [u.value, u.dt, u.dtt, u.laplacian, u.d(1), u.dd(2), u.along(direction), u.along(p.x), *u.dx.T]
        return sum(weight * part for weight, part in zip(weights, read, strict=False))

    needs, along = record(operator, p, 3)
    assert set(needs.first) == {0, 1, 2, 3}
    assert set(needs.second) == {(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)}
    assert along.shape == (6, needs.along, 4) == (6, 2, 4)
    found = derivatives(net, z, needs.first, needs.second, along.transpose(0, 1))
    ours = apply(operator, p, 3, needs, found)
    for n in range(6):
        u, g, H = at_point(net, z[n])
        read = [u, g[0], H[0, 0], H.diagonal()[1:].sum(), g[2], H[3, 3], direction[n] @ g[1:], z[n, 1:] @ g[1:], *g[1:]]
        truth = sum(weight * part for weight, part in zip(weights, read, strict=False))
        assert abs(float((ours[n] - truth).detach())) < 1e-12


def test_only_what_is_read_is_computed():
    needs, along = record(lambda u, p: u.value + p.t, Points(torch.rand(3, 3), True), 2)
    assert (needs.first, needs.second, needs.along, along) == ((), (), 0, None)
    needs, _ = record(lambda u, p: u.d(0) + u.d(0) * u.laplacian, Points(torch.rand(3, 2), False), 2)
    assert (needs.first, needs.second) == ((0,), ((1.0, 1.0),))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda u, p: u.dt, "u.dt is read, but the domain has no time"),
        (lambda u, p: u.dtt, "u.dtt is read, but the domain has no time"),
        (lambda u, p: p.t, "p.t is read, but the domain has no time"),
        (lambda u, p: u.d(2), "coordinate 2 is read in 2 dimensions; legal are 0 to 1"),
        (lambda u, p: u.dd(-1), "coordinate -1 is read"),
        (lambda u, p: u.along(p.x[:, :1]), r"a direction has shape \(3, 1\); legal is \(N, 2\)"),
        (lambda u, p: u.along(p.x[:, 0]), r"a direction has shape \(3,\); legal"),
    ],
)
def test_what_cannot_be_read_is_said(read, words):
    with pytest.raises(UsageError, match=words):
        record(read, Points(torch.rand(3, 2), False), 2)


def test_points():
    z = torch.tensor([[0.5, 3.0, 4.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    p = Points(z, True)
    assert p.t.tolist() == [0.5, 0.1]
    assert p.r.tolist() == [5.0, 1e-6]
    assert p.at_time(2.0).z.tolist() == [[2.0, 3.0, 4.0], [2.0, 0.0, 0.0]]
    assert Points(z, False).at_time(2.0).z is z
    z.requires_grad_()
    (slope,) = torch.autograd.grad(Points(z, True).r.sum(), z)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0]], dtype=torch.float64))


def radial(p):
    out = torch.cos(2 * p.r) + p.r**3
    return out * torch.exp(-p.t) + p.t**2 if p.timed else out


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 6), timed=st.booleans(), fast=st.booleans(), seed=st.integers(0, 99))
def test_formulas_equal_nested_reverse_mode(d, timed, fast, seed):
    """Also where a function of |x| is differentiated in r alone."""
    D = d + timed
    z = torch.randn(7, D, generator=seeded(seed), dtype=torch.float64) + 0.1
    first, second = tuple(range(D)), (tuple(float(i + 1) for i in range(D)), tuple(float(i == 0) for i in range(D)))
    along = torch.randn(2, 7, D, generator=seeded(seed + 1), dtype=torch.float64)
    ours = closed_form(radial, Points(z, timed), first, second, along, radial=fast)
    truth = nested(lambda z: radial(Points(z, timed)), z, first, second, along)
    for name in ("value", "first", "second", "along"):
        mine, other = getattr(ours, name), getattr(truth, name).detach()
        assert not mine.requires_grad
        assert mine.shape == other.shape
        assert (mine - other).abs().max() < 1e-10 * (1 + other.abs().max())
    bare = closed_form(radial, Points(z, timed), radial=fast)
    assert (bare.first.shape, bare.second.shape, bare.along.shape) == ((0, 7), (0, 7), (0, 7))


def test_many_points_are_taken_in_parts(monkeypatch):
    z, along = torch.rand(23, 3).double(), torch.rand(1, 23, 3).double()
    whole = closed_form(radial, Points(z, True), (0, 1), ((0.0, 1.0, 1.0),), along)
    monkeypatch.setattr(fields, "CHUNK", 5)
    parts = closed_form(radial, Points(z, True), (0, 1), ((0.0, 1.0, 1.0),), along)
    for name in ("value", "first", "second", "along"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_a_formula_that_hides_its_dependence_is_refused():
    p = Points(torch.rand(5, 2).double(), False)
    for hidden in (lambda p: p.x.detach().sum(1), lambda p: torch.from_numpy(p.x.detach().numpy()[:, 0] ** 2)):
        with pytest.raises(UsageError, match="cannot be differentiated: write it in torch functions of p"):
            closed_form(hidden, p, (0,))
    constant = closed_form(lambda p: torch.full_like(p.x[:, 0], 3.0), p, (0,), ((1.0, 1.0),))
    assert not constant.first.any()
    assert not constant.second.any()


def test_rates_can_be_differentiated_again():
    z = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    t, x = z[:, 0], z[:, 1:]
    ours = rate(lambda p: torch.sin(3 * p.t) * p.x.square().sum(1), Points(z, True))
    torch.testing.assert_close(ours, 3 * torch.cos(3 * t) * x.square().sum(1))
    (slope,) = torch.autograd.grad(ours.sum(), z)
    torch.testing.assert_close(slope[:, 1], 6 * torch.cos(3 * t) * x[:, 0])
    assert not rate(lambda p: p.x[:, 0], Points(z, True)).any()
