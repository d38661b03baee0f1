"""The diagnosis of a network: its figures against what they are said to be, and its words."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
import yaml

from lissome._errors import Interrupted, RunError, UsageError
from lissome.calculus import Tangent
from lissome.pde import Problem, load_family
from lissome.recipes import diagnose, show
from lissome.recipes.archive import build
from lissome.recipes.diagnosis_advice import advise, smoothness
from lissome.recipes.diagnosis_kernel import descent, elsewhere, kernel, moved, paces, parts_of, still, system
from lissome.recipes.diagnosis_settings import DiagnoseSettings, subject
from lissome.recipes.diagnosis_subject import networks, subject_of
from lissome.recipes.settings import NetworkSettings, load
from tests.oracles import tangent as oracle
from tests.oracles.curvature import flat, jacobian

SMALL = {"network.width": 4, "network.depth": 1}
FEW = {"points": 24, "steps": 8, "widths": []}
HOW = {"limit": 2000, "products": 20}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def settings(what="poisson", solve=SMALL, **given):
    beneath, subjects = subject(str(what), {"constraint": "soft", **solve} if "/" not in str(what) else {})
    return load(DiagnoseSettings, given=subjects | FEW | given, beneath=beneath)


@pytest.fixture
def unpaged(monkeypatch):
    """No page is drawn: the figures alone are looked at."""
    monkeypatch.setattr("lissome.recipes.diagnosis.page", lambda *_: None)


def made(family="poisson", network=None, points=24, weight=100.0, **how):
    problem = Problem(load_family(family)(**how), test_points=5, weight_boundary=weight)
    asked = NetworkSettings(**({"width": 4, "depth": 1} | (network or {})))
    model = problem.wrap(build(problem, asked, 0)).double()
    return problem, model, problem.sample(seeded(), points)


# the system and its kernel


@pytest.mark.parametrize("family", ["poisson", "heat", "convection", "klein-gordon"])
def test_half_the_square_of_the_system_is_the_loss_and_its_kernel_that_of_its_rows(family):
    problem, model, batch = made(family)
    found = system(problem, model, batch)
    r = found.function(found.start).detach()
    assert 0.5 * float(r.square().sum()) == pytest.approx(float(problem.loss(model, batch).detach()), rel=1e-10)
    assert len(r) == found.rows == sum(count for *_, count in found.parts)
    truth = oracle.kernel(*flat(found.function, found.start))
    at = kernel(found, found.start, generator=seeded(), **HOW)
    torch.testing.assert_close(at.matrix, truth, rtol=1e-8, atol=1e-8 * float(truth.abs().max()))
    torch.testing.assert_close(found.diagonal(found.start), truth.diagonal(), rtol=1e-8, atol=0)
    assert at.whole
    assert (at.smallest_bound, at.largest_bound) == (0.0, 0.0)
    assert at.step == pytest.approx(2 / float(torch.linalg.eigvalsh(truth)[-1]))
    assert float(parts_of(at).sum()) == pytest.approx(1.0)


def test_a_jacobian_too_large_is_never_made(monkeypatch):
    problem, model, batch = made()
    found = system(problem, model, batch)
    whole = kernel(found, found.start, generator=seeded(), **HOW)
    monkeypatch.setattr("lissome.recipes.diagnosis_kernel.JACOBIAN_NUMBERS", found.rows * found.size - 1)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    assert at.jacobian is None
    torch.testing.assert_close(at.matrix, whole.matrix)
    torch.testing.assert_close(found.diagonal(found.start), whole.tangent.diagonal)
    assert elsewhere(found, at, found, at.step, 10) is None


def test_above_the_limit_ends_and_forecast_come_from_products_alone():
    problem, model, batch = made(points=60)
    found = system(problem, model, batch)
    whole = kernel(found, found.start, generator=seeded(), **HOW)
    part = kernel(found, found.start, generator=seeded(), limit=found.rows - 1, products=40)
    assert not part.whole
    assert part.jacobian is None
    assert abs(part.largest - whole.largest) <= part.largest_bound + 1e-9 * whole.largest
    assert abs(part.smallest - whole.smallest) <= part.smallest_bound + 1e-9 * whole.largest
    assert part.tangent.stochastic_step(8) == pytest.approx(whole.tangent.stochastic_step(8), rel=1e-6)
    step = 0.5 * whole.step
    predicted = [each.tangent.predict(each.coordinates, step, 200) for each in (whole, part)]
    torch.testing.assert_close(*predicted, rtol=1e-6, atol=0)
    assert float(parts_of(part).sum()) == pytest.approx(1.0)
    ends = [
        descent(found, each, step=step, steps=3, generator=seeded(), limit=k, products=40)
        for each, k in ((whole, 2000), (part, found.rows - 1))
    ]
    assert ends[1].drift == pytest.approx(ends[0].drift, rel=0.3)
    assert torch.equal(ends[0].measured, ends[1].measured)


def test_the_drift_by_random_vectors_is_that_of_two_different_kernels():
    problem, model, batch = made()
    found = system(problem, model, batch)
    end = {name: value + 0.1 * torch.randn(value.shape, generator=seeded(4)) for name, value in found.start.items()}
    whole, part = (
        [kernel(found, at, generator=seeded(), limit=limit, products=20) for at in (found.start, end)]
        for limit in (2000, 5)
    )
    J = [jacobian(*flat(found.function, at)) for at in (found.start, end)]
    before, after = (each @ each.T for each in J)
    truth = float((after - before).norm() / before.norm())
    assert truth > 0.05
    assert moved(*whole, seeded()) == pytest.approx(truth, rel=1e-8)
    estimates = torch.tensor([moved(*part, seeded(seed)) for seed in range(20)])
    assert float(estimates.median()) == pytest.approx(truth, rel=0.1)
    assert float((estimates / truth - 1).abs().max()) < 0.6
    assert moved(part[0], part[0], seeded()) == 0.0


def diagonal_system(d, r0):
    """A residual d x + r_0, whose kernel is diag(d^2)."""
    return SimpleNamespace(
        rows=len(d), function=lambda theta: d * theta["x"] + r0, diagonal=lambda theta: d.square()
    ), {"x": torch.zeros_like(d)}


def test_what_the_space_of_the_residual_misses_still_bounds_the_steps():
    d = torch.linspace(1, 3, 40).double()
    r0 = torch.zeros(40).double()
    r0[:3] = 1.0  # the large eigenvalues have no part of it
    at = kernel(*diagonal_system(d, r0), limit=5, products=40, generator=seeded())
    assert at.tangent.largest < 2
    assert at.largest == pytest.approx(9.0)
    assert at.step == pytest.approx(2 / 9)
    whole = Tangent.of(torch.diag(d.square()))
    assert at.stochastic_step(4) == pytest.approx(whole.stochastic_step(4), rel=1e-6)
    assert at.stochastic_step(4) < at.tangent.stochastic_step(4)


@pytest.mark.parametrize("end", [0, -1])
def test_a_bound_is_of_the_space_that_gave_the_value(end):
    d, r0 = torch.linspace(1, 3, 40).double(), torch.zeros(40).double()
    r0[end] = 1.0  # an eigenvector: its space gives the end exactly, eight products from elsewhere do not
    at = kernel(*diagonal_system(d, r0), limit=5, products=8, generator=seeded())
    values, bounds = (at.smallest, at.largest), (at.smallest_bound, at.largest_bound)
    assert values[end] == pytest.approx(float(d[end] ** 2))
    assert bounds[end] == 0.0
    assert bounds[1 + end] > 0.0
    assert float((d.square() - values[1 + end]).abs().min()) <= bounds[1 + end]


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_paces_are_the_sums_of_their_steps(steps):
    step = 0.3
    ways = [0.0, 1e-320, 1e-200, 1e-17, 1e-9, 0.3, 1 - 1e-9, 1.0, 1.3, 1.999, 2.0]
    x = torch.tensor(ways, dtype=torch.float64)
    truth = [math.fsum(step * (1 - each) ** k for k in range(steps)) for each in ways]
    truth = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(paces(x / step, step, steps), truth, rtol=1e-12, atol=1e-13)
    assert float(paces(torch.tensor([-1e-9]).double(), step, steps)) == pytest.approx(step * steps)


@pytest.mark.parametrize("rate", [0.6, 1.0])
def test_the_forecast_at_its_own_points_is_the_same_by_either_way(rate):
    problem, model, batch = made()
    found = system(problem, model, batch)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    here, there = elsewhere(found, at, found, rate * at.step, 100)
    assert there == pytest.approx(here, rel=1e-6)


def test_balanced_weights_are_those_of_training_and_make_both_sides_move_at_one_pace():
    problem, model, batch = made()
    found = system(problem, model, batch)
    weight = found.balanced(found.diagonal(found.start))
    follows, _, _ = made(weight="balanced")
    assert weight == pytest.approx(float(follows.weigh(model, batch)["balance"]))
    again = system(made(weight=weight)[0], model, batch)
    counts = [count for *_, count in again.parts]
    inside, outside = again.diagonal(again.start).split(counts)
    # the loss takes means of each side
    assert float(inside.mean()) == pytest.approx(float(outside.mean()), rel=1e-9)
    exact = Problem(load_family("poisson")(), constraint="boundary", test_points=5)
    only = system(exact, exact.wrap(model), exact.sample(seeded(), 9))
    assert only.balanced(only.diagonal(only.start)) is None


def test_the_forecast_elsewhere_is_the_linear_model_followed_step_by_step():
    problem, model, batch = made()
    found, other = (system(problem, model, each) for each in (batch, problem.sample(seeded(1), 24)))
    at = kernel(found, found.start, generator=seeded(), **HOW)
    step, steps = 0.5 * at.step, 60
    J, J2 = (jacobian(*flat(each.function, each.start)) for each in (found, other))
    r, r2 = (each.function(each.start).detach() for each in (found, other))
    first = r.square().sum(), r2.square().sum()
    for _ in range(steps):
        change = step * J.T @ r
        r, r2 = r - J @ change, r2 - J2 @ change
    here, there = elsewhere(found, at, other, step, steps)
    assert here == pytest.approx(float(r.square().sum() / first[0]), rel=1e-8)
    assert there == pytest.approx(float(r2.square().sum() / first[1]), rel=1e-6)


def test_what_stands_still_loses_less_than_half_of_its_part():
    problem, model, batch = made()
    found = system(problem, model, batch)
    at = kernel(found, found.start, generator=seeded(), **HOW)
    step, steps = 0.5 * at.step, 1000
    slow = [(1 - step * max(value, 0.0)) ** steps > 0.5 for value in at.tangent.eigenvalues.tolist()]
    assert still(at, step, steps) == pytest.approx(float(parts_of(at)[torch.tensor(slow)].sum()))
    assert 0 < still(at, step, 10**5) < still(at, step, 1) <= 1


@pytest.mark.parametrize(
    ("family", "network", "has", "needs"),
    [
        ("poisson", {"kind": "kan"}, 2, 3),
        ("poisson", {"kind": "kan", "order": 4}, 3, 3),
        ("poisson", {"kind": "kan", "basis": "rbf"}, None, 3),
        ("poisson", {"kind": "kan", "basis": "chebyshev"}, None, 3),
        ("poisson", {"activation": "relu3"}, 2, 3),
        ("poisson", {}, None, 3),
        ("convection", {"kind": "kan"}, 2, 2),
    ],
)
def test_a_network_has_to_be_one_derivative_smoother_than_its_operator(family, network, has, needs):
    problem, model, _ = made(family, network)
    enough = has is None or has >= needs
    assert smoothness(problem, model) == {"has": has, "needs": needs, "enough": enough}


# the whole look


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


# the words


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
