"""The estimators keep scikit-learn's contract, all of its own checks, and our promises of saving and loading."""

import importlib
import inspect
import re
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lissome._errors import Interrupted, UsageError
from lissome.recipes import estimator
from lissome.recipes.estimator import KANClassifier, KANRegressor

DRAW = np.random.default_rng(0)
X = DRAW.uniform(-1, 1, (160, 2))
Y = np.sin(3 * X[:, 0]) * X[:, 1]
COLOURS = np.where(X[:, 0] > 0.3, "red", np.where(X[:, 1] > 0, "green", "blue"))


@parametrize_with_checks([KANRegressor(steps=60), KANClassifier(steps=60)])
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("network", ["kan", "slim-kan", "mlp"])
def test_a_product_and_colours_are_learnt_by_each_network(network):
    assert KANRegressor(network, width=16, steps=200, rate=0.02, random_state=0).fit(X, Y).score(X, Y) > 0.95
    found = KANClassifier(network, width=16, steps=100, rate=0.02, random_state=0).fit(X, COLOURS)
    assert found.score(X, COLOURS) > 0.93
    assert found.classes_.tolist() == ["blue", "green", "red"]
    assert found.predict_proba(X).sum(1) == pytest.approx(1)


@pytest.mark.parametrize("targets", [Y, np.column_stack([Y, 5 * Y + 100])])
def test_a_regressor_that_was_saved_predicts_the_same_bits(tmp_path, targets):
    before = KANRegressor(steps=20, random_state=1).fit(X, targets)
    after = KANRegressor.load(before.save(tmp_path / "kept"))
    assert np.array_equal(after.predict(X), before.predict(X))
    assert after.predict(X).shape == targets.shape
    assert after.get_params() == before.get_params()
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".safetensors", ".json"}
    assert np.array_equal(KANRegressor.load(after.save(tmp_path / "kept")).predict(X), before.predict(X))


@pytest.mark.parametrize("labels", [COLOURS, COLOURS == "red", (COLOURS == "red") * 7, COLOURS.astype(object)])
def test_a_classifier_that_was_saved_knows_its_classes(tmp_path, labels):
    seed = np.random.RandomState(0)
    before = KANClassifier("slim-kan", width=8, ranks=(4, 3, 2), steps=20, random_state=seed).fit(X, labels)
    after = KANClassifier.load(before.save(tmp_path / "kept"))
    assert after.classes_.dtype == before.classes_.dtype
    assert np.array_equal(after.predict(X), before.predict(X))
    assert np.array_equal(after.predict_proba(X), before.predict_proba(X))


def test_what_cannot_be_saved_or_loaded_is_told(tmp_path):
    with pytest.raises(NotFittedError):
        KANRegressor().save(tmp_path / "kept")
    fitted = KANRegressor(steps=2).fit(X, Y)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists and is no saved estimator"):
        fitted.save(tmp_path / "mine")
    with pytest.raises(UsageError, match="no' holds no saved estimator$"):
        KANRegressor.load(tmp_path / "no")
    with pytest.raises(UsageError, match=r"holds KANRegressor; KANClassifier.load reads a KANClassifier"):
        KANClassifier.load(fitted.save(tmp_path / "kept"))


def test_the_same_seed_gives_the_same_numbers():
    one, two = (KANRegressor(steps=10, random_state=3).fit(X, Y).predict(X) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(KANRegressor(steps=10, random_state=4).fit(X, Y).predict(X), one)


def test_gauss_newton_needs_few_steps():
    found = KANRegressor(width=4, optimizer="gauss-newton", steps=12, random_state=0).fit(X, Y)
    assert found.score(X, Y) > 0.98
    assert found.n_iter_ <= 12


def test_both_tell_the_meaning_of_each_parameter_in_the_same_words():
    told = [
        inspect.getdoc(kind).partition("Args:")[2].partition("Example:")[0] for kind in (KANRegressor, KANClassifier)
    ]
    assert told[0] == told[1]
    assert re.findall(r"^ +(\w+): ", told[0], re.MULTILINE) == list(inspect.signature(KANRegressor).parameters)


def test_pipelines_and_searches_take_them():
    chain = make_pipeline(StandardScaler(), KANClassifier(steps=60, random_state=0)).fit(X, COLOURS)
    assert chain.score(X, COLOURS) > 0.8
    wiggles, one = np.sin(8 * X[:, 0]), KANRegressor(width=2, steps=60, rate=0.02, random_state=0)
    search = GridSearchCV(one, {"intervals": np.array([1, 6])}, cv=2).fit(X[:, :1], wiggles)
    assert search.best_params_["intervals"] == 6  # one interval holds a cubic, too stiff for five half waves
    assert clone(search.best_estimator_).get_params()["steps"] == 60


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"network": "cnn"}, "setting 'network.kind' is 'cnn'"),
        ({"basis": "spline"}, "setting 'network.basis' is 'spline'"),
        ({"ranks": (0, 1, 1)}, "ranks are .0, 1, 1.; legal are three whole numbers of at least 1"),
        ({"width": 0}, "setting 'network.width' is 0"),
        ({"steps": 0}, "setting 'training.steps' is 0|setting 'training.evaluate' is 0"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'.*did you mean 'adam'"),
        ({"options": {"bend": 1}}, "unknown option of adam 'bend'"),
        ({"dtype": "float16"}, "setting 'dtype' is 'float16'"),
        ({"device": "tpu"}, "device 'tpu' is not to be had"),
    ],
)
def test_wrong_parameters_are_told_when_it_is_fitted(given, words):
    with pytest.raises(ValueError, match=words):
        KANRegressor(**given).fit(X, Y)


def test_a_ctrl_c_ends_a_search_and_not_one_fit_of_it(monkeypatch):
    def stopped(*arguments, **more):
        raise Interrupted("stopped by Ctrl-C after 3 steps")

    monkeypatch.setattr(estimator, "train", stopped)
    with pytest.raises(KeyboardInterrupt, match="after 3 steps"):
        GridSearchCV(KANRegressor(), {"intervals": [2, 4]}, cv=2, error_score=0.0).fit(X, Y)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "lissome.recipes.estimator")
    with pytest.raises(UsageError, match=r"needs scikit-learn; install it with: pip install 'lissome\[sklearn\]'"):
        importlib.import_module("lissome.recipes.estimator")
