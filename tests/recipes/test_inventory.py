"""The page of all runs below a directory: what is listed, in which order, and what is told of damage."""

import json
import os
import re

import pytest

from lissome._errors import UsageError
from lissome.recipes import holds_runs, list_runs
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.diagnosis_settings import DiagnoseSettings
from lissome.recipes.incontext.settings import IncontextSettings
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.stream_settings import StreamSettings
from lissome.recipes.lock import locked
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.ranks_settings import RanksSettings
from lissome.recipes.settings import AdaptSettings, SolveSettings, dump, load
from lissome.recipes.table.settings import TableSettings
from tests.report.conftest import make_run

BEGUN = [
    (SolveSettings, {"family": "heat"}, "pde solve", "heat"),
    (AdaptSettings, {"run": "base", "targets": [{"c": 1.0}]}, "pde adapt", "a problem"),
    (TableSettings, {"data": "some/table.csv"}, "fit", "table.csv by kan"),
    (LanguageSettings, {}, "lm train", "causal; rotary; softmax"),
    (IncontextSettings, {}, "icl train", "AlgoFormer on representation"),
    (StreamSettings, {"model": "some/lm", "text": "some/text.txt"}, "lm stream", "text.txt; cache separators; lm"),
    (RanksSettings, {"model": "m/llama", "adapter": "a/lora", "data": "d"}, "lm ranks", "llama, lora"),
    (DiagnoseSettings, {"solve": {"family": "poisson"}}, "pde diagnose", "poisson"),
    (BenchSettings, {"families": ["heat", "poisson"]}, "pde bench", "2 families"),
    (ReplicateSettings, {"paper": "arcm"}, "replicate", "arcm"),
]


def begun(place, when):
    """Say when a made-up run was begun."""
    file = place / "environment.json"
    file.write_text(json.dumps({"started": f"2026-11-{when:02d}T10:00:00+0000"}))
    return place


@pytest.fixture
def room(tmp_path):
    """Three runs, one of them an adaptation with two cells."""
    begun(make_run(tmp_path / "old", c=2.0), 1)
    begun(make_run(tmp_path / "deep" / "new <b> & ü", c=3.0, error=1e-4), 3)
    cells = [begun(make_run(tmp_path / "adapted" / f"c={c}" / "svd", c=c), 9) for c in (1, 2)]
    rows = [{"path": str(cell.relative_to(tmp_path / "adapted")), "error": 0.5, "seconds": 2.0} for cell in cells]
    (tmp_path / "adapted" / "comparison.json").write_text(json.dumps({"title": "two targets", "rows": rows}))
    (tmp_path / "adapted" / "settings.yaml").write_text("run: old\ntargets: [{c: 1}, {c: 2}]\nmethods: [svd]\n")
    begun(tmp_path / "adapted", 2)
    return tmp_path


def test_the_newest_come_first_and_cells_below_their_adaptation(room):
    found = list_runs(room)
    assert [(each.path, each.parent) for each in found] == [
        ("deep/new <b> & ü", None),
        ("adapted", None),
        ("adapted/c=1/svd", "adapted"),
        ("adapted/c=2/svd", "adapted"),
        ("old", None),
    ]
    adapted, cell = found[1], found[2]
    assert (adapted.kind, adapted.what, adapted.figure, adapted.value) == (
        "pde adapt",
        "two targets",
        "best error",
        0.5,
    )
    assert (adapted.seconds, adapted.state) == (4.0, "finished")
    assert (cell.name, cell.figure, cell.value, cell.trained) == ("c=1/svd", "error", 1.2e-2, 961)
    assert all(each.state == "finished" and each.problem is None for each in found)


def test_the_page_leads_to_each_page_and_shows_names_as_they_are(room):
    (room / "deep" / "new <b> & ü" / "index.html").write_text("")
    list_runs(room)
    text = (room / "index.html").read_text()
    assert re.findall('href="(.*?)"', text) == ["deep/new%20%3Cb%3E%20%26%20%C3%BC/index.html"]
    assert "new &lt;b&gt; &amp; ü</a>" in text
    assert "<b>" not in text
    assert text.count('<svg class="course"') == 4
    assert "5 runs: 5 finished." in text
    for part in ("<script", "http:", "https:", " src="):
        assert part not in text


def test_the_same_runs_give_the_same_page_and_a_new_one_joins(room):
    list_runs(room)
    first = (room / "index.html").read_text()
    list_runs(room)
    assert (room / "index.html").read_text() == first
    begun(make_run(room / "newest"), 20)
    assert list_runs(room)[0].path == "newest"
    assert (room / "index.html").read_text() != first


def test_many_cells_open_on_a_click(tmp_path):
    settings = make_run(tmp_path / "many") / "settings.yaml"
    for number in range(13):
        begun(make_run(settings.parent / "cells" / str(number), summary=False), 1)
    assert len(list_runs(tmp_path)) == 14
    text = (tmp_path / "index.html").read_text()
    assert "<summary>13 runs below it</summary>" in text
    assert text.count("<tr") == 1 + 1 + 1 + 13


