"""The replication of SA-Softmax: what is run, what is measured, and claims that follow from figures alone."""

import json
import math

import numpy as np
import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.language import task
from lissome.recipes import (
    language_contest,
    replication,
    sa_softmax,
    sa_softmax_bytes,
    sa_softmax_lookup,
    sa_softmax_row,
)
from lissome.recipes.catalogue import papers
from lissome.recipes.language_contest import Sizes, decoder, swept
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate
from lissome.recipes.sa_softmax_claims import beside, claims, paired
from lissome.recipes.sa_softmax_gradients import curves, norms
from lissome.recipes.sa_softmax_lookup import saturate, sureness
from lissome.recipes.sa_softmax_names import (
    ADAM,
    AS_LONG,
    BYTES,
    CAP,
    LENGTHS,
    LOOKUP,
    ORDINARY,
    POSITIONS,
    ROW,
    SATURATED,
    SGD,
    VARIANTS,
    WRONG,
)
from lissome.recipes.sa_softmax_report import drawings, tables
from lissome.recipes.sa_softmax_row import GAIN, begun, mixed, until_right

LONG = f"{AS_LONG}V4"
HALF = Sizes(layers=2, width=16, steps=4, rates=(1e-2,), rows=4)


def asked(**more):
    return ReplicateSettings(paper="sa-softmax", **more)


def nothing():
    return None


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(language_contest, "QUICK", 3)
    monkeypatch.setattr(language_contest, "STEPS", 2)
    monkeypatch.setattr(language_contest, "TURNS", 1)


def bytes_cell(place, text, label, seed=0):
    more = {"position": "Kerple", "length": 64, "large": False, "data": [text]}
    return sa_softmax.run(nothing, place, part=BYTES, label=label, seed=seed, quick=True, **more)


def own(part, label, seed=0, **more):
    return {"part": part, "label": label, "seed": seed, "quick": False, "failed": None} | more


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


def drawn(label, position, seed):
    return decoder(HALF, 256, seed, length=16, position=POSITIONS[position], normalize=VARIANTS[label])


def claim(rows, part):
    return next(each for each in claims(rows) if part in each.says)


def test_cells_follow_those_whose_rate_they_take():
    found = sa_softmax.cells(asked(seeds=2))
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    for cell in found:
        told = cell.arguments
        assert cell.after in {"", *names[: names.index(cell.name)]}
        if told["label"].startswith(AS_LONG):
            assert cell.after == f"bytes, Kerple, 64, softmax, seed {told['seed']}"
        elif told["part"] != ROW and told["seed"]:
            assert cell.after == f"{cell.name.removesuffix(' 1')} 0"
    assert len(sa_softmax.cells(asked(quick=True))) * 2 == len(found)
    here = {cell.arguments["label"] for cell in found if cell.arguments["part"] == BYTES}
    assert here == {*VARIANTS, *(f"{AS_LONG}{label}" for label in VARIANTS if label != "softmax")}


def test_a_large_look_has_more_positions_and_lengths():
    small, large = (sa_softmax.cells(asked(seeds=1, scale=scale)) for scale in (False, True))
    more = [cell.arguments for cell in large if cell.name not in {each.name for each in small}]
    assert {(told["position"], told["length"]) for told in more} == {(p, n) for p in POSITIONS for n in LENGTHS}
    assert {told["label"] for told in more} == {"softmax", "V4", LONG}
    assert all(told["large"] for told in more)
    assert sa_softmax_bytes.LARGE.layers == 4
    assert max(LENGTHS) == 1024


def test_one_text_is_read(text):
    with pytest.raises(UsageError, match="^this replication reads one text, and 2 came; give --data once$"):
        sa_softmax.cells(asked(data=[text, text]))


@pytest.mark.parametrize("label", VARIANTS)
@pytest.mark.parametrize("position", POSITIONS)
def test_contestants_are_what_their_names_say(label, position):
    said = drawn(label, position, 0).recipes[1].explain()
    assert ("self_adjust" in said, "detach" in said) == (label != "softmax", "detached" in label)
    assert label == "softmax" or f"self_adjust({label[1]}" in said
    assert position == "NoPE" or position.lower() in said


