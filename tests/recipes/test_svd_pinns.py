"""The replication of SVD-PINNs: what is run, what is kept, and claims that follow from figures alone."""

import json

import pytest
from safetensors.torch import load_file

from lissome._errors import UsageError
from lissome.recipes import svd_pinns
from lissome.recipes.catalogue import CATALOGUE, papers
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import PAPERS, replicate
from lissome.recipes.svd_pinns_report import PUBLISHED, tables


@pytest.fixture
def tiny(monkeypatch):
    """Steps and networks that take a second."""
    monkeypatch.setattr(svd_pinns, "QUICK", {"published": (6, 6), "default": (2, 2)})
    small = {name: value | {"network": value["network"] | {"width": 5}} for name, value in svd_pinns.NETWORKS.items()}
    monkeypatch.setattr(svd_pinns, "NETWORKS", small)


def asked(**more):
    return ReplicateSettings(paper="svd-pinns", **more)


def cell(**wanted):
    usual = {"family": "allen-cahn", "preset": "published", "seed": 0, "c": 0.5, "label": "D by descent"}
    chosen = usual | wanted
    return next(c for c in svd_pinns.cells(asked()) if all(c.arguments[key] == chosen[key] for key in chosen))


def row(error, label="D by Adam", c=0.5, preset="published", seed=0, family="allen-cahn", seconds=100.0, steps=None):
    steps = steps or [0, 4000, 20000]
    errors = error if isinstance(error, list) else [error] * len(steps)
    curve = {"step": steps, "squared_error": errors, "error_uniform": errors, "seconds": steps}
    place = {"family": family, "preset": preset, "seed": seed, "c": c, "label": label, "quick": False}
    return place | {"trained": 1, "total": 2, "seconds": seconds, "failed": None, "curve": curve}


def claim(rows, part):
    return next(each for each in svd_pinns.claims(rows) if part in each.says)


def test_each_network_is_adapted_after_it_was_trained():
    found = svd_pinns.cells(asked(seeds=2))
    names = [each.name for each in found]
    assert len(set(names)) == len(names) == 2 * 2 * ((1 + 3 * 3) + (1 + 3 * 4))
    assert all(each.after in names[: names.index(each.name)] for each in found if each.arguments["label"] != "start")
    assert all(each.after.endswith("start") for each in found if each.after)
    assert len(svd_pinns.cells(asked(quick=True))) < len(found) / 3


def test_data_are_refused():
    with pytest.raises(UsageError, match="^svd-pinns reads no data, and 'x' was given; leave out --data$"):
        svd_pinns.cells(asked(data=["x"]))


def test_a_quick_look_goes_through_all_and_is_resumed_without_work(tiny, tmp_path):
    out = tmp_path / "run"
    told = replicate("svd-pinns", out, quick=True, progress=False)
    lines = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert len(lines) == len(svd_pinns.cells(asked(quick=True)))
    assert {each["verdict"] for each in told} == {"not measured"}  # a look proves nothing
    before = (out / "cells.jsonl").read_bytes()
    replicate(None, out, resume=True, progress=False)
    assert (out / "cells.jsonl").read_bytes() == before
    assert "published preset" in (out / "index.html").read_text()


