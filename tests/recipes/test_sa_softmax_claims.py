"""Claims, tables and figures of SA-Softmax, from cells that are given."""

import math

import numpy as np
import pytest

from lissome.recipes.sa_softmax_claims import beside, claims, paired
from lissome.recipes.sa_softmax_gradients import curves
from lissome.recipes.sa_softmax_names import ADAM, BYTES, LOOKUP, ORDINARY, ROW, SATURATED, SGD, VARIANTS, WRONG
from lissome.recipes.sa_softmax_report import drawings, tables
from tests.recipes.sa_cells import LONG, own


def row(label, sgd, adam, norm=1e-7, seed=0):
    """A cell of the row: the same steps and norm at every c, two starts."""
    reached = {SGD: {str(c): [sgd, sgd] for c in WRONG}, ADAM: {str(c): [adam, adam] for c in WRONG}}
    return own(ROW, label, seed, reached=reached, gradient={str(c): [norm, norm] for c in WRONG}, least=[True, False])


def trained(**more):
    curve = {"step": [0.0, 5.0, 10.0], "error": [3.0, 2.0, 1.0]}
    curve |= {f"{what}/{layer}": [1.0, 0.1, 0.01] for what in ("scores", "layer") for layer in (0, 1)}
    rest = {"rate": 1e-2, "rates": {"0.01": 1.0}, "loss": 1.0, "steps": 10, "numbers": 9_000, "gradients": curve}
    return rest | more


def look(label, accuracy, start=SATURATED, optimizer=SGD, seed=0):
    told = trained(accuracy=accuracy, sure=0.99, right=0.05, chance=0.0625, start=start, optimizer=optimizer)
    return own(LOOKUP, label, seed, **told, **{"ends sure": 0.9})


def read(label, nats, seed=0, position="Kerple", length=64, large=False, **more):
    return own(BYTES, label, seed, **trained(nats=nats, position=position, length=length, large=large, **more))


def claim(rows, part):
    return next(each for each in claims(rows) if part in each.says)


def test_curves_keep_what_was_looked_at():
    class Run:
        history = ({"step": 0, "error": 1 / 3, "lr": 1, "scores/0": 2.0}, {"step": 5, "error": 0.1, "scores/0": 1.0})

    assert curves(Run()) == {"step": [0.0, 5.0], "error": [0.3333, 0.1], "scores/0": [2.0, 1.0]}


def test_the_row_is_held_to_its_worst_starts():
    rows = [row("softmax", None, 80), row("V1", 6, 85, norm=5.0), row("V4", None, 81), row("V4, detached", 48, 82, 0.2)]
    verdicts = [each.verdict for each in claims(rows)[:10]]
    wanted = ["shown"] * 5 + ["not measured"] * 2 + ["shown", "not shown", "shown"]
    assert verdicts == wanted
    assert "2 cells, 2 at the cap)" in claims(rows)[0].evidence
    worse = [*rows, row("V4, detached", 120, 82, seed=1), row("softmax", 900, 80, seed=1)]
    assert claim(worse, "held constant in the gradient leaves").verdict == "not shown"
    assert claim(worse, "sure of the wrong key does not leave").verdict == "not shown"
    assert claim([*rows, row("V1", None, 85, seed=1)], "from every start").verdict == "not shown"


def test_adam_is_compared_only_where_all_variants_are_there():
    rows = [row(label, 5, 80 + k if label != "V2" else 120) for k, label in enumerate(VARIANTS)]
    found = claim(rows, "with Adam all variants but V2")
    assert found.verdict == "shown"
    assert found.found.mean == pytest.approx(86 / 80)
    assert claim([*rows[:-1], row("V4, detached", 5, 100)], "with Adam all").verdict == "not shown"
    assert claim(rows[:-1], "with Adam all").verdict == "not measured"
    assert claim(rows, "with Adam V2").found.mean == pytest.approx(1.5)
    assert claim(rows, "with Adam V2").verdict == "not shown"


def test_the_look_up_is_held_to_the_best_variant():
    rows = [look("softmax", 0.95, start=ORDINARY, optimizer=ADAM), look("V4", 0.92, start=ORDINARY, optimizer=ADAM)]
    rows += [look("softmax", 0.99), look("V1", 0.1), look("V2", 0.3), look("V1", 0.6, seed=1), look("V2", 0.3, seed=1)]
    assert claim(rows, "from an ordinary start").verdict == "shown"
    found = claim(rows, "from a saturated start with SGD")
    assert found.verdict == "not shown"
    assert "the best variant (V1), mean: 0.35 (0.10 to 0.60" in found.evidence
    assert claim(rows, "from a saturated start with Adam").verdict == "not measured"
    held = look("V4, detached", 0.1)
    held["gradients"] = held["gradients"] | {"scores/0": [1.0, 5.0, 0.0]}  # what is 0 is compared with nothing
    assert claim([*rows, held], "start V4, detached keeps").found.mean == pytest.approx(50)
    assert claim(rows, "start V1 keeps").verdict == "not shown"