def test_variants_of_a_seed_begin_with_the_same_numbers():
    one, other = (drawn(label, "Kerple", 3).state_dict() for label in ("softmax", "V4"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_differ_in_the_lead_of_the_wrong_key_alone():
    rows = begun((2, 20), 3, torch.Generator().manual_seed(0)).view(2, 3, -1)
    assert rows[:, :, 1].tolist() == [[2] * 3, [20] * 3]
    rest = [0, *range(2, rows.shape[2])]
    assert torch.equal(rows[0][:, rest], rows[1][:, rest])
    assert not torch.equal(rows[0, 0, rest], rows[0, 1, rest])
    assert rows.dtype == torch.float64


@pytest.mark.parametrize("label", VARIANTS)
def test_the_mix_of_values_is_the_formula(label):
    rows = begun((1, 20), 2, torch.Generator().manual_seed(1)) - 0.3
    p = rows.exp() / rows.exp().sum(1, keepdim=True)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    eps = 1e-6
    wanted = {
        "softmax": p,
        "V1": rows * p,
        "V2": (rows - low) * p,
        "V3": (rows - low) / (high - low + eps) * p,
        "V4": (rows - low.clamp(max=0)) / (high.clamp(min=0) - low.clamp(max=0) + eps) * p,
    }[label.removesuffix(", detached")]
    torch.testing.assert_close(mixed(rows, label), GAIN * wanted)


def test_first_gradient_of_the_row_is_that_of_central_differences():
    rows = begun((2,), 1, torch.Generator().manual_seed(0))
    for label in ("softmax", "V1", "V4"):
        _, (norm,) = until_right(rows, label, SGD, 0, nothing)

        def loss(z, label=label):
            return torch.nn.functional.cross_entropy(mixed(z, label), torch.zeros(1, dtype=torch.long)).item()

        unit = 1e-5 * torch.eye(rows.shape[1], dtype=torch.float64)
        slope = [(loss(rows + step) - loss(rows - step)) / 2e-5 for step in unit]
        assert norm == pytest.approx(math.hypot(*slope), rel=1e-6)


def test_one_step_of_sgd_on_the_row_is_counted():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.4], [0.0, 40.0]], dtype=torch.float64)
    steps, _ = until_right(rows, "softmax", SGD, 5, nothing)
    assert steps == [0, 1, None]


def test_sgd_does_not_leave_a_saturated_softmax_or_v4_and_does_with_extrema_held_constant():
    rows = begun((20,), 3, torch.Generator().manual_seed(0))
    assert until_right(rows, "softmax", SGD, CAP, nothing)[0] == [None] * 3
    assert until_right(rows, "V4", SGD, CAP, nothing)[0] == [None] * 3
    assert all(step is not None and step <= 100 for step in until_right(rows, "V4, detached", SGD, CAP, nothing)[0])
    assert sorted(step or CAP for step in until_right(rows, "V1", SGD, CAP, nothing)[0])[1] <= 10


def test_with_adam_all_variants_take_as_long_but_v2_where_the_right_key_is_least():
    rows = begun((20,), 8, torch.Generator().manual_seed(1))
    least = rows.argmin(1) == 0
    assert 0 < least.sum() < len(rows)
    found = {label: torch.tensor(until_right(rows, label, ADAM, CAP, nothing)[0]) for label in VARIANTS}
    others = torch.stack([steps[~least].double().median() for steps in found.values()])
    assert others.max() <= 1.2 * others.min()
    assert found["V2"][least].min() > 2 * found["V2"][~least].max()
    assert found["V1"][least].max() < 1.2 * found["V1"][~least].max()


