"""The diagnosis of a network, whole: what it writes, what it says, and what it refuses."""

import json
import math
import re

import pytest
import torch
import yaml

from lissome._errors import Interrupted, RunError, UsageError
from lissome.pde import Problem
from lissome.recipes import diagnose, show
from lissome.recipes.diagnosis_settings import DiagnoseSettings, subject
from lissome.recipes.diagnosis_subject import networks, subject_of
from lissome.recipes.settings import load

SMALL = {"network.width": 4, "network.depth": 1}
FEW = {"points": 24, "steps": 8, "widths": []}


def settings(what="poisson", solve=SMALL, **given):
    beneath, subjects = subject(str(what), {"constraint": "soft", **solve} if "/" not in str(what) else {})
    return load(DiagnoseSettings, given=subjects | FEW | given, beneath=beneath)


@pytest.fixture
def unpaged(monkeypatch):
    """No page is drawn: the figures alone are looked at."""
    monkeypatch.setattr("lissome.recipes.diagnosis.page", lambda *_: None)


def test_a_diagnosis_writes_what_it_finds(tmp_path):
    found = diagnose(settings(widths=[4, 8]), tmp_path / "out", progress=False)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "diagnosis.json",
        "environment.json",
        "figures",
        "index.html",
        "settings.yaml",
    ]
    names = ["course.svg", "drift.svg", "shares.svg", "spectrum.svg"]
    assert sorted(path.name for path in (out / "figures").iterdir()) == names
    kept = json.loads((out / "diagnosis.json").read_text())
    assert kept["spectrum"]["largest"] == found["spectrum"]["largest"]
    assert kept["rows"] == {"inside": 16, "outside": 8}
    html = (out / "index.html").read_text()
    assert html.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', html)
    for each in found["advice"]:
        assert each["verdict"] in ("good", "mind", "bad")
        assert each["says"].endswith(".")
    assert [(row["kind"], row["width"], row["diagnosed"]) for row in found["widths"]] == [
        ("mlp", 4, True),
        ("mlp", 8, False),
    ]
    assert all(value > 0 for value in found["seconds"].values())
    course = found["course"]
    assert len(course["measured"]) == len(course["predicted"]) == len(course["bound"]) == 9
    worst = max(abs(a - b) for a, b in zip(course["measured"], course["predicted"], strict=True))
    assert course["error"] == pytest.approx(worst / course["measured"][0])
    again = load(DiagnoseSettings, file=out / "settings.yaml", given={})
    assert diagnose(again, tmp_path / "again", progress=False)["course"] == course


def test_a_kan_stands_beside_mlps_of_equal_size(unpaged, tmp_path):
    found = diagnose(settings(solve=SMALL | {"network.kind": "kan"}, widths=[2, 4]), tmp_path / "out", progress=False)
    rows = found["widths"]
    assert [row["kind"] for row in rows] == ["kan", "kan", "mlp", "mlp"]
    for own, other in zip(rows[:2], rows[2:], strict=True):
        assert other["numbers"] == pytest.approx(own["numbers"], rel=0.1)


def test_widths_that_are_not_given_are_three_and_hold_the_own_one(unpaged, tmp_path):
    found = diagnose(settings(widths=None, steps=1), tmp_path / "out", progress=False)
    assert [row["width"] for row in found["widths"]] == [4, 8, 16]
    wide = settings(solve={"network.width": 200, "network.depth": 2}, widths=None)
    assert [each.width for each in networks(subject_of(wide), wide)] == [50, 100, 200]


def test_a_larger_kernel_than_the_limit_is_told_of_by_its_ends(tmp_path):
    found = diagnose(settings(limit=10), tmp_path / "out", progress=False)
    assert found["spectrum"]["whole"] is False
    assert found["spectrum"]["at_rounding"] is None
    says = next(each["says"] for each in found["advice"] if each["topic"] == "spectrum")
    assert "24 rows, more than limit=10: its ends come from Lanczos' method" in says
    assert "Ritz values" in (tmp_path / "out" / "figures" / "spectrum.svg").read_text()


def test_weights_that_follow_the_network_are_balanced_as_they_are(unpaged, tmp_path):
    found = diagnose(settings(solve=SMALL | {"weights": "balanced"}), tmp_path / "out", progress=False)
    assert found["weights"]["now"] == pytest.approx(found["weights"]["balanced"])
    assert "The weight is balanced" in next(each["says"] for each in found["advice"] if each["topic"] == "weights")


def test_under_exact_values_there_is_no_weight_to_choose(tmp_path):
    found = diagnose(settings(solve=SMALL | {"constraint": "boundary"}), tmp_path / "out", progress=False)
    assert found["weights"] is None
    assert found["rows"]["outside"] == 0
    assert "no weight has to be chosen" in (tmp_path / "out" / "index.html").read_text()


def test_a_step_that_is_too_large_is_seen_to_diverge(unpaged, tmp_path):
    found = diagnose(settings(rate=50.0, steps=60), tmp_path / "out", progress=False)
    assert found["course"]["diverged"]
    assert found["elsewhere"] is None
    assert "diverged within 60 steps" in next(a["says"] for a in found["advice"] if a["topic"] == "prediction")


@pytest.mark.parametrize("limit", [2000, 10])
def test_a_network_that_no_step_moves_is_a_sentence(unpaged, tmp_path, monkeypatch, limit):
    def zeroed(asked):
        found = subject_of(asked)
        with torch.no_grad():
            for parameter in found.model.parameters():
                parameter.zero_()
        return found

    monkeypatch.setattr("lissome.recipes.diagnosis.subject_of", zeroed)
    # tanh and silu are 0 at 0, so every slope is
    odd = {"network.kind": "kan", "network.basis": "chebyshev", "network.intervals": 1, "network.order": 0}
    with pytest.raises(RunError, match="^nothing moves at this start: no step of the network's .* numbers changes"):
        diagnose(settings(solve=SMALL | odd, limit=limit), tmp_path / "out", progress=False)


@pytest.mark.parametrize(("value", "says"), [(0.0, "is 0 at all points: there is"), (math.nan, "is not finite at the")])
@pytest.mark.parametrize("limit", [2000, 10])
def test_a_start_of_which_nothing_can_be_told_is_a_sentence(unpaged, tmp_path, monkeypatch, limit, value, says):
    residual = Problem.residual
    monkeypatch.setattr(Problem, "residual", lambda self, net, batch: value * residual(self, net, batch))
    with pytest.raises(RunError, match=f"^the residual {says}"):
        diagnose(settings(limit=limit), tmp_path / "out", progress=False)


def test_nothing_or_two_things_to_diagnose_are_a_sentence(tmp_path):
    for given in ({}, {"run": "a", "solve.family": "poisson"}):
        with pytest.raises(UsageError, match="name one thing to diagnose: a run's directory, a .yaml file"):
            diagnose(load(DiagnoseSettings, given=given), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_a_directory_that_can_be_begun_again(unpaged, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("lissome.recipes.diagnosis.descent", stopped)
        with pytest.raises(Interrupted, match=r"stopped; `lissome pde diagnose --resume --out .*out` begins again"):
            diagnose(settings(), out, progress=False)
    with pytest.raises(UsageError, match="is a stopped diagnosis: `lissome pde diagnose --resume --out"):
        show(out)
    assert yaml.safe_load((out / "settings.yaml").read_text())["points"] == 24
    diagnose(settings(), out, resume=True, progress=False)
    with pytest.raises(
        UsageError, match=r"is a diagnosis: its page is .*index.html, its figures are in diagnosis.json"
    ):
        show(out)
