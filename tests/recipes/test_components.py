"""Learning rates by component of LoTRA's forms, from the settings of an adaptation to its groups."""

import pytest
import torch
import yaml

from lissome import report
from lissome._errors import UsageError
from lissome.adapt import component_rates
from lissome.recipes import adapt, solve
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import cells
from lissome.recipes.components import componentwise
from lissome.recipes.settings import AdaptSettings, SolveSettings
from lissome.recipes.settings import load as read

FEW = {"points.interior": 16, "points.boundary": 8, "training.compile": False, "training.steps": 4}
ADAM = {"training.optimizer": "adam", "training.rate": 0.01}


@pytest.fixture(scope="module", autouse=True)
def _no_pages():
    """Leave out the pages, whose figures take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "page", lambda *paths: None)
        patch.setattr(report, "compare", lambda *paths: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base") / "run"
    given = FEW | {"family": "poisson", "network.width": 6, "network.kind": "kan", "training.evaluate": 4}
    solve(read(SolveSettings, given=given), out, progress=False)
    return out


def settings(base, **more):
    given = FEW | {"run": str(base), "targets": [{"c": 1.0}], "methods": ["lotra"], "rank": 2} | ADAM | more
    return read(AdaptSettings, given=given)


def groups(cell):
    return {group.pattern.rpartition(".")[2]: group.rate for group in cell.settings.training.groups}


def test_equal_is_the_default_and_changes_nothing(base):
    (cell,) = cells(settings(base), load_solution(base))
    assert cell.settings.components == "equal"
    assert cell.settings.training.groups == []


def test_closed_rates_are_groups_of_the_training(base):
    (cell,) = cells(settings(base, components="closed"), load_solution(base))
    (form,) = cell.adapted().forms().values()
    assert groups(cell) == pytest.approx(component_rates(form, 0.01, "closed"), rel=5e-3)
    assert groups(cell)["factor2"] < groups(cell)["core"]


def test_an_adaptation_runs_with_measured_rates_and_is_made_again_by_its_own_settings(base, tmp_path):
    (summary,) = adapt(settings(base, components="measured"), tmp_path / "out", progress=False)
    assert summary["steps"] == 4
    (kept,) = (yaml.safe_load(each.read_text()) for each in tmp_path.rglob("lotra/settings.yaml"))
    assert len(kept["training"]["groups"]) == 4
    (cell,) = cells(AdaptSettings.model_validate(kept), load_solution(base))
    assert cell.settings == AdaptSettings.model_validate(kept)
    (same,) = adapt(settings(base, components="measured"), tmp_path / "out", resume=True, progress=False)
    assert same == summary


@pytest.mark.parametrize("said", [{"rank": 2}, {"rank": None, "ranks": [2, 2, 3]}, {"rank": 2, "components": "closed"}])
def test_what_is_said_of_lotra_alone_is_no_word_of_the_other_methods(base, said):
    solution = load_solution(base)
    for cell in cells(settings(base, methods=["lotra", "full", "last"], **said), solution):
        (again,) = cells(cell.settings, solution)  # as a worker reads it
        assert again.settings == cell.settings


def test_measuring_leaves_the_start_as_it_was(base):
    (cell,) = cells(settings(base, components="measured"), load_solution(base))
    begun = cell.begin()
    before = [part.detach().clone() for part in begun.model.state_dict().values()]
    found = componentwise(cell.settings, begun.problem, begun.adapted, begun.model)
    assert found == cell.settings
    assert all(torch.equal(a, b) for a, b in zip(before, begun.model.state_dict().values(), strict=True))


def test_a_phase_without_a_rate_keeps_its_groups_and_other_methods_theirs(base):
    more = {"training.optimizer": "adam+gauss-newton", "training.rate": None, "methods": ["lotra", "last"]}
    lotra, last = cells(settings(base, components="closed", **more), load_solution(base))
    assert len(lotra.settings.training.groups) == 4
    assert lotra.settings.training.then[0].groups == []
    assert (last.settings.components, last.settings.training.groups) == ("equal", [])


def test_given_groups_come_first(base):
    given = {"training.groups": [{"pattern": "*core", "optimizer": "adam", "rate": 0.5}]}
    (cell,) = cells(settings(base, components="closed", **given), load_solution(base))
    first, *others = cell.settings.training.groups
    assert (first.pattern, first.rate) == ("*core", 0.5)
    assert [group.pattern.rpartition(".")[2] for group in others] == ["factor0", "factor1", "factor2"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"components": "closd"}, "setting 'components' is 'closd': input should be 'equal', 'closed' or 'measured'"),
        (
            {"components": "closed", "training.optimizer": "gauss-newton", "training.rate": None},
            "components=closed sets learning rates, and gauss-newton has none: take adam, or components=equal",
        ),
        (
            {"components": "measured", "methods": ["full", "last"], "rank": None},
            "components=measured has no meaning for full, last; it is for lotra",
        ),
    ],
)
def test_errors_say_what_came_and_what_is_legal(base, more, words):
    with pytest.raises(UsageError, match=words):
        cells(settings(base, **more), load_solution(base))
