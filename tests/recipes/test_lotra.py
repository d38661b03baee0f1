"""The replication of LoTRA: what is run, what is measured, and claims that follow from figures alone."""

import json

import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.adapt import adapt
from lissome.models import KAN
from lissome.recipes import lotra, lotra_functions, lotra_pde, lotra_rates, replication
from lissome.recipes.catalogue import papers
from lissome.recipes.components import probes_of
from lissome.recipes.lotra_claims import claims
from lissome.recipes.lotra_functions import TASKS, adapted_by, cut_errors, outside, truncated
from lissome.recipes.lotra_names import FUNCTION, MODES, PDE, POLICIES, RANKS, RATES, WAYS, WIDTHS
from lissome.recipes.lotra_report import best, drawings, tables
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate

TASK = "waves, 2 inputs"
SIZES = (16, 9, 12)


def asked(**more):
    return ReplicateSettings(paper="lotra", **more)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def low_rank(ranks, shape=SIZES):
    core = torch.randn(ranks, generator=seeded(), dtype=torch.float64)
    parts = [torch.randn(d, r, generator=seeded(d), dtype=torch.float64) for d, r in zip(shape, ranks, strict=True)]
    return torch.einsum("abc,ia,jb,kc->ijk", core, *parts)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(lotra_functions, "QUICK", lotra_functions.Sizes(base=5, points=40, batch=20, steps=4))
    monkeypatch.setattr(lotra_functions, "HELD", 50)
    monkeypatch.setattr(lotra_pde, "QUICK", lotra_pde.Sizes(points=(8, 4, 4), base=2, steps=2))
    monkeypatch.setattr(lotra_pde, "TEST_POINTS", 50)


def run(place, label, part=FUNCTION, task=TASK, points=30, width=8, seed=0):
    more = {"part": part, "task": task, "points": points, "width": width, "seed": seed}
    return lotra.run(lambda: None, place, label=label, quick=True, **more)


def row(label, error=0.1, part=FUNCTION, points=1000, seed=0, task=TASK, width=32, **more):
    points = points if part == FUNCTION else 0
    own = {"part": part, "task": task, "width": width, "seed": seed, "quick": False, "label": label, "points": points}
    numbers = {"trained": 737, "total": 10080} if label in RANKS else {"trained": 10080, "total": 10080}
    curve = {"cpu": [0.1, 1.0], "error": [1.0, error]}
    rest = {"failed": None, "error": error, "cpu": 1.0, "rate": 1e-2, "rates": {}, "curve": curve}
    return own | rest | numbers | more


def full(change, random, cut, **more):
    levels = {
        kind: {mode: [1.0, 0.9, 0.8, 0.7, value, 0.0] for mode in MODES}
        for kind, value in (("change", change), ("random", random))
    }
    return row("full", spectra=levels, cut=dict.fromkeys(RANKS, cut), **more)


def sweep(policy, width, rate, error=0.01, seed=0):
    """Errors that are a parabola about a base rate in logarithms."""
    tried = torch.tensor(lotra_rates.BASES, dtype=torch.float64)
    errors = error * torch.exp((tried / rate).log().square() / 4)
    swept = {f"{float(each):g}": float(value) for each, value in zip(tried, errors, strict=True)}
    own = {"part": RATES, "task": TASK, "width": width, "seed": seed, "quick": False, "label": policy, "points": 0}
    return own | {"failed": None, "sweep": swept, "chosen": swept, "ratios": {}}


def claim(rows, part):
    return next(each for each in claims(rows) if part in each.says)


def test_each_network_is_fitted_to_the_new_task_after_it_was_trained():
    found = lotra.cells(asked(seeds=2))
    names = [each.name for each in found]
    functions, equations, rates = 2 * (1 + 3 * len(WAYS)), 3 * (1 + len(WAYS)), len(WIDTHS) * (1 + len(POLICIES))
    assert len(set(names)) == len(names) == 2 * (functions + equations + rates)
    assert all(each.after in names[: names.index(each.name)] for each in found if each.arguments["label"] != "start")
    assert len(lotra.cells(asked(quick=True))) < len(found) / 5


