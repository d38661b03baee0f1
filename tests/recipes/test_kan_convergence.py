"""The replication of two-layer KANs: what is run, that its figures are what they say, claims that follow from rows."""

import json
import math

import pytest
import torch

from lissome._errors import UsageError
from lissome._vector import functional
from lissome.calculus import derivatives, gram
from lissome.models.two_layer import TwoLayerKAN
from lissome.recipes import kan_convergence as recipe
from lissome.recipes.kan_convergence import SYSTEMS, System, points, residual, target
from lissome.recipes.kan_convergence_claims import claims
from lissome.recipes.kan_convergence_report import drawings, tables
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate

PLANE = System(2, "rbf", 6, 8)


def asked(**more):
    return ReplicateSettings(paper="kan-convergence", **more)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_width(m=1024, system="regression, d = 1", seed=0, **more):
    curve = {"step": [0, 1], "predicted": [1.0, 0.5], "measured": [1.0, 0.5], "bound": [1.0, 0.9]}
    figures = {"largest": 10.0, "smallest": 1e-3, "error": 1e-3, "loss": 1.0, "over": 0.9, "drift": 3 / m}
    return {"part": "widths", "system": system, "width": m, "seed": seed, "quick": False, "seconds": 1.0} | figures | {
        "curve": curve
    } | more  # fmt: skip


def sgd(factor="0.9 eta*", half=100, whole=200, end=1e-15, batch=5, seed=0):
    reached = {"1e-05": half, "1e-10": whole}
    figures = {"eta": 0.1, "limit": 0.3, "crude": 0.1, "reached": reached, "cap": 1000, "end": end}
    place = {"part": "stochastic", "batch": batch, "factor": factor, "seed": seed, "quick": False, "seconds": 1.0}
    return place | figures | {"curve": {"step": [0, 1], "measured": [1.0, 0.5]}}


def spectrum(last, basis="bspline", d=1, n=50):
    place = {"part": "spectra", "basis": basis, "dimension": d, "count": n, "seed": 0, "quick": False, "seconds": 1.0}
    return place | {"largest": 10.0, "smallest": 10 * last, "eigenvalues": [1.0, 0.5, last]}


def weighed(error, weight="means", system="cubic, d = 1", by="Adam", seed=0):
    place = {"part": "weights", "system": system, "by": by, "weight": weight, "seed": seed, "quick": False}
    return place | {"value": 2.0, "error": error, "seconds": 1.0, "curve": {"step": [0, 1], "error": [1.0, error]}}


def claim(rows, part):
    (found,) = [each for each in claims(rows) if part in each.says]
    return found


def test_all_parts_are_run_for_each_seed_and_the_widest_last():
    found = recipe.cells(asked(seeds=2))
    assert len({each.name for each in found}) == len(found) == 2 * (12 + 5 * 4 + 3 + 12 + 12)
    widest = [each.arguments.get("width") == 4096 for each in found]
    assert widest == sorted(widest)
    assert sum(widest) == 6
    assert len(recipe.cells(asked())) == 3 * len(found) / 2
    assert len(recipe.cells(asked(quick=True))) < len(found)


def test_data_are_refused():
    with pytest.raises(UsageError, match="^kan-convergence reads no data, and 'x' was given; leave out --data$"):
        recipe.cells(asked(data=["x"]))


@pytest.mark.parametrize("system", [System(1, "bspline", 5, 2), PLANE, System(3, "rbf", 4)])
def test_points_lie_in_the_box_and_on_each_of_its_faces(system):
    x, edge = points(system, seeded())
    assert x.shape == (system.inside, system.dimension)
    assert float(x.abs().max()) < 1
    assert edge.shape == (system.boundary, system.dimension)
    assert bool((edge.abs().max(1).values == 1).all())
    faces = {(int(axis), float(row[axis])) for row in edge for axis in (row.abs() == 1).nonzero()[:, 0]}
    assert len(faces) == (2 * system.dimension if system.boundary else 0)


def test_the_target_solves_the_equation_that_the_rows_hold():
    x, edge = points(PLANE, seeded(3))
    bent = derivatives(lambda z: target(PLANE, z), x, second=((1.0, 1.0),)).second[0]
    r, theta, value = residual(PLANE, 8, 3, weight=4.0)
    torch.testing.assert_close(-r(theta), torch.cat([-bent, 2 * target(PLANE, edge)]))
    assert not value(theta, x).any()


