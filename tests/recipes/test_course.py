import pytest

from lissome._errors import UsageError
from lissome.optim.optimizers import OPTIMIZERS
from lissome.recipes.course import USUAL, course
from lissome.recipes.settings import AdaptSettings, SolveSettings, load
from lissome.recipes.training import methods


def solve(**given):
    return load(SolveSettings, given={"family": "heat"} | given)


def test_every_optimizer_has_its_usual_budget():
    assert set(USUAL) == set(OPTIMIZERS)


def test_a_course_names_phases_and_their_steps():
    training = solve(**{"training.optimizer": "adam:300+ssbroyden:100"}).training
    assert (training.optimizer, training.share) == ("adam", 300)
    assert [(phase.optimizer, phase.share) for phase in training.then] == [("ssbroyden", 100)]
    assert training.steps == 400


def test_numbers_of_a_course_are_shares_where_the_budget_is_in_seconds():
    training = solve(**{"training.optimizer": "adam+gauss-newton", "training.seconds": 60}).training
    assert (training.steps, training.seconds) == (None, 60)
    assert (training.share, training.then[0].share) == (0.2, 1.0)


def test_steps_that_are_given_are_shared_out():
    training = solve(**{"training.optimizer": "adam:3+gauss-newton:1", "training.steps": 100}).training
    assert training.steps == 100
    assert training.share / training.then[0].share == 3


def test_double_precision_is_the_default_where_it_decides():
    assert solve(**{"training.optimizer": "adam"}).dtype == "float32"
    assert solve(**{"training.optimizer": "adam+gauss-newton"}).dtype == "float64"
    assert solve(**{"training.optimizer": "ssbroyden"}).dtype == "float64"
    assert solve(**{"training.optimizer": "gauss-newton", "dtype": "float32"}).dtype == "float32"


def test_several_optimizers_leave_the_steps_to_each():
    settings = load(
        AdaptSettings, given={"run": "r", "targets": [{"c": 1.0}], "optimizers": ["adam:7", "gauss-newton"]}
    )
    assert settings.training.steps is None
    assert settings.dtype == "float64"
    assert load(AdaptSettings, given=settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("adm", r"unknown optimizer 'adm'; .*did you mean 'adam'"),
        ("adam+gaussnewton", r"unknown optimizer 'gaussnewton'; .*did you mean 'gauss-newton'"),
        ("adam:0+lbfgs", "says '0' behind a colon; legal is a number above 0"),
        ("adam:many", "says 'many' behind a colon"),
        ("adam+", "unknown optimizer ''"),
    ],
)
def test_a_course_that_cannot_be_read_is_told(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        course(text)


def test_points_are_redrawn_as_suits_each_optimizer_unless_told_otherwise():
    settings = solve(**{"training.optimizer": "adam+ssbroyden"})
    assert [method.resample_every for method in methods(settings, ["w"], 8)] == [1, 100]
    for said in (7, None):
        settings = load(SolveSettings, given={"family": "heat", "points": {"resample": said}})
        assert [method.resample_every for method in methods(settings, ["w"], 8)] == [said]
    with pytest.raises(UsageError, match=r"'points.resample': 0 is no number of steps; legal are 1 and more"):
        solve(**{"points.resample": 0})
