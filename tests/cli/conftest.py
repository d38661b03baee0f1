import pytest

from tests.cli.command import TINY, Face


@pytest.fixture
def lissome(capsys):
    return Face(capsys)


@pytest.fixture(scope="session")
def solved(tmp_path_factory):
    """One tiny run that tests read and copy and never change."""
    from lissome.recipes import solve
    from lissome.recipes.settings import SolveSettings, load

    changes = [word for word in TINY if "=" in word]
    out = tmp_path_factory.mktemp("runs") / "solved"
    solve(load(SolveSettings, given={"family": "poisson", "training.steps": 20}, changes=changes), out, progress=False)
    return out