def test_data_are_refused():
    with pytest.raises(UsageError, match="^lotra reads no data, and 'x' was given; leave out --data$"):
        lotra.cells(asked(data=["x"]))


def test_the_catalogue_tells_both_commands_of_the_paper():
    (told,) = [each for each in papers() if each["paper"] == "lotra"]
    assert told["replicate"] == "lissome replicate lotra, lissome replicate slim-kan"


def test_a_tensor_of_low_rank_has_no_energy_outside_its_ranks():
    found = outside(low_rank((3, 2, 4)))
    for mode, rank, size in (("out", 3, 16), ("basis", 2, 9), ("in", 4, 12)):
        levels = found[mode]
        assert levels[0] == 1.0
        assert levels[rank - 1] > 1e-3
        assert max(levels[rank:]) < 1e-9
        assert len(levels) == size + 1
        assert levels == sorted(levels, reverse=True)


def test_a_cut_tensor_is_as_near_as_the_tails_of_its_unfoldings_promise():
    tensor = torch.randn(SIZES, generator=seeded(5), dtype=torch.float64)
    left = (tensor - truncated(tensor, 4)).square().sum() / tensor.square().sum()
    tails = [levels[4] for levels in outside(tensor).values()]
    assert max(tails) <= float(left) <= sum(tails)
    exact = low_rank((3, 2, 4))
    torch.testing.assert_close(truncated(exact, 4), exact)


def test_cutting_a_change_is_measured_on_a_copy():
    model = KAN(2, width=6, generator=seeded()).double()
    before = {path: p.detach().clone() for path, p in model.named_parameters()}
    change = {path: torch.ones_like(p) for path, p in before.items()}  # of rank 1, so that nothing is lost
    x = torch.rand(5, 2, generator=seeded(), dtype=torch.float64)
    moved = adapt(model, "full")
    with torch.no_grad():
        for _, p in moved.free.named_parameters():
            p += 1
    found = cut_errors(before, change, lambda cut: float((cut(x) - moved(x)).detach().abs().max()), model)
    assert max(found.values()) < 1e-9
    assert all(torch.equal(p, before[path]) for path, p in model.named_parameters())


def test_a_transfer_tells_numbers_errors_and_spectra_and_is_repeated_by_its_seed(tiny, tmp_path):
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        run(tmp_path, "full")
    first = run(tmp_path, "start")
    low, whole = run(tmp_path, "LoTRA 4"), run(tmp_path, "full")
    n, K = 8, 9
    sizes = [(n, K, 2), (n, K, n), (1, K, n)]
    ranks = [[min(4, d) for d in shape] for shape in sizes]
    assert low["trained"] == sum(
        a * b * c + sum(r * d for r, d in zip((a, b, c), shape, strict=True))
        for (a, b, c), shape in zip(ranks, sizes, strict=True)
    )
    assert whole["trained"] == whole["total"] == low["total"] == sum(a * b * c for a, b, c in sizes)
    assert set(whole["spectra"]["change"]) == {"out", "basis", "in"}
    assert set(whole["cut"]) == set(RANKS)
    assert low["curve"]["error"][0] == pytest.approx(first["untouched"], rel=0.5)
    again = run(tmp_path, "LoTRA 4")
    assert [again[key] for key in ("error", "rates", "rate")] == [low[key] for key in ("error", "rates", "rate")]
    assert json.loads(json.dumps(whole)) == whole


def test_the_best_rate_is_chosen_by_other_points_than_those_of_the_error(tiny):
    known = TASKS[TASK].known(30, 0, lambda: None, target=True)
    (one, _), (other, _) = known.held.values()
    assert not torch.equal(one, other)
    torch.testing.assert_close(known.y[:, 0], 1.2 * TASKS[TASK].f(0.8 * known.x + 0.15))