def test_rows_are_those_of_a_network_less_its_start():
    r, theta, value = residual(PLANE, 8, 3, inner=0.2, weight=4.0)
    net = TwoLayerKAN(2, width=8, name="rbf", inner=0.2, generator=seeded(1003)).double()
    x, edge = points(PLANE, seeded(3))

    def rows(net):
        bent = derivatives(net, x, second=((1.0, 1.0),)).second[0]
        return torch.cat([-bent, 2 * net(edge)[:, 0]]) - torch.cat(
            [2 * math.pi**2 * target(PLANE, x), 2 * target(PLANE, edge)]
        )

    other, start = functional(rows, net)
    moved = {name: each + 0.1 for name, each in theta.items()}
    assert start.keys() == theta.keys()
    torch.testing.assert_close(r(moved), other(moved), rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(gram(r, theta).dense(), gram(other, start).dense())
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(moved[name])
    torch.testing.assert_close(value(moved, x), net(x)[:, 0], rtol=1e-9, atol=1e-10)


def test_the_first_residual_is_the_same_for_every_width():
    first = [r(theta) for r, theta, _ in (residual(SYSTEMS["Poisson, d = 1, rbf"], m, 0) for m in (4, 16))]
    torch.testing.assert_close(*first, rtol=1e-12, atol=1e-9)


def test_a_quick_look_goes_through_all_parts_and_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "QUICK", {"widths": (3, 6), "steps": 3, "counts": (5,), "width": 4})
    monkeypatch.setattr(
        recipe, "SYSTEMS", {name: SYSTEMS[name] for name in ("regression, d = 5", "Poisson, d = 1, rbf")}
    )
    monkeypatch.setattr(recipe, "BATCHES", (5,))
    monkeypatch.setattr(recipe, "SPECTRA", (("rbf", 2),))
    monkeypatch.setattr(recipe, "RUNS", recipe.RUNS[1:3])
    monkeypatch.setattr(recipe, "WEIGHED", {system: System(1, "rbf", 6, 2) for system, _ in recipe.RUNS})
    out = tmp_path / "run"
    told = replicate("kan-convergence", out, quick=True, progress=False)
    lines = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert sorted(each["step"] for each in lines) == list(range(len(recipe.cells(asked(quick=True)))))
    assert {each["part"] for each in lines} == set(recipe.PARTS)
    assert {each["verdict"] for each in told} == {"not measured"}  # a look proves nothing
    assert {path.stem for path in (out / "figures").iterdir()} >= {"drift", "spectra", "sgd-5", "weights"}
    assert "Drift of K against m" in (out / "index.html").read_text()


def test_a_cell_repeats_itself():
    one, two = (recipe.run(lambda: None, None, part="stochastic", seed=1, quick=True, batch=5, factor="0.9 eta*")
                for _ in range(2))  # fmt: skip
    assert one["curve"] == two["curve"]
    assert 0 < one["end"] < 1


def test_the_bound_has_to_hold_for_all():
    good = [by_width(m) for m in (16, 64)]
    assert claim(good, "the bound").verdict == "shown"
    assert claim([*good, by_width(256, over=1.01)], "the bound").verdict == "not shown"


def test_drift_is_judged_by_its_slope_in_each_system():
    rows = [by_width(m) for m in (16, 64, 256)]
    rows += [by_width(m, "Poisson, d = 1, rbf", drift=m**-0.2) for m in (16, 64, 256)]
    found = claim(rows, "the less K moves, as m^-1/2 or less, regression, d = 1")
    assert found.verdict == "shown"
    assert found.found.mean == pytest.approx(1)
    found = claim(rows, "the less K moves, as m^-1/2 or less, Poisson")
    assert found.verdict == "not shown"
    assert found.found.mean == pytest.approx(0.2)
    assert claim([by_width(16)], "the less K moves, as m^-1/2 or less, regression, d = 1").verdict == "not measured"


def test_predictions_are_judged_where_networks_are_wide():
    narrow = by_width(16, error=0.5)
    assert claim([narrow, by_width(1024)], "predict descent, regression, d = 1").verdict == "shown"
    assert claim([narrow, by_width(4096, error=0.02)], "predict descent, regression, d = 1").verdict == "not shown"


