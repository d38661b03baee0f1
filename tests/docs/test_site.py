"""What `make docs` builds is whole, without building it: pages are in the margin, papers have theirs, links lead on."""

import doctest
import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
from docs._ext import commands, docstrings, links, papers, reference

import lissome
from lissome.recipes.catalogue import CATALOGUE
from lissome.recipes.replication import KNOWN

MADE = links.copies() | papers.pages() | commands.pages()
READ = {page: links.readable(page.read_text("utf-8"), page, page) for page in sorted(links.DOCS.glob("*.md"))}
TEXTS = MADE | READ
REFERENCE = {reference.PLACE / f"{name}.md" for name in (*reference.MODULES, "index")}
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
TREE = re.compile(r"^:::\{toctree\}\n(.*?)^:::$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"^(?:.* <)?([\w./-]+)>?$", re.MULTILINE)


def listed(page, text):
    """Return the pages that the toctrees of a page list."""
    entries = [name for tree in TREE.findall(text) for name in ENTRY.findall(re.sub(r"(?m)^:.*$", "", tree))]
    return {page.parent / f"{name}.md" for name in entries}


def anchors(text):
    """Return what may stand behind `#`: headings as GitHub names them, and targets."""
    heads = re.findall(r"^#{1,4} (.*)$", FENCED.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def test_every_page_can_be_reached_from_the_margin():
    reached, new = set(), {links.DOCS / "index.md"}
    while new:
        reached |= new
        new = {page for place in new for page in listed(place, TEXTS.get(place, ""))} - reached
    assert set(TEXTS) <= reached | {commands.PLACE}
    assert reached <= set(TEXTS) | REFERENCE


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_paper_has_a_page_with_its_claims(entry):
    text = MADE[papers.PLACE / f"{entry.name}.md"]
    parts = {name: paper for name, paper in KNOWN.items() if paper.arxiv == entry.arxiv}
    assert f"# {entry.title}\n" in text
    assert entry.arxiv in text
    for name, paper in parts.items():
        assert f"lissome replicate {name} " in text
        assert [claim.says for claim in paper.claims([]) if papers.cell(claim.says) not in text] == []
        assert [symbol for symbol in paper.symbols if papers.code(symbol) not in text] == []
        assert (f"../records/{name}-replication.md" in text) == papers.record(name).is_file()


@pytest.mark.parametrize("name", [name for name in KNOWN if papers.record(name).is_file()])
def test_verdicts_are_those_of_the_kept_record(name):
    found = papers.verdicts(name, KNOWN[name])
    lines = papers.record(name).read_text("utf-8").splitlines()
    said = [f"- **{of.verdict}** ({claim.source}): {claim.says}. {of.evidence}" for claim, of in found if of]
    assert said
    assert len(set(said)) == len(said)
    assert set(said) <= set(lines)


def test_what_no_record_tells_has_no_verdict(monkeypatch, tmp_path):
    monkeypatch.setattr(papers, "RECORDS", tmp_path)
    assert {of for _, of in papers.verdicts("dape", KNOWN["dape"])} == {None}


def test_guides_are_of_the_papers_and_name_verbs_and_options_that_exist():
    assert list(papers.GUIDES) == [entry.name for entry in CATALOGUE]
    known = commands.verbs()
    for guide in papers.GUIDES.values():
        assert guide.pages
        for typed in guide.commands:
            words = shlex.split(typed)
            legal = {name for option in known[" ".join(words[1:3])].params for name in option.opts}
            assert {word for word in words if word.startswith("--")} <= legal


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(links.DOCS).as_posix())
def test_links_of_the_site_lead_somewhere(page):
    prose = FENCED.sub("", TEXTS[page])
    for target, part in links.LINK.findall(prose):
        place = (page.parent / target).resolve()
        assert place in TEXTS or place in REFERENCE or (place.is_file() and place.suffix != ".md"), target
        if part:
            assert part[1:] in anchors(TEXTS[place]), f"{target}{part}"
    assert set(re.findall(r"\]\(#([^)]+)\)", prose)) <= anchors(TEXTS[page])


def test_the_reference_has_every_package():
    assert set(lissome._ROOMS) - {"bridges"} <= set(reference.MODULES)
    assert "Adapted" in reference.public(lissome.adapt)
    assert reference.names(("adapt", "pde"))["pde"]["adapt.select_ranks"] == "lissome.adapt.select_ranks"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["Args:", "    heads: H."], ["Args:", r"    heads: \H."]),
        (["", "    a * b_", "", "c_."], ["", ".. code-block:: text", "", "    a * b_", "", r"c\_."]),
        (["Args:", "    x: one.", "", ">>> a * b"], ["Args:", "    x: one.", "", ">>> a * b"]),
        (["Raises:", "    UsageError: no."], ["Raises:", "    ~lissome._errors.UsageError: no."]),
        (["`Tucker` or `tucker`"], [r"\ :py:obj:`Tucker <lissome.adapt.Tucker>`\  or \ ``tucker``\ "]),
        (["go on by --resume"], ["go on by ``--resume``"]),
    ],
)
def test_docstrings_are_reworded(lines, found):
    assert docstrings.reworded(lines, {"Tucker": "lissome.adapt.Tucker"}) == found


def test_first_words_of_what_is_returned_are_no_type():
    reworded = docstrings.reworded(["Returns:", "    loss: a number."], {})
    assert ":" not in reworded[1]
    assert docstrings.restored(reworded) == ["Returns:", "    loss: a number."]


def test_a_block_shows_its_file_and_a_picture_both_of_its_sides():
    page = links.DOCS / "page.md"
    block = links.readable("```python a.py\nx\n```\n", page, page)
    assert block == "```{code-block} python\n:caption: a.py\n\nx\n```\n"
    picture = '<picture>\n<source srcset="b-dark.png">\n<img alt="b" src="b-light.png" width="9">\n</picture>\n'
    told = links.readable(picture, page, page)
    assert "{image} b-light.png\n:alt: b\n:width: 9px\n:class: only-light" in told
    assert "{image} b-dark.png\n:alt: b\n:width: 9px\n:class: only-dark" in told
    with pytest.raises(ValueError, match="lacks"):
        links.readable("<picture></picture>", page, page)


@pytest.mark.parametrize("module", [papers, docstrings], ids=lambda module: module.__name__)
def test_examples_of_the_site_run(module):
    told = doctest.testmod(module)
    assert told.attempted
    assert not told.failed


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason="`make docs` installs what builds the pages")
def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-d", tmp_path / "trees", "docs"]
    done = subprocess.run([*words, tmp_path / "it"], cwd=links.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it" / "_generated" / "papers" / "dape.html").is_file()
