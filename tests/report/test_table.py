import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lissome.report import families
from lissome.report.table import lines, table_html, terminal, verdicts


def row(method, error, c=2.0, **more):
    trained = {"svd": 961, "lora": 1729}.get(method, 12737)
    base = {"family": "wave", "dimension": 10, "parameters": {"c": c}, "method": method, "error": error, "seed": 0}
    return base | {"trained": trained, "total": 12737, "seconds": 41.2, "loss": 1e-3, "fresh": 2e-3} | more


def printed(what, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()


def shown(rows):
    return printed(terminal(rows))


def test_the_verdict_names_the_best_its_distance_and_its_price():
    assert verdicts([row("lora", 3.72e-2), row("svd", 1.2e-2), row("full", 0.5)]) == [
        "for c = 2, svd is best: error 1.2e-2, 3.1 times below the next (lora), with 961 of 12,737 numbers in 41 s."
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("svd", 0.1)], "only svd can be judged: error 0.10, with"),
        ([row("svd", 0.1), row("lora", 0.101)], "level with the next (lora)"),
        ([row("svd", 0.1), row("lora", float("nan"))], "lora failed."),
        ([row("svd", 0.1), row("lora", 0.01, finished=False)], "lora has not finished."),
        ([row("svd", None)], "no finished run has an error"),
        ([row("svd", 0.0), row("lora", 0.1)], "svd is best: error 0, the next is lora at 0.10"),
    ],
)
def test_verdicts_stay_honest_at_the_edges(rows, words):
    (sentence,) = verdicts(rows)
    assert words in sentence


def test_parameters_ascend_as_numbers_and_the_best_comes_first():
    found = lines([row("svd", 0.2, c=10.0), row("lora", 0.1, c=10.0), row("svd", 0.1, c=2.0)])
    assert [(line.parameter, line.label, line.best) for line in found] == [
        ("c = 2", "svd", True),
        ("c = 10", "lora", True),
        ("c = 10", "svd", False),
    ]
    assert found[2].standing == "2.0×"


def test_an_unfinished_run_is_never_the_best():
    found = lines([row("svd", 1e-9, finished=False), row("lora", 0.1)])
    assert [(line.label, line.standing) for line in found] == [("lora", "best"), ("svd", "running")]


def test_seeds_become_their_median_and_other_differences_do_not():
    seeds = [row("svd", error, seed=seed) for seed, error in enumerate((0.1, 0.3, 0.2))]
    (line,) = lines(seeds)
    assert (line.error, line.lowest, line.highest, line.runs) == (0.2, 0.1, 0.3, (0, 1, 2))
    assert "svd ×3" in shown(seeds)
    assert "svd (median of 3)" in table_html(seeds, {})
    apart = lines([row("svd", 0.1, rank=4, trained=9), row("svd", 0.2, rank=8, trained=18, seed=1)])
    assert [line.label for line in apart] == ["svd rank 4", "svd rank 8"]
    same = lines([row("svd", 0.1, path="runs/a"), row("svd", 0.2, path="runs/b")])
    assert [line.label for line in same] == ["svd runs/a", "svd runs/b"]


def test_a_failed_seed_is_not_left_out_of_the_median():
    (line,) = lines([row("svd", 0.1), row("svd", float("nan"), seed=1)])
    assert line.standing == "failed"


def test_a_run_without_a_known_solution_has_not_failed():
    unknown = row("svd", 0.0)
    del unknown["error"]
    (line,) = lines([unknown])
    assert line.standing == "–"
    assert verdicts([unknown]) == ["for c = 2, no solution is known, so no run has an error to compare."]


def test_terminal_and_html_hold_the_same_cells():
    rows = [row("svd", 1.234e-2), row("lora", 3.7e-2), row("<i>&", float("inf"))]
    text, html = shown(rows), table_html(rows, {})
    for line in lines(rows):
        assert all(cell in html for cell in line.texts[2:])
        assert all(cell in text for cell in line.short[2:])
    assert "<i>" in text
    assert "<i>" not in html
    assert html.count('class="best"') == 1


def test_markup_in_names_is_text_in_the_terminal():
    assert "[red]x[/nope]" in shown([row("[red]x[/nope]", 0.1)])


def test_families_and_dimensions_appear_where_they_differ():
    rows = [row("svd", 0.1), row("svd", 0.1, family="heat"), row("svd", 0.1, dimension=3)]
    assert {line.parameter for line in lines(rows)} == {"wave, d = 10", "heat, d = 10", "wave, d = 3"}


NAMES = st.sampled_from(["svd", "lora", "lora-xs", "pissa", "last", "full", "scratch"])
NUMBERS = st.one_of(st.none(), st.floats(1e-9, 1e6))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NAMES, NUMBERS, st.sampled_from([0.5, 2.0, 0.0159155])), min_size=1, max_size=6))
def test_eighty_columns_hold_a_line_of_the_table_each(cells):
    rows = [row(method, error, c=c, seed=seed, seconds=4321.0) for seed, (method, error, c) in enumerate(cells)]
    found = lines(rows)
    head, rule, *body = shown(rows).splitlines()
    assert head.split()[:4] == ["c", "method", "numbers", "of"]
    assert set(rule) == {"─"}
    judged = head.split()[-1] == "best"
    for line in found:
        cells = [cell for cell in (line.short if judged else line.short[:-1])[1:] if cell]
        assert any(text.split()[-len(" ".join(cells).split()) :] == " ".join(cells).split() for text in body)


def test_a_single_run_is_shown_and_not_judged():
    text = shown([row("svd", 0.1)])
    assert "best" not in text
    assert len(text.splitlines()) == 3


def test_a_narrow_terminal_breaks_names_between_their_words_alone():
    rows = [row("svd", 0.1, family="klein-gordon", seed=seed) for seed in range(2)] + [row("lora-xs", 0.2)]
    assert lines(rows)[0].short[:2] == ("klein-gordon", "svd ×2")
    words = {word for line in lines(rows) for cell in line.short[:2] for word in cell.split()}
    text = printed(terminal(rows), width=72)
    assert all(word in text.split() for word in words)
    assert "…" not in text


def test_families_fit_eighty_columns_and_name_their_targets():
    known = {
        "dimension": "any (10)",
        "parameters": "c = 0, k = 1",
        "near": "c = 0.5",
        "middle": "c = 2",
        "far": "c = 5",
    }
    rows = [
        {"family": "wave", "equation": "u_tt = Lap u"} | known,
        {"family": "[red]", "equation": "u = f", "dimension": 1, "parameters": "", "near": "", "middle": "", "far": ""},
    ]
    assert [line.rstrip() for line in printed(families(rows)).splitlines()] == [
        "wave   u_tt = Lap u",
        "       dimension any (10); c = 0, k = 1",
        "       targets: c near 0.5, middle 2, far 5",
        "[red]  u = f",
        "       dimension 1; no parameters",
    ]
