import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.recipes import arcm, labelled
from lissome.recipes.arcm_report import profile, tables
from lissome.recipes.labelled import Labelled, synthetic
from lissome.recipes.paper import Claim, Ratio, ReplicateSettings, Sheet, spread
from lissome.report.drawing import palette

TINY = synthetic(3, rows=30, columns=4)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(arcm, "load", lambda source, quick=False: TINY)


def run(**changes):
    usual = {"source": "synthetic", "problem": "robust", "start": "N(0,1)", "seed": 1, "method": "ARCm default"}
    return arcm.run(lambda: None, Path(), quick=False, **(usual | changes))


def row(method, seed=0, iterations=None, cap=100, start="0"):
    cost = dict.fromkeys(("iterations", "hessians", "rejected", "evaluations", "gradients", "seconds"), iterations)
    reached = dict.fromkeys(arcm.TOLERANCES, cost if iterations else None)
    place = {"data": "d", "problem": "p", "start": start, "seed": seed, "method": method}
    return place | {"reached": reached, "cap": cap, "curve": [(0, 0, 1.0)]}


def by_hand(problem, x):
    """f written as the paper does, row by row."""
    total = 0.0
    for a, b in zip(TINY.A.tolist(), TINY.b.tolist(), strict=True):
        z = sum(u * v for u, v in zip(a, x, strict=True))
        if problem == "robust":
            total += math.log(((2 * b - 1) - z) ** 2 / 2 + 1)
        else:
            p = 1 / (1 + math.exp(-z))
            total -= b * math.log(p) + (1 - b) * math.log(1 - p)
    weight = {"robust": 0.0, "logistic 1e-3": 1e-3, "logistic 1/N": 1 / 30}[problem]
    return total / 30 + weight * sum(v * v / (1 + v * v) for v in x)


@pytest.mark.parametrize("problem", arcm.PROBLEMS)
def test_the_problems_are_those_of_the_paper(problem):
    x = [0.1, -0.2, 0.3, 0.01]
    found = arcm.oracle(TINY, problem).value(torch.tensor(x, dtype=torch.float64))
    assert found == pytest.approx(by_hand(problem, x), rel=1e-12)


@pytest.mark.parametrize("method", arcm.METHODS)
def test_each_method_ends_where_the_gradient_is_zero(tiny, method):
    found = run(method=method, problem="logistic 1e-3", start="0", seed=0)
    costs = [found["reached"][t] for t in arcm.TOLERANCES if found["reached"][t]]
    assert costs[0]["iterations"] >= 1
    assert [c["iterations"] for c in costs] == sorted(c["iterations"] for c in costs)
    assert all(c["hessians"] == c["iterations"] for c in costs)
    assert found["gradient_norm"] <= 1e-6
    assert json.loads(json.dumps(found))["method"] == method


def test_the_same_seed_gives_the_same_run(tiny):
    def counted(found):
        return [{k: v for k, v in cost.items() if k != "seconds"} for cost in found["reached"].values()]

    assert counted(run()) == counted(run())
    assert run()["curve"] == run()["curve"] != run(seed=2)["curve"]


def test_a_far_start_is_five_times_a_near_one():
    near, far = (arcm.begin_at(TINY, start, 7) for start in ("N(0,1)", "N(0,25)"))
    assert torch.equal(far, 5 * near)
    assert not arcm.begin_at(TINY, "0", 7).any()


def test_a_stop_is_heard_within_a_run(tiny):
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arcm.run(tick, Path(), source="", problem="robust", start="0", seed=0, method="ARC", quick=False)


def test_cells_have_names_of_their_own_and_slow_methods_come_last(monkeypatch):
    monkeypatch.setattr(arcm, "has_breast_cancer", lambda: False)
    cells = arcm.cells(ReplicateSettings(paper="arcm", seeds=3))
    assert len({cell.name for cell in cells}) == len(cells) == 3 * (5 * 7 + 2 * 3)
    slow = [cell.arguments["method"] in arcm.FIXED for cell in cells]
    assert slow == sorted(slow)


