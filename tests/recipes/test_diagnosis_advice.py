"""The words of a diagnosis: what is wrong is said with its cure."""

import math
import re

import pytest

from lissome.recipes.diagnosis_advice import advise

COURSE = {"measured": [1.0, 0.5], "error": 0.01, "drift": 0.02, "diverged": False}


def told(**changes):
    """Figures of a network that is well, but for what is changed."""
    found = {
        "rows": {"inside": 16, "outside": 8},
        "spectrum": {"whole": True, "at_rounding": 0},
        "steps": {"largest": 0.2, "taken": 0.1, "plain": 0.02, "batch": 8, "stochastic": 0.1},
        "forecast": [{"fraction": 0.1, "steps": 10}, {"fraction": 0.01, "steps": 100}],
        "plateau": {"steps": 100_000, "share": 0.0},
        "elsewhere": {"here": 0.001, "there": 0.002},
        "course": COURSE,
        "widths": [{"kind": "kan", "width": 4, "error": 0.01, "diagnosed": True}],
        "weights": {"follows": False, "now": 100.0, "balanced": 120.0},
        "smooth": {"has": None, "needs": 3, "enough": True},
    }
    return {each["topic"]: each for each in advise(found | changes)}


def test_a_network_that_is_well_hears_nothing_bad():
    assert {each["verdict"] for each in told().values()} == {"good"}


@pytest.mark.parametrize(
    ("changes", "topic", "verdict", "words"),
    [
        (
            {"smooth": {"has": 2, "needs": 3, "enough": False}},
            "smoothness",
            "mind",
            "holds the third, which jumps: .* may be far off. .*basis=chebyshev.*network.order=4",
        ),
        (
            {"weights": {"follows": False, "now": 1.0, "balanced": 1234.0}},
            "weights",
            "bad",
            "weigh 1.0; .* weigh 1.2e3. As it is, .* learns them 1.2e3 times slower; .*weights=1200, or .*=balanced",
        ),
        (
            {"weights": {"follows": False, "now": 100.0, "balanced": 20.0}},
            "weights",
            "mind",
            "learns the equation inside 5.0 times slower",
        ),
        ({"weights": {"follows": False, "now": 1.0, "balanced": math.inf}}, "weights", "mind", "does not move at all"),
        ({"weights": {"follows": True, "now": 7.0, "balanced": 7.0}}, "weights", "good", "balanced, 7.0 here"),
        ({"forecast": [{"fraction": 0.01, "steps": None}]}, "pace", "bad", "0.01 never, .* gauss-newton"),
        (
            {"plateau": {"steps": 100_000, "share": 0.4}, "spectrum": {"whole": True, "at_rounding": 9}},
            "plateau",
            "bad",
            "9 of 24 eigenvalues are at rounding: .* 40% of the loss lies in directions that lose less than half",
        ),
        ({"elsewhere": {"here": 0.001, "there": 0.7}}, "points", "bad", "learnt by heart. Train with more points"),
        (
            {
                "course": COURSE | {"error": 0.3, "drift": 0.5},
                "widths": [
                    {"kind": "kan", "width": 4, "error": 0.3, "diagnosed": True},
                    {"kind": "kan", "width": 16, "error": 0.01, "diagnosed": False},
                    {"kind": "mlp", "width": 9, "error": 0.01, "diagnosed": False},
                ],
            },
            "prediction",
            "mind",
            "off by at most 30% of its start, .* too narrow .* width 16 is enough for it",
        ),
        ({"course": COURSE | {"error": math.inf, "diverged": True}}, "prediction", "bad", "diverged within 1 steps"),
        (
            {"course": COURSE | {"drift": 0.5}},
            "prediction",
            "mind",
            "later steps go by another kernel",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(changes, topic, verdict, words):
    found = told(**changes)[topic]
    assert found["verdict"] == verdict
    assert re.search(words, found["says"]), found["says"]
