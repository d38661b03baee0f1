"""Norms of the gradient in the course of training, held to those of the step."""

import json
import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.language import Text
from lissome.optim import Budget, Group, Method, fit
from lissome.optim.journal import read
from lissome.recipes.language.gradients import Gradients
from tests.recipes.decoders import WORDS, decoder


def trained(out, steps, *, clip=None, every=2, resume=False, watcher=None, **named):
    model = decoder(**named)
    text = Text(WORDS[:500], WORDS[500:], length=16, scored=32)
    method = Method((Group(optimizer="adamw", lr=1e-2),), points=4, resample_every=1, clip=clip)
    more = {"directory": out, "evaluate_every": 1, "checkpoint_every": 3, "resume": resume, "progress": False}
    fit(model, text, method, Budget(steps=steps), on_step=watcher or Gradients(out, every), **more)
    return model


def test_norms_are_those_of_the_gradient_of_the_step(tmp_path):
    class Both(Gradients):
        def __call__(self, step, model):
            super().__call__(step, model)
            kept.append({name: p.grad.double().norm().item() for name, p in model.named_parameters()})

    kept = []
    model = trained(tmp_path, 4, refine="dape(3)", watcher=Both(tmp_path, every=1))
    rows = read(tmp_path / "gradients.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, norms in zip(rows, kept, strict=True):
        for layer in range(2):
            own = {name: norm for name, norm in norms.items() if name.startswith(f"blocks.{layer}.")}
            for key, inside in (("layers", False), ("stages", True)):
                part = [norm for name, norm in own.items() if (".recipe." in name) == inside]
                assert part
                assert row[key][layer] == pytest.approx(math.hypot(*part), rel=1e-5)
        assert row["embedding"] == pytest.approx(norms["embedding.weight"], rel=1e-5)
        assert row["rest"] == pytest.approx(norms["norm.weight"], rel=1e-5)
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"blocks", "embedding", "norm"}


def test_a_gradient_that_was_clipped_counts_as_it_was_after(tmp_path):
    trained(tmp_path, 4, clip=1e-2, every=1)
    before = {row["step"]: row["gradient_norm"] for row in read(tmp_path / "metrics.jsonl")[1:]}
    for row in read(tmp_path / "gradients.jsonl"):
        assert before[row["step"]] > 0.1
        assert math.hypot(*row["layers"], *row["stages"], row["embedding"], row["rest"]) == pytest.approx(
            1e-2, rel=1e-3
        )


def test_without_stages_that_learn_their_norms_are_null(tmp_path):
    trained(tmp_path, 2, position="rotary")
    (row,) = read(tmp_path / "gradients.jsonl")
    assert row["stages"] == [None, None]
    assert all(value > 0 for value in (*row["layers"], row["embedding"], row["rest"]))


def test_a_resumed_run_has_the_rows_of_a_run_in_one_go(tmp_path):
    trained(tmp_path / "whole", 8)
    trained(tmp_path / "parts", 7)
    with (tmp_path / "parts" / "gradients.jsonl").open(
        "a"
    ) as file:  # of steps behind the checkpoint, and one cut short
        file.write('{"step": 8, "embedding": 7}\n{"step": 9')
    trained(tmp_path / "parts", 8, resume=True)
    one, two = ((tmp_path / name / "gradients.jsonl").read_text() for name in ("whole", "parts"))
    assert one == two
    assert [json.loads(line)["step"] for line in one.splitlines()] == [2, 4, 6, 8]


def test_a_new_run_drops_the_rows_of_an_old_one(tmp_path):
    (tmp_path / "gradients.jsonl").write_text('{"step": 1}\n')
    trained(tmp_path, 2)
    assert [row["step"] for row in read(tmp_path / "gradients.jsonl")] == [2]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, monkeypatch):
    watcher, model = Gradients(tmp_path, every=1), decoder()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    watcher.begin(0, model, [])
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    watcher(1, model)
    assert not list(tmp_path.iterdir())


def test_a_watcher_that_would_never_look_is_refused(tmp_path):
    with pytest.raises(UsageError, match="every is 0; legal are whole numbers of at least 1"):
        Gradients(tmp_path, every=0)