def test_a_page_of_a_person_is_not_written_over(room):
    (room / "index.html").write_text("mine")
    with pytest.raises(UsageError, match=r"index.html' is a page of another kind and is not written over"):
        list_runs(room)
    assert (room / "index.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("settings.yaml", b"family: [", "settings.yaml' is not legal YAML"),
        ("settings.yaml", b"\xff\xfe", "settings.yaml' is not UTF-8 text"),
        ("settings.yaml", b"- a\n", "holds a list"),
        ("settings.yaml", None, "no settings.yaml"),
        ("summary.json", b'{"error": 0.', "summary.json' is not legal JSON"),
        ("summary.json", b"[1]", "summary.json' holds a list"),
        ("summary.json", b'{"error": "small"}', "has error 'small' where a number is expected"),
        ("summary.json", b'{"kind": "solve", "parameters": 3}', "parameters 3 where a mapping"),
        ("metrics.jsonl", b'{"step": 1}\nnonsense\n', "metrics.jsonl' line 2 is not legal JSON"),
        ("metrics.jsonl", b'{"step": 1, "error": {}}\n{"step": []}\n', None),
        ("environment.json", b"{", "environment.json' is not legal JSON"),
        ("environment.json", b'{"started": 7}', None),
        ("comparison.json", b'{"rows": 3}', "comparison.json"),
        ("comparison.json", b'{"rows": [3, {"error": "x"}]}', "lists no rows with a path each"),
        ("cells.jsonl", b"\x00\x01", None),
        ("curves.safetensors", b"cut", None),
    ],
)
def test_a_damaged_run_is_told_and_the_others_are_listed(room, file, content, told):
    run = begun(make_run(room / "damaged"), 30)
    place = run / file
    place.unlink(missing_ok=True) if content is None else place.write_bytes(content)
    found = {each.path: each for each in list_runs(room)}
    assert len(found) == 6
    assert all(each.state == "finished" for path, each in found.items() if path != "damaged")
    own = found["damaged"]
    assert (own.state == "damaged") == (told is not None), own
    if told:
        assert told in own.problem
        assert "1 damaged" in (room / "index.html").read_text()
    json.dumps([each.told() for each in found.values()])


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("settings.yaml", "damaged"),
        ("summary.json", "damaged"),
        ("metrics.jsonl", "damaged"),
        ("results.json", "finished"),  # not read of such a run, nor are the two below
        ("ranks.json", "finished"),
        ("comparison.json", "finished"),
    ],
)
def test_a_folder_in_the_place_of_a_file_that_is_read_is_damage(room, name, state):
    run = make_run(room / "damaged")
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    (own,) = [each for each in list_runs(room) if each.path == "damaged"]
    assert own.state == state


@pytest.mark.parametrize(("kind", "given", "verb", "what"), BEGUN, ids=[verb for _, _, verb, _ in BEGUN])
def test_what_has_just_begun_is_told_by_its_verb(tmp_path, kind, given, verb, what):
    place = tmp_path / "run"
    place.mkdir()
    (place / "settings.yaml").write_text(dump(load(kind, given=given)))
    (own,) = list_runs(tmp_path)
    assert (own.kind, own.state, own.checkpoint, own.value) == (verb, "unfinished", False, None)
    assert own.what.startswith(what)
    (place / "checkpoint").mkdir()
    (own,) = list_runs(tmp_path)
    assert own.checkpoint
    assert "unfinished<small>with a checkpoint</small>" in (tmp_path / "index.html").read_text()
    with locked(place):
        (own,) = list_runs(tmp_path)
    assert own.state == "running"


def test_a_run_that_failed_says_why(tmp_path):
    make_run(tmp_path / "run", failed="the loss is not finite")
    (own,) = list_runs(tmp_path)
    assert (own.state, own.problem) == ("failed", "the loss is not finite")


def test_a_replication_tells_its_claims_and_its_part_that_is_done(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    (place / "settings.yaml").write_text(dump(load(ReplicateSettings, given={"paper": "arcm"})))
    claims = [{"verdict": verdict} for verdict in ("shown", "shown", "not shown", "not measured")]
    for done, state in ((3, "unfinished"), (4, "finished")):
        (place / "results.json").write_text(json.dumps({"claims": claims, "cells": 4, "done": done}))
        (own,) = list_runs(tmp_path)
        assert (own.figure, own.value, own.state) == ("claims shown", 0.5, state)


def test_where_no_run_is_nothing_is_written(tmp_path):
    (tmp_path / "notes").mkdir()
    assert not holds_runs(tmp_path)
    assert not holds_runs(tmp_path / "nowhere")
    for place, said in ((tmp_path, "there is no run below"), (tmp_path / "nowhere", "there is no directory")):
        with pytest.raises(UsageError, match=said):
            list_runs(place)
    assert os.listdir(tmp_path) == ["notes"]


def test_a_run_is_no_directory_of_runs(room):
    assert holds_runs(room)
    assert holds_runs(room / "deep")
    assert not holds_runs(room / "old")
    assert not holds_runs(room / "adapted")
