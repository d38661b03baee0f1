"""The two families of SVD-PINNs (arXiv 2211.08760) against their formulas and against differences."""

import math

import numpy as np
import pytest
import torch

from lissome.pde import Points, Problem, load_family
from tests.oracles import pde as oracle

MEMBERS = [("allen-cahn", c) for c in (0.0, 0.5, 2.0, 50.0)] + [("parabolic", c) for c in (0.0, 0.5, 1.0, 3.0)]
every_member = pytest.mark.parametrize(("name", "c"), MEMBERS)


def draw(name, c, n, d=10, **settings):
    problem = Problem(load_family(name)(d, c=c), points={"interior": n}, test_points=1, **settings)
    return problem.sample(torch.Generator().manual_seed(3))


@every_member
@pytest.mark.parametrize("d", [1, 2, 10, 25])
def test_right_hand_sides_are_those_of_the_formulas(name, c, d):
    batch = draw(name, c, 40, d, pool=0)
    truth = [oracle.BY_NAME[name].source({"c": c}, z) for z in batch["interior"]]
    torch.testing.assert_close(batch["source"], torch.tensor(truth, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def solution(name, c, t, x):
    """Return the paper's u_c for arrays t (N,) and x (N, d)."""
    r = np.sqrt((x**2).sum(1))
    if name == "allen-cahn":
        return np.exp(-t) * (np.sin(np.pi / 2 * np.abs(1 - r) ** 2.5) + c * np.sin(np.pi / 2 * (1 - r)))
    return np.exp(r * (np.sqrt(1 - t) + c * (1 - t)))


def by_differences(name, c, t, x, h=2e-3):
    """Return f_c by sixth-order central differences along every coordinate."""
    steps = np.arange(-3, 4)
    slope = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * h)
    bend = np.array([2, -27, 270, -490, 270, -27, 2]) / (180 * h * h)
    dt = sum(w * solution(name, c, t + k * h, x) for k, w in zip(steps, slope, strict=True))
    laplacian, gradient = 0.0, []
    for i in range(x.shape[1]):
        unit = np.eye(x.shape[1])[i] * h
        line = np.stack([solution(name, c, t, x + k * unit) for k in steps])
        laplacian = laplacian + bend @ line
        gradient.append(slope @ line)
    u, r = solution(name, c, t, x), np.sqrt((x**2).sum(1))
    if name == "allen-cahn":
        return dt - laplacian - u + u**3
    return dt - (1 + r / 2) * laplacian - (np.stack(gradient, 1) * x).sum(1) / (2 * r)


@every_member
def test_right_hand_sides_are_those_of_differences(name, c):
    batch = draw(name, c, 300, 10, sampling="uniform", pool=0)
    z = batch["interior"].numpy()
    r = np.sqrt((z[:, 1:] ** 2).sum(1))
    kept = (r > 0.3) & (r < 0.97) & (z[:, 0] > 0.01) & (z[:, 0] < 0.49)  # away from the places without derivatives
    assert kept.sum() > 30
    truth = by_differences(name, c, z[kept, 0], z[kept, 1:])
    ours = batch["source"].numpy()[kept]
    assert np.abs(ours - truth).max() < 1e-5 * (1 + np.abs(truth).max())


def test_the_published_factor_of_2_is_not_ours():
    """In a published code u_t of the second family has it; there the residual of the solution would be u_t itself."""
    batch = draw("parabolic", 0.5, 50, pool=0)
    z = batch["interior"]
    r, rest = z[:, 1:].norm(dim=1), 1 - z[:, 0]
    u = torch.exp(r * (rest.sqrt() + 0.5 * rest))
    rate = -r * (1 / (2 * rest.sqrt()) + 0.5) * u
    truth = torch.tensor([oracle.BY_NAME["parabolic"].source({"c": 0.5}, point) for point in z], dtype=torch.float64)
    assert (batch["source"] - truth).abs().max() < 1e-9
    assert (batch["source"] - (truth + rate)).abs().max() > 0.1


def test_points_and_weights_are_the_published_ones():
    family = load_family("allen-cahn")()
    problem = Problem(family, test_points=1)
    assert problem.counts == {"interior": 1000, "boundary": 500, "initial": 500}
    assert problem.weight_boundary == 100
    assert family.dimension == 10
    assert family.sampling == problem.sampling == "published"
    assert problem.offset == (0.5, *[0.0] * 10)
    assert load_family("parabolic")().offset() == (0.5, *[0.0] * 10)
    assert family.domain().time == (0.0, 1.0)
    assert load_family("parabolic")().domain().time == (0.0, 0.5)
    assert type(family).targets() == {"near": {"c": 0.5}, "middle": {"c": 2.0}, "far": {"c": 50.0}}
    batch = problem.sample(torch.Generator().manual_seed(0))
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "interior": (1000, 11),
        "source": (1000,),
        "boundary": (500, 11),
        "boundary_value": (500,),
        "initial": (500, 11),
        "initial_value": (500,),
    }


def test_the_second_family_is_drawn_from_the_ball_for_its_cone():
    """f ~ 9 / r at the centre: with the radius uniform its mean square is infinite."""
    family = load_family("parabolic")()
    assert family.sampling == "uniform"
    z = torch.zeros(3, 11, dtype=torch.float64)
    z[:, 1] = torch.tensor([1e-2, 1e-3, 1e-4])
    for point in z:
        f = oracle.BY_NAME["parabolic"].source({"c": 0.0}, point)
        assert f * float(point[1]) == pytest.approx(-9, rel=0.1)
    shares = {}
    for sampling in ("published", "uniform"):
        squares = (
            draw("parabolic", 0.0, 1000, sampling=sampling, pool=0)["source"].square().sort(descending=True).values
        )
        shares[sampling] = float(squares[:10].sum() / squares.sum())
    assert shares["published"] > 0.5 > 0.1 > shares["uniform"]


@every_member
def test_right_hand_sides_are_finite_at_the_centre_and_the_rim(name, c):
    family = load_family(name)(c=c)
    problem = Problem(family, points={"interior": 1}, test_points=1)
    z = torch.zeros(4, 11, dtype=torch.float64)
    z[1, 1], z[2, 1], z[3, 1:] = 1e-9, 1.0, math.sqrt(0.1)
    from_points = problem.supply.interior(Points(z, True))
    assert bool(from_points["source"].isfinite().all())
    assert problem.evaluate(torch.nn.Linear(11, 1).double())["error"] > 0
