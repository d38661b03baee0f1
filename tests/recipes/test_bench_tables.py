"""The leaderboard says on how many seeds a row rests, and the folded tables how far the seeds are apart."""

import json
import math
import re

import pytest
from rich.console import Console

from lissome.recipes.bench_report import draw
from lissome.recipes.bench_results import FORMAT, Results
from lissome.report import leaderboard

SAID = "* Fewer seeds than the 3 of others, in one member at least"


def runs(adapter, errors, *, family="heat", target="near", **more):
    """Return a row for each seed."""
    same = {"kind": "run", "family": family, "target": target, "adapter": adapter, "optimizer": "adam"}
    same |= {"budget": "operations", "trained": 1, "total": 4, "seconds": 1.0, "failed": None} | more
    return [
        same | {"cell": f"{adapter}, {family}, {target}, {seed}, {same['optimizer']}", "seed": seed, "error": error}
        for seed, error in enumerate(errors)
    ]


def drawn(out, *rows):
    settings = {"seconds": None, "operations": 1e6}
    results = Results(FORMAT, "1", {}, settings, [row for each in rows for row in each])
    board = draw(results, out, 0, 0)
    return board, (out / "index.html").read_text(), (out / "leaderboard.md").read_text()


def printed(board):
    console = Console(width=200)
    with console.capture() as caught:
        console.print(leaderboard(board))
    return caught.get()


def cells_of(text, start):
    """Return the cells of the first line of a Markdown table that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)][:1]
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_a_row_with_fewer_seeds_is_marked_wherever_the_board_is_read(tmp_path):
    board, page, text = drawn(tmp_path, runs("svd", [0.1, 0.2, 0.3]), runs("last", [0.5]))
    told = [(row["contestant"], row["seeds"], row["runs"], row["fewer_seeds"]) for row in board]
    assert told == [("svd, adam", 3, 3, False), ("last, adam", 1, 1, True)]
    assert json.loads((tmp_path / "results.json").read_text())["leaderboard"] == board
    heads = cells_of(text, "| place")
    assert [cells_of(text, f"| {place} ")[heads.index("seeds")] for place in (1, 2)] == ["3", "1 *"]
    assert "<td>1 *</td>" in page
    assert re.search(r"last, adam .* 1 \* ", printed(board))
    for shown in (page, text.replace("\\*", "*"), printed(board)):
        assert SAID in shown


def test_where_all_have_the_same_seeds_nothing_is_marked(tmp_path):
    board, *shown = drawn(tmp_path, runs("svd", [0.1, 0.2, 0.3]), runs("last", [0.5, 0.5, 0.5]))
    assert [(row["seeds"], row["fewer_seeds"]) for row in board] == [(3, False)] * 2
    assert not any("Fewer seeds" in text for text in (*shown, printed(board)))


def test_seeds_that_are_missing_in_one_member_count(tmp_path):
    far = {"target": "far"}
    board, _, text = drawn(
        tmp_path,
        runs("svd", [0.1, 0.1, 0.1]) + runs("svd", [0.1, 0.1, 0.1], **far),
        runs("last", [0.05, 0.05, 0.05]) + runs("last", [0.05], **far),
    )
    assert [(row["adapter"], row["seeds"], row["runs"]) for row in board] == [("last", 1, 4), ("svd", 3, 6)]
    assert "last, adam leads: mean rank 1.0 of 2, best on 2 of 2 members, with 1 of 3 seeds" in text


def test_each_family_has_a_folded_table_of_errors_and_their_spread(tmp_path):
    board, page, text = drawn(
        tmp_path,
        runs("svd", [1e-4, 4e-4]) + runs("svd", [1e-2, 1e-2], target="far"),
        runs("last", [0.5]) + runs("last", [0.1, None], target="far", failed="NaN"),
        runs("svd", [1e-3, 1e-3], family="wave", optimizer="lbfgs"),
    )
    for title in ("heat", "wave"):
        summary = f"<summary>{title}, the same operations: errors and their spread over seeds</summary>"
        for shown in (page, text):
            assert shown.count(summary) == 1
            assert "<details>\n" + summary in shown
    assert cells_of(text, "| svd | adam") == ["svd", "adam", "2.0e-4 x/ 2.67 *", "1.0e-2 x/ 1.00 *"]
    assert cells_of(text, "| last | adam") == ["last", "adam", "0.50", "0.10, 1 of 2 failed"]
    assert cells_of(text, "| svd | lbfgs") == ["svd", "lbfgs", "1.0e-3 x/ 1.00 *"]
    assert "<td>2.0e-4 x/ 2.67 *</td>" in page
    spread = json.loads((tmp_path / "results.json").read_text())["spread"]
    first = {"budget": "operations", "family": "heat", "target": "near", "contestant": "svd, adam"}
    factor = math.exp(math.log(4) / math.sqrt(2))  # the logarithms are log(4)/2 on either side of their mean
    assert spread[0] == first | {
        "error": pytest.approx(2e-4),
        "factor": pytest.approx(factor),
        "seeds": 2,
        "failed": 0,
    }
    assert len(spread) == len({(row["family"], row["target"], row["contestant"]) for row in spread}) == 5
    assert len(board) == 3


def test_one_seed_has_no_spread_to_show(tmp_path):
    _, page, text = drawn(tmp_path, runs("svd", [0.1]), runs("last", [0.2]))
    assert "spread over seeds" not in page
    assert "spread over seeds" not in text
