"""Members of every family for the contract suites. A new family joins by one line here and one oracle."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lissome.models import MLP
from lissome.pde import Problem, load_family
from tests.pde.user_family import Decay

FILE = Path(__file__).with_name("user_family.py")
MEMBERS = {
    "allen-cahn": lambda: load_family("allen-cahn")(3, c=2),
    "allen-cahn in 1": lambda: load_family("allen-cahn")(1),
    "allen-cahn in 10": lambda: load_family("allen-cahn")(c=0.5),
    "parabolic": lambda: load_family("parabolic")(3, c=0.5),
    "parabolic in 1": lambda: load_family("parabolic")(1),
    "poisson": lambda: load_family("poisson")(3, c=0.5),
    "poisson, faces not 0": lambda: load_family("poisson")(2, c=0.5, k=1.3),
    "helmholtz": lambda: load_family("helmholtz")(kappa=2),
    "helmholtz, faces not 0": lambda: load_family("helmholtz")(a=1.5),
    "heat": lambda: load_family("heat")(),
    "heat in 3": lambda: load_family("heat")(3, kappa=0.2),
    "convection": lambda: load_family("convection")(),
    "convection, fast": lambda: load_family("convection")(beta=30),
    "klein-gordon": lambda: load_family("klein-gordon")(omega=3, gamma=5),
    "burgers": lambda: load_family("burgers")(),
    "allen-cahn-1d": lambda: load_family("allen-cahn-1d")(),
    "a file": lambda: load_family(str(FILE))(k=3),
    "an object": lambda: Decay(),
}
every_member = pytest.mark.parametrize("label", MEMBERS)
every_constraint = pytest.mark.parametrize("constraint", ["soft", "boundary", "exact"])
FEW = {"interior": 5, "boundary": 3, "initial": 4}


@pytest.fixture
def cache(monkeypatch, tmp_path_factory):
    """Keep computed references in one folder for all tests of a run, and out of the person's own."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen") else base  # shared by the workers
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "references"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problem_of(label, constraint="soft", **settings):
    return Problem(MEMBERS[label](), constraint=constraint, **{"points": FEW, "test_points": 50, **settings})


def network_for(problem, seed=0, activation="tanh"):
    """Return a random network under the problem's constraint."""
    net = MLP(
        problem.inputs, width=6, depth=2, activation=activation, offset=problem.offset, generator=seeded(seed)
    ).to(problem.dtype)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=seeded(number)).to(parameter)
    return problem.wrap(net)


class Formula(nn.Module):
    """A known function in the place of a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)[:, None]
