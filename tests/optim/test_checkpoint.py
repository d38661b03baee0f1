import errno
import json
import os
from pathlib import Path

import pytest
import torch

from lissome._errors import RunError
from lissome.optim import Budget, Method, checkpoint, fit
from lissome.optim.checkpoint import decode, encode, exists, read, write
from lissome.optim.journal import Journal
from tests.optim.problems import Sine, network

TREE = {
    "step": 3,
    "none": None,
    "flags": [True, False],
    "betas": (0.9, 0.1 + 0.2),
    "state": {0: {"exp_avg": torch.randn(2, 3), "old": [None, torch.tensor(2.0)]}, 1: {}},
    "endless": float("inf"),
}
MODEL = {"w": torch.arange(3.0), "view": torch.arange(6.0).view(2, 3).t(), "scalar": torch.tensor(1)}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_tree_survives_json_with_its_types():
    tensors = {}
    text = json.dumps(encode(TREE, tensors))
    assert same(decode(json.loads(text), tensors), TREE)


def test_what_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match=r"state.a.1 is a set"):
        encode({"a": [1, {2}]}, {})


def test_write_then_read_gives_the_same(tmp_path):
    place = tmp_path / "deep" / "checkpoint"
    tied = MODEL | {"tied": MODEL["w"]}
    write(place, tied, TREE)
    write(place, tied, TREE)
    loaded = read(place)
    assert same(loaded.model, dict(sorted(tied.items()))) or same(
        loaded.model, {k: loaded.model[k] for k in loaded.model}
    )
    assert all(same(loaded.model[name], value) for name, value in tied.items())
    assert same(loaded.state, TREE)
    assert sorted(path.name for path in place.parent.iterdir()) == ["checkpoint"]


class Killed(BaseException):
    pass


def killing(call, count):
    """`call`, which dies at its count-th use."""
    uses = []

    def wrapped(*args, **kwargs):
        uses.append(1)
        if len(uses) == count:
            raise Killed
        return call(*args, **kwargs)

    return wrapped


# five renames put a checkpoint in place of another: three files, the old directory away, the new one in
@pytest.mark.parametrize(("count", "step"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)])
def test_a_writer_killed_at_any_rename_leaves_the_old_or_the_new_whole(count, step, tmp_path, monkeypatch):
    place = tmp_path / "checkpoint"
    write(place, {"w": torch.zeros(2)}, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killing(os.replace, count))
        with pytest.raises(Killed):
            write(place, {"w": torch.ones(2)}, {"step": 2})
    loaded = read(place)
    assert loaded.state["step"] == step
    assert torch.equal(loaded.model["w"], torch.full((2,), step - 1.0))
    write(place, {"w": torch.ones(2)}, {"step": 3})
    assert read(place).state["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_an_unfinished_first_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint.new").mkdir()
    (tmp_path / "checkpoint.new" / checkpoint.MODEL).write_bytes(b"half")
    assert not exists(tmp_path / "checkpoint")


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("count", range(1, 6))
def test_a_full_disk_at_any_rename_leaves_the_checkpoint_before(count, tmp_path, monkeypatch):
    place = tmp_path / "checkpoint"
    write(place, MODEL, {"step": 1})
    before = files(tmp_path)
    uses = []

    def replace(source, target):
        uses.append(1)
        return full() if len(uses) == count else os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(
            RunError, match=r"could not be written \(No space left on device\); the checkpoint before it"
        ):
            write(place, MODEL, {"step": 2})
    assert files(tmp_path) == before


def test_a_full_disk_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    place = tmp_path / "checkpoint"
    write(place, MODEL, {"step": 1})
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="make room, then resume"):
            write(place, MODEL, {"step": 2})
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing_half(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="there was none before it"):
        write(tmp_path / "checkpoint", MODEL, {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_run_with_a_sentence_and_resumes_to_the_same_bits(tmp_path, monkeypatch):
    def train(directory, **options):
        model = network()
        fit(model, Sine(), Method(points=8), Budget(steps=12), directory=directory, evaluate_every=4, **options)
        return model

    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:

        def fill(step, model):
            if step == 7:
                patch.setattr("builtins.open", full)

        with pytest.raises(RunError, match="metrics.jsonl could not be written .*No space left") as error:
            train(tmp_path / "full", on_step=fill, checkpoint_every=6)
    assert error.value.exit_code == 1
    model = train(tmp_path / "full", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    lines = (tmp_path / "full" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 4, 8, 12]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_row_that_meets_a_full_disk_is_told(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.path.symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        journal.append({"step": 0})
