"""The replication of Slim KAN: sizes, digits from files, and claims that follow from figures alone."""

import gzip
import json
import struct
from pathlib import Path

import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.recipes import digits, replication, slim_kan
from lissome.recipes.digits import read_pairs
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.replication import replicate
from lissome.recipes.slim_kan import FUNCTIONS, RANKS, Shape
from lissome.recipes.slim_kan_report import DIGITS, FULL_KAN, MLPS, NARROW, SLIM, drawings, tables
from lissome.recipes.table import reading
from lissome.recipes.table.idx import read_idx
from lissome.recipes.training import count

ON_DIGITS, ON_PLANE = Shape(64, 10, 1), Shape(2, 1, 2)


def asked(**more):
    return ReplicateSettings(paper="slim-kan", **more)


def idx(path, data):
    """Write bytes as MNIST does."""
    head = struct.pack(f">HBB{data.dim()}I", 0, 8, data.dim(), *data.shape)
    content = head + bytes(data.flatten().tolist())
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Return 60 pictures of two kinds, and 20 to test."""
    made = []
    for name, n in (("train", 60), ("t10k", 20)):
        labels = torch.arange(n) % 2
        pictures = (labels[:, None, None] * 255).expand(n, 4, 4)
        made += [idx(tmp_path / f"{name}-images-idx3-ubyte", pictures), idx(tmp_path / f"{name}-labels.gz", labels)]
    return made


def run(task="smooth", kind=SLIM, rank=2, seed=0, **more):
    return slim_kan.run(lambda: None, None, task=task, kind=kind, rank=rank, seed=seed, quick=True, **more)  # type: ignore[arg-type]


def row(kind, error, task="smooth", rank=2, seed=0, numbers=100):
    rank = 0 if kind == FULL_KAN else rank
    own = {"task": task, "kind": kind, "rank": rank, "seed": seed, "quick": False, "name": task, "numbers": numbers}
    return own | {"rate": 1e-2, "rates": {}, "error": error, "failed": None}


def claim(rows, part):
    return next(each for each in slim_kan.claims(rows) if part in each.says)


def test_every_slim_kan_has_a_narrow_kan_and_an_mlp_beside_it(monkeypatch):
    monkeypatch.setattr(slim_kan, "has_breast_cancer", lambda: True)
    found = slim_kan.cells(asked(seeds=2))
    assert len({each.name for each in found}) == len(found) == 2 * 4 * (1 + 3 * 3)
    monkeypatch.setattr(slim_kan, "has_breast_cancer", lambda: False)
    tasks = {each.arguments["task"] for each in slim_kan.cells(asked())}
    assert tasks == set(FUNCTIONS)


@pytest.mark.parametrize("rank", RANKS["digits"])
def test_networks_beside_a_slim_kan_have_the_nearest_size_on_digits(rank):
    wanted, narrow, small = (count(ON_DIGITS.made(kind, rank, 0)) for kind in (SLIM, NARROW, MLPS))
    assert narrow == min((9 * 74 * n for n in range(1, 99)), key=lambda size: abs(size - wanted))
    assert small == min((75 * n + 10 for n in range(1, 99)), key=lambda size: abs(size - wanted))
    assert count(ON_DIGITS.made(FULL_KAN, 0, 0)) == 21_312


@pytest.mark.parametrize("rank", RANKS["functions"])
def test_networks_beside_a_slim_kan_have_the_nearest_size_on_functions(rank):
    wanted, narrow, small = (count(ON_PLANE.made(kind, rank, 0)) for kind in (SLIM, NARROW, MLPS))
    assert narrow == min((9 * (n * n + 3 * n) for n in range(1, 99)), key=lambda size: abs(size - wanted))
    assert small == min((n * n + 5 * n + 1 for n in range(1, 99)), key=lambda size: abs(size - wanted))


@pytest.mark.parametrize("kind", [FULL_KAN, SLIM, NARROW, MLPS])
def test_a_cell_tells_size_and_error_and_is_repeated_by_its_seed(kind, monkeypatch):
    monkeypatch.setattr(slim_kan, "QUICK", 3)
    monkeypatch.setattr(slim_kan, "POINTS", 60)
    first, again, other = run(kind=kind), run(kind=kind), run(kind=kind, seed=1)
    assert first["error"] == again["error"] != other["error"]
    assert first["numbers"] > 0
    assert json.loads(json.dumps(first)) == first


def test_a_stop_is_heard_within_a_run():
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slim_kan.run(tick, None, task="smooth", kind=MLPS, rank=2, seed=0, quick=True)  # type: ignore[arg-type]


def test_pictures_are_read_plain_and_packed_and_paired_by_their_number(files):
    train, test = read_pairs(files[::-1])
    assert (len(train), len(test)) == (60, 20)
    assert train.x.shape == (60, 16)
    assert torch.equal(train.x[:2].amax(1), torch.tensor([-1.0, 1.0]))
    assert train.labels[:4].tolist() == [0, 1, 0, 1]
    (alone,) = read_pairs(files[:2])
    assert torch.equal(alone.x, train.x)


def test_sets_of_one_size_are_paired_by_their_names(tmp_path):
    made = []
    for name, label in (("train", 3), ("t10k", 7)):
        made.append(idx(tmp_path / f"{name}-images-idx3-ubyte", torch.full((6, 2, 2), label)))
        made.append(idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", torch.full((6,), label)))
    for part in read_pairs(made[::-1]):
        assert torch.equal(((part.x[:, 0] + 1) * 127.5).round().long(), part.labels)
    unlike = [idx(tmp_path / f"{name}.gz", torch.zeros(6, dtype=torch.long)) for name in "ab"]
    with pytest.raises(UsageError, match=r"has 6 pictures, and so many labels are in '.*a.gz' and in '.*b.gz'"):
        read_pairs([made[0], made[2], *unlike])
    by_name, by_number = read_pairs([*made[:3], unlike[0]])
    assert (by_name.labels.unique().tolist(), by_number.labels.unique().tolist()) == ([3], [0])
    short = idx(tmp_path / "train-labels-idx1-ubyte.gz", torch.zeros(5, dtype=torch.long))
    with pytest.raises(UsageError, match=r"has 6 pictures and '.*train-labels-idx1-ubyte.gz' 5 labels"):
        read_pairs([made[0], short])


def test_what_is_chosen_by_and_what_is_told_is_not_trained_on(files):
    found = digits.digits(files, 0)
    assert (found.name, len(found.train), len(found.choose), len(found.test)) == ("MNIST", 50, 10, 20)
    one = digits.digits(files[:2], 0)
    assert (len(one.train), len(one.choose), len(one.test)) == (42, 8, 10)
    assert not torch.equal(one.test.labels, digits.digits(files[:2], 1).test.labels)


def test_digits_from_files_are_told_apart(files, monkeypatch):
    monkeypatch.setattr(slim_kan, "QUICK", 40)
    names = [each.name for each in slim_kan.cells(asked(data=files, quick=True))]
    assert any(name.startswith("digits") for name in names)
    found = run(task=DIGITS, kind=SLIM, rank=4, data=files)
    assert found["name"] == "MNIST"
    assert found["error"] == 0  # two pictures


def test_files_that_are_no_digits_are_refused_before_anything_runs(files, tmp_path):
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "train-images-idx3-ubyte").read_bytes()[:-1])
    text = tmp_path / "text.gz"
    text.write_text("hello")
    other = idx(tmp_path / "other", torch.zeros(7, dtype=torch.long))
    for given, says in (
        ([str(cut), files[1]], r"cut' holds 959 bytes behind its header, which says 60 x 4 x 4"),
        ([str(text)], r"text.gz' cannot be unpacked"),
        ([str(tmp_path / "none")], r"none' cannot be read"),
        ([__file__], r"is no idx file: it does not begin with two zero bytes"),
        (files[:1], r"^1 files of pictures and 0 of labels were given"),
        ([files[0], other], r"has 60 pictures, and no file of so many labels was given"),
    ):
        with pytest.raises(UsageError, match=says):
            slim_kan.cells(asked(data=given))
    assert len(read_idx(Path(other))) == 7


def test_a_scikit_learn_that_cannot_be_loaded_is_told(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(reading.importlib, "import_module", missing)
    with pytest.raises(RunError, match="scikit-learn, which cannot be loaded"):
        digits.digits([], 0)


@pytest.mark.parametrize(("slim", "verdict"), [(0.01, "shown"), (0.03, "not shown")])
def test_networks_of_one_size_are_compared(slim, verdict):
    rows = [row(SLIM, slim), row(MLPS, 0.03), row(NARROW, 0.02), row(MLPS, 1e-9, rank=4), row(MLPS, 1e-9, seed=1)]
    assert claim(rows, "more accurate than an MLP: smooth").verdict == verdict
    assert claim(rows, "more accurate than a narrow full KAN: smooth").verdict == verdict
    assert claim(rows, "more accurate than an MLP: oscillating").verdict == "not measured"


def test_on_digits_it_is_the_share_of_right_names_that_is_compared():
    rows = [row(FULL_KAN, 0.02, DIGITS, numbers=21_312), row(SLIM, 0.03, DIGITS, 8, numbers=2_272)]
    rows += [row(NARROW, 0.2, DIGITS, 8), row(MLPS, 0.03, DIGITS, 8)]
    verdicts = {
        part: claim(rows, part).verdict for part in ("fraction", "nearly as well", "than a narrow", "than an MLP")
    }
    assert verdicts == {
        "fraction": "shown", "nearly as well": "shown", "than a narrow": "shown", "than an MLP": "not shown",
    }  # fmt: skip
    assert claim([rows[0], rows[1] | {"error": 0.1}], "nearly as well").verdict == "not shown"


def test_tables_and_figures_tell_accuracy_on_digits_and_errors_elsewhere():
    rows = [row(SLIM, 0.03, DIGITS, 8, numbers=2_272), row(SLIM, 0.01), row(MLPS, None)]
    named, smooth = tables(rows)
    assert list(named.rows[0]) == [SLIM, "8", "2,272", "97.0%", "0.01"]
    assert [line[3] for line in smooth.rows] == ["1.00e-02", "–"]
    assert [each.name for each in drawings(rows) if each.figure] == ["digits", "smooth"]


def test_a_quick_look_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(slim_kan, "QUICK", 3)
    few = slim_kan.cells(asked(quick=True))[:4]
    monkeypatch.setitem(vars(replication.KNOWN["slim-kan"]), "cells", lambda settings: few)
    told = replicate("slim-kan", tmp_path / "run", quick=True, progress=False)
    assert {each["verdict"] for each in told} == {"not measured"}
    assert "narrow full KAN" in (tmp_path / "run" / "index.html").read_text()