def test_smooth_bases_and_rough_ones_are_told_apart():
    rows = [by_width(system="Poisson, d = 1, rbf", loss=1.02), by_width(system="Poisson, d = 1, cubic", loss=0.1)]
    rows += [by_width(64, "Poisson, d = 2, cubic", loss=9.0), by_width(256, "Poisson, d = 2, cubic", loss=0.98)]
    said = ("predicted, at every m", "with cubic splines, whose", "in two dimensions it is")
    assert {claim(rows, part).verdict for part in said} == {"shown"}
    other = [row | {"loss": 2 - row["loss"] if "cubic" in row["system"] else 1.2} for row in rows]
    same = [row | {"loss": 1.05} for row in other]
    assert [claim(same, part).verdict for part in said] == ["not shown", "not shown", "not shown"]
    narrow = [*rows, by_width(16, "Poisson, d = 1, rbf", loss=0.9)]
    assert claim(narrow, "predicted, at every m").verdict == "not shown"
    assert claim(narrow, "predicted, from m = 256").verdict == "shown"


def test_ends_of_spectra_are_compared_at_the_same_width_and_seed():
    rows = [by_width(), by_width(system="Poisson, d = 1, cubic", largest=1e6, smallest=1.0)]
    assert claim(rows, "larger lambda_max").found.mean == pytest.approx(1e5)
    assert claim(rows, "larger lambda_min").verdict == "shown"
    assert claim([rows[0], rows[1] | {"seed": 1}], "larger lambda_max").verdict == "not measured"


def test_stochastic_descent_is_judged_by_its_step():
    good = [sgd(), sgd("2 eta*", None, None, 0.1), sgd("4 eta*", None, None, 1e300)]
    said = ("down to rounding", "does so linearly", "SGD at 2 eta*", "SGD at 4 eta*", "crude rule")
    assert [claim(good, part).verdict for part in said] == ["shown"] * 5
    assert claim(good, "SGD at 2 eta*").found.mean == pytest.approx(10)  # what does not get there counts with the cap
    assert claim(good, "SGD at 2 eta*").found.capped == 1
    bad = [sgd(whole=None), sgd("2 eta*", 150, 300), sgd("4 eta*", None, None, 0.5)]
    assert [claim(bad, part).verdict for part in said[:4]] == ["not shown", "not measured", "not shown", "not shown"]
    assert claim([sgd(whole=900)], "does so linearly").verdict == "not shown"


def test_spectra_reach_rounding_where_functions_are_analytic():
    rows = [spectrum(1e-4), spectrum(1e-9, n=200), spectrum(0.1, d=5), spectrum(-1e-18, "rbf", n=200)]
    said = ("tiny at 50", "or near it, at 200", "well conditioned", "analytic functions")
    assert [claim(rows, part).verdict for part in said] == ["shown"] * 4
    other = [spectrum(0.1), spectrum(1e-3, n=200), spectrum(1e-3, d=5), spectrum(1e-8, "rbf", n=200)]
    assert [claim(other, part).verdict for part in said] == ["not shown"] * 4


def test_weights_are_compared_with_those_of_the_same_run():
    rows = [weighed(1e-3), weighed(4e-3, "traces"), weighed(1.0, "1"), weighed(9.0, "1", "cubic, d = 2")]
    assert claim(rows, "cubic, d = 1 by Adam").verdict == "shown"
    assert claim(rows, "unweighed").found.mean == pytest.approx(1)
    assert claim(rows, "beats that of traces").found.mean == pytest.approx(0.25)
    other = [weighed(1e-2), weighed(5e-3, "traces"), weighed(0.02, "1")]
    assert [claim(other, part).verdict for part in ("cubic, d = 1 by Adam", "unweighed", "beats")] == ["not shown"] * 3


def test_no_rows_and_rows_that_ran_away_end_neither_tables_nor_figures():
    assert not tables([])
    assert all(item.figure is None for item in drawings([]))
    rows = [by_width(), by_width(drift=1e300, error=1e300, loss=1e300, seed=1), spectrum(-1e-18), weighed(1e300)]
    rows += [sgd("4 eta*", None, None, 1e300)]
    assert len(tables(rows)) == 4
    assert sum(item.figure is not None for item in drawings(rows)) == 5
    assert {each.verdict for each in claims(rows)} >= {"shown", "not measured"}
