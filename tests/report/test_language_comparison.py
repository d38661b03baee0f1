"""Language models beside each other: names, colours, what does not compare, and the verbs that show them."""

import io
import json
import re

import pytest
import yaml
from rich.console import Console

from lissome._errors import UsageError
from lissome.recipes import compare, show
from lissome.report import language_comparison, language_terminal
from lissome.report.language import lead
from lissome.report.language_comparison import labelled
from lissome.report.read import read_run
from tests.report.language_runs import checked_links, lengths, made


def test_several_runs_are_compared_with_a_colour_each(tmp_path):
    a, b = made(tmp_path / "a", full=False), made(tmp_path / "b", full=False, position="rotary", refine="none")
    (b / "lengths.json").write_text(json.dumps(lengths(32, (8.5, 9.5, 30.0))))
    page = language_comparison([a, b, a], tmp_path / "out")
    text = checked_links(page)
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [(row["label"], row["path"], row["kind"]) for row in rows] == [
        ("kerple, dape(3)", "../a", "lm"),
        ("rotary", "../b", "lm"),
    ]
    assert "at 128 tokens by kerple, dape(3): 7.00." in text
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"lengths", "loss-steps", "loss-seconds"}
    colours = [
        set(re.findall(r"#(?:0072b2|e69f00|009e73|cc79a7|56b4e9|d55e00|332288|8c8c8c)", path.read_text()))
        for path in (tmp_path / "out" / "figures").iterdir()
    ]
    assert len(colours[0]) == 2
    assert colours[0] == colours[1] == colours[2]


def test_runs_are_named_by_what_differs(tmp_path):
    def named(*runs):
        return labelled([read_run(run) for run in runs])

    a, b = made(tmp_path / "a", full=False), made(tmp_path / "b", full=False, layers=7)
    assert named(a, b) == ["a", "layers 7"]
    assert named(a) == ["a"]
    settings = yaml.safe_load((b / "settings.yaml").read_text())
    (b / "settings.yaml").write_text(yaml.safe_dump(settings | {"start": "/far/away/full"}))
    assert named(a, b) == ["a", "layers 7, start full"]
    (b / "settings.yaml").write_text(
        yaml.safe_dump(settings | {"model": yaml.safe_load((a / "settings.yaml").read_text())["model"], "seed": 3})
    )
    assert named(a, b) == ["seed 0", "seed 3"]


def test_show_and_compare_know_a_language_model(tmp_path):
    a, b = made(tmp_path / "a", all_files=False), made(tmp_path / "b", all_files=False, summary=False, position="fire")
    assert show(a)[0]["kind"] == show(b)[0]["kind"] == "lm"
    assert (a / "index.html").is_file()
    rows = compare([a, b], tmp_path / "out")
    assert [row["label"] for row in rows] == ["kerple", "fire"]
    before = (tmp_path / "out" / "index.html").read_text()
    assert "../a/index.html" in before
    (tmp_path / "out" / "index.html").unlink()
    assert show(tmp_path / "out") == rows
    assert (tmp_path / "out" / "index.html").read_text() == before
    other = tmp_path / "c"
    other.mkdir()
    (other / "settings.yaml").write_text("family: heat\n")
    with pytest.raises(UsageError, match="c' is no run of a language model; these compare with each other alone"):
        compare([a, other], tmp_path / "more")


@pytest.mark.parametrize(
    ("change", "words"), [({"data": "other"}, "read different texts"), ({"vocabulary": 99}, "different vocabularies")]
)
def test_numbers_that_do_not_compare_are_said(tmp_path, change, words):
    a, b = made(tmp_path / "a", full=False), made(tmp_path / "b", full=False, position="fire")
    assert words not in language_comparison([a, b], tmp_path / "out").read_text()
    row = json.loads((b / "summary.json").read_text())
    (b / "summary.json").write_text(json.dumps(row | change))
    assert words in language_comparison([a, b], tmp_path / "out").read_text()


def test_the_terminal_tells_one_run_in_a_sentence_and_several_in_a_table(tmp_path):
    def printed(*rows):
        console = Console(width=100, file=io.StringIO())
        console.print(language_terminal(*rows))
        return console.file.getvalue()

    (one,) = show(made(tmp_path / "a", all_files=False))
    assert lead(one) in " ".join(printed(one).split())
    rows = compare([tmp_path / "a", made(tmp_path / "b", all_files=False, position="fire")], tmp_path / "out")
    lines = printed(*rows).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["kerple", "fire"]
    assert "24.5" in lines[-1]
