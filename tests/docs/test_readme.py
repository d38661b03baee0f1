"""The README is one page, and every number on it is written from a result that is kept."""

import doctest
import json
import re
import shutil

import pytest

from benchmarks.readme import __main__ as readme
from benchmarks.readme import combinations, demo, headlines, kept, number, page, papers, picture, record, speed
from tests.docs.markdown import FENCE, ROOT

README = (ROOT / "README.md").read_text("utf-8")
INTERFACE = {"3.11", "2.0", "6", "3"}  # of Python, of the licence, of names that are typed


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Return a copy of the results, which the pages are then held to."""
    shutil.copytree(kept.RESULTS, tmp_path / "results")
    monkeypatch.setattr(kept, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def check(monkeypatch, capsys):
    """Run the check as `make lint` does; return its exit code and what it says."""
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    return readme.main(), capsys.readouterr().err


def test_pages_and_picture_are_what_the_results_say(monkeypatch, capsys):
    assert check(monkeypatch, capsys) == (0, "")


def change_json(name, change):
    def apply(results):
        path = results / name
        told = json.loads(path.read_text("utf-8"))
        change(told)
        path.write_text(json.dumps(told), encoding="utf-8")

    return apply


def change_text(name, old, new):
    def apply(results):
        path = results / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return apply


def double(times):
    times[:] = [2 * time for time in times]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            change_json("pde-step.json", lambda told: double(told["cells"]["allen-cahn-10d"]["raw_ms"]["DeepXDE"])),
            "README.md differs from the results in block speed: run `make readme`\n",
        ),
        (
            change_text(
                "dape-replication.md", "24, Kerple + DAPE, the least: 1 (", "24, Kerple + DAPE, the least: 0.97 ("
            ),
            "README.md differs from the results in block papers: run `make readme`\n",
        ),
        (
            change_json("demo.json", lambda told: [row.update(trained=7) for row in told["rows"]]),
            "README.md differs from the results in block equations: run `make readme`\n",
        ),
        (
            change_json("records.json", lambda told: told["cells"].pop("poisson, adam, seed 1")),
            "docs/optimizers.md differs from the results in block records: run `make readme`\n",
        ),
        (
            change_json("adaptation.json", lambda told: told["aims"][0].update(met=False)),
            "README.md differs from the results in block speed: run `make readme`\n",
        ),
        (
            change_json(
                "compact.json", lambda told: double(told["cells"]["T = 1,024, forward"]["raw_ms"]["causal SDPA"])
            ),
            "docs/images/language-light.png draws other numbers than the results; "
            "docs/images/language-dark.png draws other numbers than the results: run `make readme`\n",
        ),
    ],
    ids=["a time", "a claim", "the demonstration", "a training", "a missed aim", "the picture"],
)
def test_a_changed_result_fails_the_check_with_one_sentence(change, said, results, monkeypatch, capsys):
    change(results)
    assert check(monkeypatch, capsys) == (1, said)


def test_a_result_that_is_told_and_is_gone_is_named(results, monkeypatch, capsys):
    change_json("kan.json", lambda told: told["cells"].pop("residual, 256 points"))(results)
    code, said = check(monkeypatch, capsys)
    assert code == 1
    assert said.startswith(
        "what is told of a result is not in it: kan.json has no cell 'residual, 256 points'; it has: "
    )


def test_what_is_written_is_stable():
    filled = page.filled(README, readme.PAGES[ROOT / "README.md"])
    assert page.filled(filled, readme.PAGES[ROOT / "README.md"]) == filled


def test_the_readme_is_one_page():
    assert README.count("\n") < 250


def test_no_number_of_the_prose_is_written_by_hand():
    table = README[README.index("| exit code |") : README.index("Runs are written below")]
    assert set(re.findall(r"\d+", table)) == {"0", "1", "2", "130"}
    prose = re.sub(r"<[^>]+>|\]\([^)]*\)", "", FENCE.sub("", page.prose(README.replace(table, ""))))
    assert set(re.findall(r"\d[\d.,]*\d|\d", prose)) <= INTERFACE


def test_a_claim_stands_on_the_side_of_its_verdict(results):
    def cells():
        row = next(line for line in papers.block().splitlines() if "2405.14722" in line)
        return [part.strip() for part in row.split(" | ")[2:]]

    line = "- **shown** (here): DAPE, which adapts the bias to the scores, finds the earliest match."
    shown, missed = cells()
    assert "look-ups that a static bias cannot do: accuracy 1" in shown
    change_text("dape-replication.md", line, line.replace("shown", "not shown"))(results)
    shown, missed = cells()
    assert "look-ups" not in shown
    assert "look-ups" in missed


@pytest.mark.parametrize("name", headlines.HEADLINES)
def test_headlines_are_claims_of_their_record_and_bring_no_number_of_their_own(name):
    kept_record = record.read(name)
    if kept_record is None:
        pytest.skip("no record is kept yet")
    for part, words in headlines.HEADLINES[name].items():
        claim = kept_record.claim(part)
        assert claim.found is None or record.said(claim, words)


def test_words_with_a_number_that_no_claim_has_are_refused():
    claim = record.Claim("shown", "here", "at 64 bytes: 2 (1.00 to 3.00 over seeds; 3 cells)", number.Spread(2, 1, 3))
    assert record.said(claim, "at 64 bytes {} of it") == "at 64 bytes 2 (1 to 3) of it"
    with pytest.raises(LookupError, match="says 65"):
        record.said(claim, "at 65 bytes {} of it")


def test_every_missed_target_is_told():
    told = speed.block()
    for one in speed.missed():
        rows = [
            race
            for race in speed.RACES
            if (race.file, race.cell, {race.theirs, race.ours}) == (one.file, one.cell, one.pair)
        ]
        assert one.text in told or rows
    assert "**missed**" in told


def test_every_kept_race_is_among_the_files_that_are_searched_for_missed_targets():
    raced = {path.stem for path in kept.RESULTS.glob("*.json") if '"raw_ms"' in path.read_text("utf-8")}
    assert raced <= set(speed.FILES)


def test_a_demonstration_is_kept_without_places_of_the_disk(tmp_path):
    folder = tmp_path / "adapted"
    folder.mkdir()
    made = dict.fromkeys(("commit", "started", "processor", "cores", "threads", "torch", "python"), "x")
    row = {"method": "svd", "parameters": {"c": 0.5}, "path": str(folder), **dict.fromkeys(demo.TOLD, 1)}
    (folder / "environment.json").write_text(json.dumps(made | {"command": f"lissome demo --out {tmp_path}"}))
    (folder / "comparison.json").write_text(json.dumps({"title": "t", "rows": [row]}))
    told = demo.read(tmp_path)
    assert told["rows"] == [{"target": "c = 0.5", "method": "svd", **dict.fromkeys(demo.TOLD, 1)}]
    assert str(tmp_path) not in json.dumps(told)


def test_the_picture_is_drawn_from_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "IMAGES", tmp_path)
    picture.draw()
    assert picture.differences() == []
    monkeypatch.setattr(picture, "digest", lambda: "other")
    assert len(picture.differences()) == 2


@pytest.mark.parametrize("module", [kept, number, page], ids=lambda module: module.__name__)
def test_examples_run(module):
    told = doctest.testmod(module)
    assert told.attempted
    assert not told.failed


def test_a_combination_is_told_on_the_side_that_its_seeds_show(monkeypatch):
    one = combinations.Combination("a and b", "error", lambda: {}, True, ("both", "no a", "no b", "c"), "error")
    rows = [
        {"both": {"error": 1 + k}, "no a": {"error": (2 + 0.1 * k) * (1 + k)}, "no b": {"error": (0.5 + 4 * (k == 1))},
         "c": {"error": (0.2 + 0.01 * k) * (1 + k)}}
        for k in range(3)
    ]  # fmt: skip
    monkeypatch.setattr(combinations, "COMBINATIONS", {"ab": one})
    monkeypatch.setattr(combinations, "rows_of", lambda found, name: rows)
    monkeypatch.setattr(kept, "load", lambda name: {"cells": {}, "notes": ["small models"]})
    monkeypatch.setattr(kept, "stamp", lambda name: name)
    told = combinations.block()
    better, level, worse = next(line for line in told.splitlines() if "a and b" in line).split(" | ")[2:]
    assert better == "no a: 2.1 (2 to 2.2)"
    assert level.startswith("no b: ")
    assert worse.startswith("c: 0.21 (0.2 to 0.22)")
    assert "small models" in told