def test_equations_are_fitted_by_the_same_ways(tiny, tmp_path):
    first = run(tmp_path, "start", part=PDE, task="convection")
    assert first["base"] > 0
    low, whole = (run(tmp_path, way, part=PDE, task="convection") for way in ("LoTRA 2", "full"))
    assert low["trained"] < whole["trained"] == whole["total"]
    assert whole["curve"]["error"][0] == pytest.approx(first["untouched"], rel=1e-4)
    assert set(whole["cut"]) == set(RANKS)


def test_what_enters_a_layer_times_its_tensor_is_what_leaves_the_network():
    model = KAN(2, width=6, extent=(0.5, 2.0), generator=seeded())
    x, adapted = torch.rand(5, 2, generator=seeded()), adapted_by(model, "LoTRA 4", 0)
    probes = probes_of(adapted, adapted, x)
    last = list(probes)[-1]
    out = torch.einsum("nkp,qkp->nq", probes[last], model.get_parameter(last))
    torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-6)


def test_policies_differ_in_the_rates_of_the_parts():
    model = KAN(2, width=16, generator=seeded())
    known = TASKS[TASK].known(40, 0, lambda: None, target=True)
    found = {policy: lotra_rates.rates(adapted_by(model, "LoTRA 4", 0), model, known, 1e-2, policy)
             for policy in POLICIES}  # fmt: skip
    assert set(found["equal"].values()) == {1e-2}
    assert found["closed"]["form.layers.1.weight.factor2"] == pytest.approx(1e-2 / 4)  # the floor, 1 / sqrt(16)
    assert found["closed"]["form.layers.1.weight.factor0"] == pytest.approx(1e-2)
    assert len(set(found["measured"].values())) > 4
    assert found["measured"].keys() == found["equal"].keys() == adapted_by(model, "LoTRA 4", 0).trainable().keys()


def test_a_sweep_tells_an_error_for_each_base_rate(tiny, tmp_path):
    run(tmp_path, "start")
    found = run(tmp_path, "measured", part=RATES)
    assert list(found["sweep"]) == ["0.001", "0.01", "0.1"]
    assert all(error > 0 for error in found["sweep"].values())


def test_the_best_base_rate_lies_between_those_that_were_tried_or_at_the_edge():
    found = best(sweep("equal", 16, 2e-2, error=0.05))
    assert found is not None
    assert found[0] == pytest.approx(2e-2, rel=1e-6)
    edge = best(sweep("equal", 16, 1.0))
    assert edge is not None
    assert edge[0] == lotra_rates.BASES[-1]
    assert best({"sweep": {"0.001": None}, "chosen": {"0.001": None}}) is None


def test_a_change_near_low_rank_is_shown_and_one_like_random_numbers_is_not():
    near, like = full(0.1, 0.6, 0.5), full(0.6, 0.6, 0.5)
    assert claim([near], "nearer to low rank than random numbers: functions").verdict == "shown"
    assert claim([like], "nearer to low rank than random numbers: functions").verdict == "not shown"
    assert claim([near], "nearer to low rank than random numbers: equations").verdict == "not measured"


def test_training_at_a_rank_is_held_to_cutting_to_it():
    trained = row("LoTRA 4", 0.01)
    assert (
        claim([full(0.1, 0.6, 0.5), trained], "cutting the full change to rank 4 does not: functions").verdict
        == "shown"
    )
    assert (
        claim([full(0.1, 0.6, 0.02), trained], "cutting the full change to rank 4 does not: functions").verdict
        == "not shown"
    )


