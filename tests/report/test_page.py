import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lissome._errors import UsageError
from lissome.report import compare, page
from lissome.report.drawing import COLOURS, INK, palette, svg, themed
from lissome.report.figures import Curve, progress, slices, spectra

VOID = {"meta", "br", "wbr", "use"}


class Strict(HTMLParser):
    """Notes ids, links and whether every tag is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href"):
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(path):
    parser = Strict()
    text = path.read_text(encoding="utf-8")
    parser.feed(text)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert not parser.tags & {"script", "link", "img", "iframe", "b", "two"}
    for link in parser.links:
        assert not re.match(r"[a-z]+:|//", link)
        assert not link.startswith("#") or link[1:] in parser.ids
    return text, parser


def test_a_page_is_one_self_contained_file(tmp_path, made):
    path = page(made(tmp_path / "run"))
    text, _ = parsed(path)
    assert path == tmp_path / "run" / "index.html"
    assert "Adapting sine-gordon (d = 10, c = 2) by svd" in text
    assert "Relative L2 error 1.2e-2 after 2,000 steps and 41 s with 961 trained numbers (7.5% of 12,737)." in text
    assert text.count("<svg") == 5
    assert "url(http" not in text
    assert "@import" not in text
    assert {item.name for item in (tmp_path / "run" / "figures").iterdir()} == {
        f"{name}.svg" for name in ("error-steps", "error-seconds", "residual", "slice", "singular-values")
    }


def test_a_page_escapes_what_people_wrote(tmp_path, made):
    text, _ = parsed(page(made(tmp_path / "run", method="<b>x</b>", outcome="a < b")))
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "a &lt; b" in text


def test_a_page_of_a_run_in_progress_says_so(tmp_path, made):
    text, _ = parsed(page(made(tmp_path / "run", summary=False)))
    assert "This run has not finished" in text
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "settings.yaml").write_text("method: svd\n")
    text, _ = parsed(page(tmp_path / "new"))
    assert "No evaluations yet" in text


def test_a_failed_run_still_has_a_page(tmp_path, made):
    text, _ = parsed(page(made(tmp_path / "run", error=float("nan"))))
    assert "ended without a finite error" in text


def test_a_comparison_shows_every_run_and_its_verdicts(tmp_path, made):
    runs = [
        made(tmp_path / f"{m}-{c:g}", method=m, c=c, error=e * c)
        for m, e in (("svd", 0.01), ("lora", 0.03))
        for c in (1.0, 2.0)
    ]
    page(runs[0])
    path = compare(runs, tmp_path / "out")
    text, parser = parsed(path)
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["title"] == "2 methods on sine-gordon in 10 dimensions"
    assert [row["path"] for row in content["rows"]] == ["../svd-1", "../svd-2", "../lora-1", "../lora-2"]
    assert "for c = 2, svd is best: error 2.0e-2, 3.0 times below the next (lora)" in text
    assert "../svd-1/index.html" in parser.links
    assert "../lora-1/index.html" not in parser.links
    assert text.count("<svg") == 1 + 2 * 5


def test_a_comparison_directory_is_compared_again(tmp_path, made):
    runs = [made(tmp_path / name, method=name) for name in ("svd", "lora")]
    first = compare(runs, tmp_path / "out", title="A & B").read_text()
    assert page(tmp_path / "out").read_text() == first
    assert "<h1>A &amp; B</h1>" in first
    (tmp_path / "out" / "comparison.json").write_text("{}")
    with pytest.raises(UsageError, match="lists no rows"):
        page(tmp_path / "out")


def test_a_comparison_stands_for_its_runs_among_others(tmp_path, made):
    runs = [made(tmp_path / name, method=name) for name in ("svd", "lora", "full")]
    compare(runs[:2], tmp_path / "some")
    (tmp_path / "some" / "settings.yaml").write_text("methods: [svd, lora]\n")
    compare([tmp_path / "some", *runs[1:]], tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["path"] for row in rows] == ["../svd", "../lora", "../full"]


def test_long_names_wrap_on_a_narrow_screen_and_on_paper(tmp_path, made):
    text, _ = parsed(compare([made(tmp_path / "a", label="svd, adam:100+gauss-newton:20")], tmp_path / "out"))
    assert re.search(r'<td class="name">[^\n]*?svd, adam:100\+<wbr>gauss-newton:20', text)
    for medium in ("(max-width: 560px)", "print"):
        rules = text.partition(f"@media {medium} {{")[2].partition("\n}")[0]
        assert re.search(r"\.lines \.name \{ white-space: normal; \}", rules)


def test_a_comparison_bears_failed_and_unfinished_runs(tmp_path, made):
    runs = [
        made(tmp_path / "a", error=float("inf")),
        made(tmp_path / "b", method="lora", summary=False),
        made(tmp_path / "c", method="full"),
    ]
    (tmp_path / "a" / "curves.safetensors").unlink()
    text, _ = parsed(compare([*runs, runs[0]], tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert content["rows"][0]["error"] is None
    assert "only full can be judged" in text
    assert "lora has not finished, svd failed" in text or "svd failed, lora has not finished" in text


def test_a_network_that_failed_does_not_hide_the_exact_solution():
    x = np.linspace(-1, 1, 9)
    styles = palette([("a", "svd")])
    figure = slices(x, np.sin(x), [Curve("a", x, np.full(9, 1e300))], styles)
    assert figure is not None
    svg(figure, "n", "t")
    assert figure.axes[0].get_ylim()[1] < 3


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(UsageError, match="nothing to compare"):
        compare([], tmp_path)


def test_writing_leaves_no_temporary_file_and_no_half_page(tmp_path, made, monkeypatch):
    path = page(made(tmp_path / "run"))
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(Exception, match=r"cannot be written \(no space\)"):
        page(tmp_path / "run")
    assert path.read_text() == before
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_page_is_the_same_each_time(tmp_path, made):
    first = page(made(tmp_path / "run")).read_text()
    assert page(tmp_path / "run").read_text() == first


def test_methods_keep_their_colour_and_labels_stay_apart():
    assert palette([("svd", "svd"), ("a", "a")])["svd"] == palette([("lora", "lora"), ("svd", "svd")])["svd"]
    styles = palette([("svd rank 4", "svd"), ("svd rank 8", "svd"), ("mine", "mine"), ("yours", "yours")])
    assert styles["svd rank 4"].colour == styles["svd rank 8"].colour == COLOURS["svd"]
    assert len({(style.colour, str(style.dash)) for style in styles.values()}) == 4
    assert len({(style.colour, style.marker) for style in styles.values()}) == 4
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_a_figure_takes_its_ink_from_the_page():
    curve = Curve("a $b$", np.array([0.0, 1.0]), np.array([1.0, 1e-4]))
    figure = progress([curve, curve], x="steps", styles=palette([("a $b$", "svd")]))
    assert figure is not None
    text = svg(figure, "n", 'a "title" <x>')
    assert "currentColor" in text
    assert "#000000" not in text
    assert 'aria-label="a &quot;title&quot; &lt;x&gt;"' in text
    assert "10⁻³" in text
    assert "a $b$" in text
    assert "var(--c0072b2, #0072b2)" in themed(text)


@pytest.mark.parametrize("span", [(1e-9, 1.0), (2e-3, 9e-3), (1.1e-2, 1.13e-2), (0.3, 0.3), (1e-90, 1e90)])
def test_every_span_of_errors_has_ticks_that_differ(span):
    curve = Curve("a", np.array([0.0, 1.0]), np.array(span))
    figure = progress([curve], x="steps", styles=palette([("a", "svd")]))
    assert figure is not None
    text = svg(figure, "n", "t")
    axis = figure.axes[0].yaxis
    low, high = sorted(axis.get_view_interval())
    ticks = [t for t in (*axis.get_majorticklocs(), *axis.get_minorticklocs()) if low <= t <= high]
    seen = [label for label in map(axis.get_minor_formatter(), sorted(set(ticks))) if label]
    assert len(seen) >= 2
    assert len(seen) == len(set(seen))
    assert seen[0] in text


@pytest.mark.parametrize(("colours", "after"), [(["#0072B2", "#0072B2"], "#0072B2"), (["#0072B2", "#D55E00"], INK)])
def test_the_legend_of_spectra_takes_no_one_panels_colour(colours, after):
    pair = np.array([2.0, 1.0]), np.array([3.0, 1.0])
    drawn = spectra({"a": pair, "b": pair}, colours)
    assert drawn is not None
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after"]
    assert [line.get_color() for line in legend.get_lines()] == [INK, after]