def test_norms_are_those_of_the_gradient_by_layer():
    model = drawn("V4", "Kerple", 0)
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))

    def loss():
        logits = model(tokens[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    found = norms(model, loss())
    loss().backward()
    for layer, block in enumerate(model.blocks):
        squares = sum(float(p.grad.square().sum()) for p in block.parameters())
        assert found[f"layer/{layer}"] == pytest.approx(math.sqrt(squares), rel=1e-4)
        turned = block.heads.qkv.weight.grad[: 2 * 16]  # queries and keys, then values
        assert found[f"scores/{layer}"] == pytest.approx(float(turned.norm()), rel=1e-4)
        assert found[f"scores/{layer}"] < found[f"layer/{layer}"]


class Ended:
    """What a run left: a loss on the rows held out."""

    def __init__(self, error):
        self.metrics = {"error": error}


def valley(best, seen):
    """Return an attempt whose loss is least at a rate."""

    def attempt(rate):
        seen.append(rate)
        return Ended(abs(math.log(rate / best))), None

    return attempt


@pytest.mark.parametrize(
    ("best", "wanted", "more"),
    [(1e-2, 1e-2, []), (3e-2, 3e-2, [9e-2]), (1.0, 0.27, [9e-2, 0.27]), (1e-3, 1e-3, [1e-3 / 3])],
)
def test_a_best_rate_at_an_end_is_gone_beyond(best, wanted, more):
    seen = []
    found, losses = swept((1e-3, 1e-2, 3e-2), valley(best, seen), 2)
    assert found is not None
    assert found.rate == pytest.approx(wanted)
    assert seen[3:] == pytest.approx(more)
    assert len(losses) == len(seen)


def test_a_sweep_passes_over_what_diverges():
    def attempt(rate):
        if rate > 0.02:
            raise RunError("the loss is not finite")
        return Ended(1 / rate), None

    found, losses = swept((1e-3, 1e-2, 3e-2), attempt, 2)
    assert found is not None
    assert found.rate == 1e-2
    assert set(losses) == {"0.001", "0.01"}
    assert swept((0.1,), attempt, 2) == (None, {})


def test_later_seeds_keep_the_rate_of_the_first(tmp_path):
    same = {"part": LOOKUP, "label": "V4", "optimizer": SGD, "start": SATURATED, "quick": True}
    with pytest.raises(RunError, match="is missing, on which later cells rest"):
        sa_softmax.run(nothing, tmp_path, seed=1, **same)
    first = sa_softmax.run(nothing, tmp_path, seed=0, **same)
    later = sa_softmax.run(nothing, tmp_path, seed=1, **same)
    assert first["rate"] == later["rate"] == sa_softmax_lookup.RATES[SGD][-1]
    assert first["loss"] != later["loss"]
    assert first["steps"] == 3
    assert json.loads(json.dumps(first)) == first


def test_softmax_that_diverged_at_all_rates_is_tried_at_them_again_for_the_seconds_of_another(
    tmp_path, text, monkeypatch
):
    def diverges(*_):
        raise RunError("the loss is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(language_contest, "train", diverges)
        assert bytes_cell(tmp_path, text, "softmax")["failed"] == "no rate ends at a finite loss"
    monkeypatch.setattr(sa_softmax_bytes, "ratio_of_seconds", lambda *_: 1.0)
    again = bytes_cell(tmp_path, text, LONG)
    assert again["failed"] is None
    assert again["rate"] == sa_softmax_bytes.SMALL.rates[-1]  # that of a quick look


def test_a_saturated_start_is_sure_and_an_ordinary_one_is_not(tmp_path):
    told = {
        start: sa_softmax.run(
            nothing, tmp_path, part=LOOKUP, label="softmax", optimizer=SGD, start=start, seed=0, quick=True
        )
        for start in (SATURATED, ORDINARY)
    }
    assert told[SATURATED]["sure"] >= sa_softmax_lookup.SURE
    assert told[SATURATED]["right"] < 0.25
    assert told[ORDINARY]["sure"] < 0.5


def test_sureness_reads_the_weights_of_the_pair_that_answers():
    own = task("lookup", which="recent", keys=2, values=16, train=(8, 8), test=(8,))
    tokens, targets = own.draw(torch.Generator().manual_seed(0), 4, 8)
    sizes = Sizes(layers=1, width=16, steps=1, rates=(), heads=2)
    model = decoder(sizes, own.size, 0, position="kerple")
    found = sa_softmax_lookup.weights(model, tokens)
    sure, right = [], []
    for n, t in (targets != -100).nonzero().tolist():
        key, value = own.symbols[tokens[n, t]], own.symbols[targets[n, t]]
        names = [own.symbols[token] for token in tokens[n].tolist()]
        for weight in found[n, :, t].tolist():
            by = {name: sum(w for w, other in zip(weight, names, strict=True) if other == name) for name in names}
            sure.append(max(by.values()))
            right.append(by[f"{key}:{value}"])
    told = sureness(model, tokens, targets)
    assert told == (pytest.approx(np.mean(sure), rel=1e-5), pytest.approx(np.mean(right), rel=1e-5))
    before = model.blocks[0].heads.qkv.weight.detach().clone()
    factor = saturate(model, tokens, targets)
    after = model.blocks[0].heads.qkv.weight
    torch.testing.assert_close(after[:32], factor * before[:32])
    torch.testing.assert_close(after[32:], before[32:])


def test_bytes_are_told_with_gradients_on_the_way(tmp_path, text):
    first = bytes_cell(tmp_path, text, "V4, detached")
    assert 0 < first["nats"] < math.log(256) + 0.5
    assert set(first["gradients"]) == {"step", "error", "scores/0", "scores/1", "layer/0", "layer/1"}
    assert first["gradients"]["step"] == [0, 1, 2, 3]
    again = bytes_cell(tmp_path, text, "V4, detached")
    assert again == first


def test_the_seconds_of_a_variant_are_given_to_softmax_at_its_own_rate(tmp_path, text, monkeypatch):
    short = bytes_cell(tmp_path, text, "softmax")
    monkeypatch.setattr(sa_softmax_bytes, "ratio_of_seconds", lambda *_: 2.4)
    longer = bytes_cell(tmp_path, text, LONG)
    assert (short["steps"], longer["steps"], longer["ratio"]) == (3, 7, 2.4)
    assert longer["rate"] == short["rate"]
    assert longer["numbers"] == short["numbers"]
    assert longer["nats"] != short["nats"]


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


def test_it_is_in_the_catalogue():
    told = next(each for each in papers() if each["paper"] == "sa-softmax")
    assert told["arxiv"] == sa_softmax.PAPER.arxiv
    assert told["replicate"] == "lissome replicate sa-softmax"


def test_a_quick_look_proves_nothing_and_draws_the_page(tmp_path, text, monkeypatch):
    few = [cell for cell in sa_softmax.cells(asked(quick=True, data=[text])) if cell.arguments["label"] == "V4"]
    monkeypatch.setitem(vars(replication.PAPERS["sa-softmax"]), "cells", lambda settings: few)
    monkeypatch.setattr(sa_softmax_row, "CAP", 20)
    out = tmp_path / "run"
    told = replicate("sa-softmax", out, quick=True, data=[text], progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    page = (out / "index.html").read_text()
    assert "Bytes, Kerple, 64: after as many steps" in page
    assert "One row: norm of the first gradient in the scores" in page
    assert (out / "figures" / "row.svg").is_file()