@pytest.mark.parametrize(("ratio", "verdict"), [(1.5, "shown"), (1.8, "not shown")])
def test_lotra_comes_near_to_training_everything_or_not(ratio, verdict):
    rows = [row("LoTRA 4", 0.01 * ratio), full(0.1, 0.6, 0.5, error=0.01)]
    assert claim(rows, "rank 4 comes near to training all numbers: functions").verdict == verdict
    assert claim(rows, "less than a tenth").verdict == "shown"
    same = [each | {"part": PDE, "points": 0} for each in rows]
    assert claim(same, "rank 4 comes near to training all numbers: equations").verdict == verdict


def test_thirty_points_are_a_claim_of_their_own():
    rows = [row("LoTRA 4", 0.2, points=30), row("full", 0.3, points=30), row("LoTRA 4", 0.4), row("full", 0.3)]
    assert claim(rows, "with 30 points").verdict == "shown"
    assert claim(rows, "with 100 points").verdict == "not measured"
    assert claim([row("LoTRA 4", 0.4, points=30), rows[1]], "with 30 points").verdict == "not shown"


def test_seeds_and_tasks_are_compared_with_their_own_twins_alone():
    rows = [row("LoTRA 4", 0.1, seed=0), row("full", 0.1, seed=1), row("full", 0.1, task="rings, 4 inputs")]
    assert claim(rows, "rank 4 comes near to training all numbers").verdict == "not measured"


def test_base_rates_that_move_less_with_the_width_are_shown():
    moving = [sweep("equal", width, rate) for width, rate in zip(WIDTHS, (3e-2, 1e-2, 3e-3), strict=True)]
    still = [sweep("closed", width, 1e-2) for width in WIDTHS]
    found = claim([*moving, *still], "best base rate of the closed rule").found
    assert found is not None
    assert found.mean == pytest.approx(0.1, rel=1e-4)
    assert claim([*moving, *still], "best base rate of the closed rule").verdict == "shown"
    assert claim([*moving, *still], "inefficient beside the closed rule").verdict == "not shown"
    assert claim([*moving[:2], *still], "best base rate of the closed rule").verdict == "not measured"
    better = [sweep("measured", width, 1e-2, error=0.005) for width in WIDTHS]
    assert claim([*moving, *better], "inefficient beside measured rates").verdict == "shown"


def test_a_cell_that_failed_counts_nowhere_and_does_not_end_the_report():
    failed = {key: value for key, value in row("LoTRA 4").items() if key not in ("error", "cpu", "rate", "curve")}
    rows = [failed | {"failed": "no rate ends at a finite loss"}, full(0.1, 0.6, 0.5), sweep("equal", 16, 1e-2)]
    assert claim(rows, "rank 4 comes near to training all numbers").verdict == "not measured"
    texts = [text for sheet in tables(rows) for line in sheet.rows for text in line]
    assert "failed" in texts
    assert {each.name for each in drawings(rows) if each.figure} >= {"spectra-functions", "rates"}


def test_the_tables_tell_shares_and_what_truncation_costs():
    rows = [full(0.11, 0.62, 0.5, error=0.01), row("LoTRA 4", 0.02)]
    sheets = {sheet.title: sheet for sheet in tables(rows)}
    assert list(sheets["Energy outside rank 4, mode by mode"].rows[0][1:]) == ["0.11 / 0.62"] * 3
    cut = sheets["Error after the full change is cut to a rank / after training at it"].rows[0]
    assert list(cut[1:]) == ["0.50 / –", "0.50 / 2.0e-2", "0.50 / –", "1.0e-2"]
    assert list(sheets["waves, 2 inputs, 1,000 points"].rows[0][:4]) == ["LoTRA 4", "737", "7.3%", "2.0e-2"]


def test_a_quick_look_proves_nothing(tiny, tmp_path, monkeypatch):
    few = [cell for cell in lotra.cells(asked(quick=True)) if TASK in cell.name][:5:4]  # the start and all weights
    monkeypatch.setitem(vars(replication.PAPERS["lotra"]), "cells", lambda settings: few)
    out = tmp_path / "run"
    told = replicate("lotra", out, quick=True, progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    assert "Energy outside rank 4" in (out / "index.html").read_text()