def test_differences_are_compared_seed_by_seed():
    found = paired([1.9, 2.0, 2.1], [2.0, 2.2, 2.15])
    each = np.array([-0.1, -0.2, -0.05])
    assert found.mean == pytest.approx(each.mean())
    assert found.t == pytest.approx(each.mean() / (each.std(ddof=1) / math.sqrt(3)))
    assert 0.1 < found.p < 0.2
    assert math.isnan(paired([1.0], [2.0]).t)
    rows = [read("V4", 1.9, seed=1), read("softmax", 2.0), read("softmax", 2.3, seed=1)]
    assert beside(rows, "V4", "softmax").each == (pytest.approx(-0.4),)
    assert beside(rows, "V1", "softmax") is None


def test_bytes_claims_want_more_than_chance():
    rows = [read("softmax", 2.0, seed=s) for s in range(3)] + [
        read("V4", v, seed=s) for s, v in enumerate((1.9, 2.0, 1.8))
    ]
    assert claim(rows, "softmax after as many steps").verdict == "shown"
    beyond = claim(rows, "as many steps, beyond chance")
    assert (beyond.verdict, beyond.least) == ("not shown", 4.3)
    steady = [*rows[:3], *(read("V4", v, seed=s) for s, v in enumerate((1.9, 1.91, 1.89)))]
    assert claim(steady, "as many steps, beyond chance").verdict == "shown"
    assert claim(steady, "as many seconds").verdict == "not measured"
    timed = [*steady, *(read(LONG, 1.8, seed=s, ratio=1.3) for s in range(3))]
    assert claim(timed, "softmax after as many seconds").verdict == "not shown"
    assert claim(rows, "more gradient reaches").found.mean == pytest.approx(1.0)
    large = [read(label, nats, position=p, length=256, large=True) for p in ("NoPE", "FIRE")
             for label, nats in (("softmax", 2.0), ("V4", 1.9 if p == "NoPE" else 2.1))]  # fmt: skip
    assert claim(large, "at 256 bytes").verdict == "not shown"
    assert claim(large, "softmax after as many steps").verdict == "not measured"


def test_tables_and_figures_tell_what_is_there_and_what_is_not():
    rows = [row("softmax", None, 80), row("V1", 6, 85), look("V1", 0.1), look("V1", 0.2, seed=1), look("V2", 0.3)]
    rows += [own(LOOKUP, "V3", failed="no rate ends at a finite loss") | {"optimizer": SGD, "start": SATURATED}]
    rows += [read(label, nats, seed=s) for s in (0, 1) for label, nats in (("softmax", 2.0), ("V4", 1.9 + s / 100))]
    rows += [read(LONG, 1.95, seed=s, ratio=1.3) for s in (0, 1)]
    rows += [read(label, 2.0, position="NoPE", length=256, large=True) for label in ("softmax", "V4")]
    found = {sheet.title.split(":")[-1].strip(): sheet for sheet in tables(rows)}
    sgd = found["steps of SGD until the right key leads"]
    assert [line[:2] for line in sgd.rows] == [["softmax", "over 1,000"], ["V1", "6"]]
    apart = found["steps by where the right key begins"]
    assert list(apart.rows[0]) == ["softmax", "over 1,000", "over 1,000", "80", "80"]
    assert apart.note.endswith("least of all scores; 1 starts, and 1 others.")
    rows[0]["gradient"]["1"] = [0.0, 4e-3]  # a start at which the right key leads at once
    first = next(sheet for sheet in tables(rows) if "first gradient" in sheet.title)
    assert list(first.rows[0][:3]) == ["softmax", "4.0e-3", "1.0e-7"]
    seen = found["Look-up in one layer, saturated start"]
    assert [list(line[:3]) for line in seen.rows] == [
        ["SGD", "V1", "0.150 (0.100 to 0.200)"],
        ["SGD", "V2", "0.300"],
        ["SGD", "V3", "failed"],
    ]
    assert seen.rows[0][5] == "1.0 → 0.10 → 1.0e-2"
    steps, seconds = found["after as many steps"], found["after as many seconds"]
    assert list(steps.rows[1][:4]) == ["V4", "1.9050 (1.9000 to 1.9100)", "-0.0950 (-0.1000 to -0.0900)", "-19.0"]
    assert list(seconds.rows[0][:4]) == ["V4", "1.30 (1.30 to 1.30)", "10 (10 to 10)", "1.9500 (1.9500 to 1.9500)"]
    assert seconds.rows[0][4] == "-0.0450 (-0.0500 to -0.0400)"
    assert "Bytes, a large look" in found
    assert all(len(line) == len(sheet.heads) for sheet in found.values() for line in sheet.rows)
    drawn = {each.name: each.figure for each in drawings(rows)}
    assert set(drawn) == {"row", "nats", "gradients", "look-up"}
    assert all(figure is not None for figure in drawn.values())
    assert tables([]) == []
    assert {each.figure for each in drawings([])} == {None}
