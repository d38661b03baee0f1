"""Every block of the documentation runs, and what the pages point at is there."""

import re

import pytest

from lissome import report
from tests.docs import markdown
from tests.docs.markdown import PAGES, ROOT, RUN, SHOWN, blocks, commands, run, small

DRAWN = ("first.md", "language.md")  # whose runs have pages: these take seconds, and are looked at in other tests
DRAWERS = ("incontext_page", "language_page", "page", "stream_page", "table_page")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_in_their_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for drawer in () if page.name in DRAWN else DRAWERS:
        monkeypatch.setattr(report, drawer, lambda *_, **__: None)
    names = {"__name__": "page"}
    for block in blocks(page):
        run(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_a_kind_that_is_run_or_meant_to_be_shown(page):
    assert {block.kind for block in blocks(page)} <= {*RUN, *SHOWN}
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text)
    local = [a or b for a, b in targets if "://" not in (a or b)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_what_is_typed_to_make_exists():
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    words = [command.words for page in PAGES for block in blocks(page) for command in commands(block)]
    typed = {word for first, *rest in words if first == "make" for word in rest}
    assert "test" in typed
    assert typed <= goals


def test_commands_are_made_small():
    assert small(["lissome", "demo"]) == ["demo", "--quick", "--jobs", "1"]
    assert small(["lissome", "pde", "adapt", "a", "--jobs", "4"]) == ["pde", "adapt", "a", "--jobs", "1", "--quick"]
    assert small(["lissome", "pde", "solve", "a", "--steps", "6000"]) == [
        "pde",
        "solve",
        "a",
        "--steps",
        "60",
        "--quick",
    ]
    assert small(["lissome", "show", "a"]) == ["show", "a"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```console\n$ lissome pde solve nowhere\n```", AssertionError),
        ("```console\n$ rm -r runs\n```", AssertionError),
        ("```python\n1 / 0\n```", ZeroDivisionError),
        ("```python\n>>> 1 + 1\n3\n```", AssertionError),
    ],
)
def test_a_page_that_is_wrong_fails(text, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    (block,) = markdown.blocks(page)
    with pytest.raises(error):
        run(block, {})
