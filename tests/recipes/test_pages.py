"""What `show` draws again, and what it leaves as it is."""

import pytest

from lissome._errors import UsageError
from lissome.recipes import show


def settings(place, text):
    place.mkdir(parents=True)
    (place / "settings.yaml").write_text(text)
    return place


def test_an_adaptation_of_which_no_cell_has_begun_is_a_sentence_and_no_empty_page(tmp_path):
    out = settings(tmp_path / "a", "run: base\ntargets: [{c: 1}]\nmethods: [auto]\n")
    with pytest.raises(UsageError, match=r"nothing to draw in '.*a' yet: no cell has begun; .*adapt --resume --out"):
        show(out)
    assert [path.name for path in out.iterdir()] == ["settings.yaml"]


def test_a_cell_that_has_just_begun_has_a_page(tmp_path):
    text = "run: base\ntargets: [{c: 1}]\nmethods: [svd]\n"
    cell = settings(settings(tmp_path / "a", text) / "c=1" / "svd", text)
    assert show(cell) == [{"kind": "adapt", "method": "svd", "parameters": {"c": 1}, "finished": False}]
    assert "No evaluations yet" in (cell / "index.html").read_text()


@pytest.mark.parametrize("below", ["starts", "runs/cell"])
def test_the_page_of_a_benchmark_or_replication_is_not_drawn_over(tmp_path, below):
    out = settings(tmp_path / "a", "targets: [near]\n")
    settings(out / below, "family: heat\n")
    (out / "cells.jsonl").write_text("")
    (out / "index.html").write_text("the leaderboard")
    with pytest.raises(UsageError, match="is a benchmark or a replication: its page is .*a/index.html, and --resume"):
        show(out)
    assert (out / "index.html").read_text() == "the leaderboard"
