import shutil

import pytest

from lissome import report
from lissome.recipes import solve, train_language
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.settings import SolveSettings, load
from tests.cli.command import TINY, Face
from tests.cli.language import SMALL, STAGES


@pytest.fixture
def lissome(capsys):
    return Face(capsys)


@pytest.fixture(scope="session")
def solved(tmp_path_factory):
    """One tiny run that tests read and copy and never change."""
    changes = [word for word in TINY if "=" in word]
    out = tmp_path_factory.mktemp("runs") / "solved"
    solve(load(SolveSettings, given={"family": "poisson", "training.steps": 20}, changes=changes), out, progress=False)
    return out


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n" for i in range(120)))
    return place


@pytest.fixture(scope="session")
def trained(text, tmp_path_factory):
    """One tiny run that tests read and copy and never change."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    train_language(load(LanguageSettings, given=SMALL | STAGES | {"data": str(text)}), out, progress=False)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the page, which takes seconds and is looked at in other tests."""
    for page in ("incontext_page", "language_page", "stream_page", "table_page"):
        monkeypatch.setattr(report, page, lambda out: None)