def test_singular_values_stay_above_zero_where_descent_moves_them(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(svd_pinns, "RATE", 1e3)  # steps that would carry them far below
    arguments = {"family": "allen-cahn", "preset": "published", "seed": 0, "quick": True}
    svd_pinns.run(lambda: None, tmp_path, **arguments, c=0.0, label="start")
    svd_pinns.run(lambda: None, tmp_path, **arguments, c=0.5, label="D by descent")
    (place,) = tmp_path.glob("*/D-by-descent/*/svd")
    cores = [p for name, p in load_file(place / "adapter.safetensors").items() if name.endswith("core")]
    assert cores
    assert all(float(core.min()) == 0 for core in cores)


def test_the_published_figures_are_met_or_not():
    figures = PUBLISHED[0.5, "D by Adam"]
    same = [row([1.0, figures[4000], figures[20000]], seed=seed) for seed in range(3)]
    assert claim(same, "c = 0.5, D by Adam").verdict == "shown"
    twice = [row([1.0, 2 * figures[4000], 2 * figures[20000]])]
    assert claim(twice, "c = 0.5, D by Adam").verdict == "not shown"
    assert claim(same, "c = 2, D by Adam").verdict == "not measured"


def test_steps_are_compared_at_the_error_of_the_slower():
    fast = row([1.0, 0.1, 0.01], steps=[0, 500, 1000])
    slow = row([1.0, 0.5, 0.1], label="scratch", steps=[0, 500, 1000])
    found = claim([fast, slow], "fewer steps").found
    assert found is not None
    assert found.mean == pytest.approx(0.5)


def test_rows_at_the_edge_neither_end_the_report_nor_count():
    at_once = row([0.5, 0.5], steps=[0, 500])
    late = row([0.9, 0.6], label="scratch", steps=[0, 500])
    lost = row([0.5, None], seed=1, steps=[0, 500])
    still = row(1e-3, seconds=0.0, seed=2)
    rows = [at_once, late, lost, late | {"seed": 1}, still, row(1e-5, label="svd", preset="default", seed=2)]
    assert claim(rows, "fewer steps").verdict == "not measured"
    assert claim(rows, "a tenth of the seconds").verdict == "not measured"
    assert tables(rows)


def test_a_start_that_diverged_is_a_failed_cell_and_so_are_those_after_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(svd_pinns.TRAININGS, "published", svd_pinns.TRAININGS["published"] | {"rate": 1e30})
    arguments = {"family": "allen-cahn", "preset": "published", "seed": 0, "quick": True}
    first = svd_pinns.run(lambda: None, tmp_path, **arguments, c=0.0, label="start")
    after = svd_pinns.run(lambda: None, tmp_path, **arguments, c=0.5, label="full")
    assert "not finite" in first["failed"]
    assert after["failed"] == "the network for c = 0 is not there"
    assert tables([first, after])


def test_far_members_alone_speak_of_far_members():
    rows = [row(1e-3, c=50.0, label="full"), row(3e-3, c=50.0, label="D by descent")]
    rows += [row(9.0, c=2.0, label="full"), row(3e-3, c=2.0, label="D by descent")]
    found = claim(rows, "training all weights wins").found
    assert found is not None
    assert found.mean == pytest.approx(1 / 3)
    assert claim(rows, "training all weights wins").verdict == "shown"


def test_a_cell_that_failed_counts_nowhere():
    failed = row(1e-9, label="full", c=50.0) | {"failed": "the loss is not finite"}
    assert claim([failed, row(1e-3, c=50.0, label="D by descent")], "all weights wins").verdict == "not measured"
    assert any("1 of 1 failed" in text for sheet in tables([failed]) for line in sheet.rows for text in line)


def test_the_catalogue_has_ten_papers_and_all_that_are_replicated():
    assert len({entry.name for entry in CATALOGUE}) == 10
    told = {each["paper"]: each for each in papers()}
    assert set(PAPERS) <= set(told)
    assert all(told[name]["arxiv"] == paper.arxiv for name, paper in PAPERS.items())
    assert {name for name, each in told.items() if each["replicate"]} == set(PAPERS)


def test_the_table_to_the_published_errors_says_when_who_got_there():
    rows = [
        row([1.0, 1e-3, 1e-4], seed=0, label="svd", preset="default"),
        row([1.0, 2e-3, 1e-3], seed=1, label="svd", preset="default"),
        row([1.0, 1e-2, 1e-2], label="scratch", preset="default"),
    ]
    (sheet,) = [each for each in tables(rows) if "To the published errors" in each.title]
    assert [line[0:4] + line[5:] for line in sheet.rows] == [
        ["0.5", "1.50e-03", "default", "svd", "2 of 2", "12,000 (4,000 to 20,000)", "12,000 (4,000 to 20,000)"],
        ["0.5", "1.50e-03", "default", "scratch", "0 of 1", "–", "–"],
    ]