def test_a_ratio_counts_a_method_that_does_not_arrive_with_the_cap():
    rows = [row("CR", 0, None), row("ARC", 0, 50), row("CR", 1, 90), row("ARC", 1, 45)]
    found = arcm.compare(rows, "CR", "ARC")
    assert found is not None
    assert (found.mean, found.cells, found.capped, found.left_out) == (pytest.approx(2.0), 2, 1, 0)
    assert arcm.compare(rows, "TR", "ARC") is None
    assert arcm.compare([row("CR"), row("ARC")], "CR", "ARC") is None


def test_a_ratio_pairs_runs_of_one_cell_alone():
    rows = [row("TR", 0, 10), row("ARC", 0, 20), row("TR", 1, 40, start="x"), row("ARC", 1, 20, start="y")]
    found = arcm.compare(rows, "TR", "ARC")
    assert found is not None
    assert (found.mean, found.cells) == (pytest.approx(0.5), 1)


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.3, "shown"), (0.5, "shown"), (0.51, "not shown"), (None, "not measured")]
)
def test_a_claim_is_shown_within_its_bounds(value, verdict):
    found = spread([Ratio(0, value)])
    claim = Claim("says", "source", "ratio", found, most=0.5)
    assert claim.verdict == claim.told()["verdict"] == verdict
    assert "wanted at most 0.5" in claim.evidence


def test_the_claim_of_the_paper_is_judged_in_both_readings():
    rows = [row("ARCm published", 0, 70), row("ARC, same sigma", 0, 100)]
    found = {(claim.source, claim.what): claim.verdict for claim in arcm.claims(rows)}
    what = "iterations to 1e-6, published / ARC with its sigma"
    assert found["printed abstract", what] == "not shown"
    assert found["draft sentence in the source", what] == "shown"


def test_the_table_says_what_was_not_reached():
    (sheet,) = tables([row("CR", 0), row("ARC", 0, 5), row("CR", 1), row("ARC", 1)], ("ARC", "CR"))
    assert [line[:2] for line in sheet.rows] == [["ARC", "5 (1 of 2 not reached)"], ["CR", "not reached"]]
    assert sheet.title == "d, p, from 0, medians of 2 seeds"


def test_a_sheet_is_the_same_as_markdown_and_as_html():
    sheet = Sheet("t", ("a", "b"), [("1", "<2>")])
    assert sheet.markdown() == "## t\n\n| a | b |\n| --- | --- |\n| 1 | <2> |\n"
    assert '<th scope="row">1</th><td>&lt;2&gt;</td>' in sheet.html()


def test_a_profile_needs_two_methods_and_starts_with_the_share_of_firsts():
    styles = palette([("ARC", "ARC"), ("TR", "TR")])
    assert profile([row("ARC", 0, 5)], "iterations", styles) is None
    rows = [row("ARC", 0, 10), row("TR", 0, 5), row("ARC", 1, 10), row("TR", 1, 20)]
    drawn = profile(rows, "iterations", styles)
    assert drawn is not None
    for line in drawn.axes[0].lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert (x[0], x[-2], y[-1]) == (1.0, 2.0, 1.0)
        assert max(y[x == 1.0]) == 0.5


def test_made_data_have_two_labels_and_a_quick_look_takes_the_first_rows():
    assert set(TINY.b.tolist()) == {0.0, 1.0}
    short = Labelled("d", TINY.A, TINY.b).first(5)
    assert (len(short.A), len(short.b)) == (5, 5)


def test_a_scikit_learn_that_cannot_be_loaded_is_told(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(labelled.importlib, "import_module", missing)
    with pytest.raises(RunError, match="scikit-learn cannot be loaded"):
        labelled.breast_cancer()


def test_columns_that_no_hessian_holds_are_refused_before_anything_runs(tmp_path):
    wide = tmp_path / "wide.txt"
    wide.write_text("+1 5:1 200000:1\n-1 3:1\n")
    with pytest.raises(UsageError, match=r"wide.txt' has 200,000 columns, and legal are at most 5,000"):
        arcm.cells(ReplicateSettings(paper="arcm", data=[str(wide)]))
