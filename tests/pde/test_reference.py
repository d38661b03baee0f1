"""Numeric references are right, are kept, and never stand in the way."""

import math

import numpy as np
import pytest
import torch

from lissome.pde import Points, load_family
from lissome.pde.reference import cache_folder, cached, interpolate
from lissome.pde.zoo.allen_cahn_1d import solve
from lissome.pde.zoo.burgers import cole_hopf
from tests.oracles import pde as oracle
from tests.oracles import pde_reference as slow
from tests.pde.members import cache

share = pytest.mark.usefixtures(cache.__name__)


def grid_points(times, x):
    t, s = torch.meshgrid(torch.tensor(times).double(), torch.tensor(x).double(), indexing="ij")
    return Points(torch.stack([t.reshape(-1), s.reshape(-1)], 1), True)


@pytest.mark.parametrize("nu", [1e-3, 0.01 / math.pi, 0.2 / math.pi, 10.0])
def test_burgers_is_the_cole_hopf_integral(nu):
    places = [(0.01, 0.3), (0.2, -0.5), (0.5, 0.02), (1.0, 0.001), (1.0, -0.9)]
    t, x = torch.tensor(places, dtype=torch.float64).T
    truth = torch.tensor([slow.burgers(*place, nu) for place in places], dtype=torch.float64)
    torch.testing.assert_close(cole_hopf(t, x, nu), truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("nodes", [129, 2049])
def test_the_rule_of_burgers_has_converged(nodes):
    t, x = torch.rand(2, 50, dtype=torch.float64)
    for nu in (0.01 / math.pi, 1.0):
        coarse, fine = cole_hopf(t, 2 * x - 1, nu, nodes=nodes), cole_hopf(t, 2 * x - 1, nu)
        assert (coarse - fine).abs().max() < (1e-12 if nodes > 513 else 1e-2)


def test_burgers_solves_its_equation():
    family = load_family("burgers")(nu=0.05 / math.pi)
    times = [0.0, 0.25, 0.5, 1.0]
    x, truth = slow.burgers_by_lines(family.nu, times)
    ours = family.exact(grid_points(times, x)).reshape(len(times), -1).numpy()
    assert np.abs(ours - truth).max() < 1e-3
    assert np.abs(ours[0] + np.sin(np.pi * x)).max() < 1e-14
    assert np.abs(ours[:, [0, -1]]).max() < 1e-14


@share
@pytest.mark.parametrize("member", [{}, {"diffusion": 1e-3, "rate": 1.0}], ids=["default", "far"])
def test_allen_cahn_1d_solves_its_equation(member):
    family = load_family("allen-cahn-1d")(**member)
    times = [0.0, 0.1, 0.5, 1.0]
    x, coarse = slow.allen_cahn_by_lines(family.diffusion, family.rate, times, places=401)
    _, fine = slow.allen_cahn_by_lines(family.diffusion, family.rate, times, places=801)
    truth = (4 * fine[:, ::2] - coarse) / 3  # Richardson
    for side in (x, -x):
        ours = family.exact(grid_points(times, side)).reshape(len(times), -1).numpy()
        assert np.abs(ours - truth).max() < 1e-5


@share
def test_allen_cahn_1d_satisfies_its_equation_by_differences():
    family = load_family("allen-cahn-1d")()
    h, z = 2e-3, torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = z * torch.tensor([0.8, 1.96]) + torch.tensor([0.1, -0.98])

    def u(k, j):
        return family.exact(Points(z + torch.tensor([k * h, j * h]), True))

    dt = (8 * (u(1, 0) - u(-1, 0)) - (u(2, 0) - u(-2, 0))) / (12 * h)
    dxx = (-(u(0, 2) + u(0, -2)) + 16 * (u(0, 1) + u(0, -1)) - 30 * u(0, 0)) / (12 * h * h)
    residual = dt - family.diffusion * dxx - family.rate * (u(0, 0) - u(0, 0) ** 3)
    assert residual.abs().max() < 1e-4
    assert dt.abs().max() > 0.1


def test_the_spectral_solver_has_converged():
    coarse = solve(1e-3, 3.0, modes=256, times=20, steps=100)["u"]
    fine = solve(1e-3, 3.0, modes=512, times=20, steps=200)["u"]
    assert coarse.shape == (21, 513)
    apart = np.abs(coarse - fine[:, ::2]).max(1)
    assert apart[5:].max() < 1e-7  # t > 0.06
    assert apart.max() < 1e-4


@share
def test_points_keep_their_dtype():
    for name in ("burgers", "allen-cahn-1d"):
        family = load_family(name)()
        z = torch.rand(5, 2)
        assert family.exact(Points(z, True)).dtype == torch.float32
        torch.testing.assert_close(
            family.exact(Points(z, True)).double(), family.exact(Points(z.double(), True)), rtol=1e-5, atol=1e-5
        )


def test_interpolation_is_exact_for_polynomials_and_even_about_both_ends():
    s, x = torch.linspace(0, 1, 11).double(), torch.linspace(0, 1, 41).double()
    even = (math.pi * x).cos()  # even about 0 and 1
    grid = (s**5 - s**2)[:, None] * even
    a, b = torch.rand(2, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b[:4] = torch.tensor([0.0, 1.0, 0.001, 0.999])
    a[4:6] = torch.tensor([0.0, 1.0])
    truth = (a**5 - a**2) * (math.pi * b).cos()
    assert (interpolate(grid, a, b) - truth).abs().max() < 1e-7


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"u": np.arange(6.0).reshape(2, 3)[:, ::-1]}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lissome"


def test_a_second_call_reads_the_cache(folder):
    make = Counted()
    first, second = cached("a", make), cached("a", make)
    assert make.calls == 1
    assert np.array_equal(first["u"], second["u"])
    assert [path.name.startswith("reference-") for path in folder.iterdir()] == [True]
    cached("b", make)
    assert make.calls == 2


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_broken_file_is_made_anew(folder, content):
    make = Counted()
    cached("a", make)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    assert np.array_equal(cached("a", make)["u"], make()["u"])
    assert make.calls == 3
    cached("a", make)
    assert make.calls == 3


@pytest.mark.parametrize("what", ["a file in the way", "a directory in place of the reference", "a full disk"])
def test_a_cache_that_cannot_be_written_costs_only_time(folder, monkeypatch, what):
    make = Counted()
    if what == "a file in the way":
        folder.write_text("")
    elif what == "a full disk":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lissome.pde.reference.place", full)
    else:
        cached("a", make)
        (path,) = folder.iterdir()
        path.unlink()
        path.mkdir()
        (path / "full").write_text("")
    before = make.calls
    for _ in range(2):
        assert np.array_equal(cached("a", make)["u"], [[2, 1, 0], [5, 4, 3]])
    assert make.calls == before + 2


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lissome"


@share
def test_references_meet_the_data_of_their_family():
    for name in ("burgers", "allen-cahn-1d"):
        family = load_family(name)()
        z = family.domain().initial(50, torch.Generator().manual_seed(0))
        truth = torch.tensor([oracle.BY_NAME[name].exact(family.values, point) for point in z], dtype=torch.float64)
        # the grid of allen-cahn-1d is interpolated across the kink's ends
        assert (family.exact(Points(z, True)) - truth).abs().max() < 1e-8
        assert (family.data(Points(z, True)) - truth).abs().max() < 1e-14
