"""Batches in parts, clipped gradients, warm starts, and decay by names."""

import contextlib
import json

import pytest
import torch
from accelerate import Accelerator

from lissome._errors import UsageError
from lissome._types import Divisible
from lissome.optim import Budget, Group, Method, fit
from lissome.optim.capture import Capture
from lissome.optim.step import Stepper
from tests.optim.problems import Sine, network
from tests.optim.words import Decoder, Words

GROUPS = (
    Group("*norm*", "adamw", 0.02, {"weight_decay": 0.0}),
    Group("*.bias", "adamw", 0.02, {"weight_decay": 0.0}),
    Group("*", "adamw", 0.02, {"weight_decay": 0.3}),
)


def method(**changes):
    settings = {"groups": GROUPS, "points": 12, "resample_every": 1, "clip": 0.5, "warmup": 0.25, "schedule": "cosine"}
    return Method(**(settings | changes))


def train(how, *, steps=8, **options):
    model, objective = Decoder(), Words()
    options = {"evaluate_every": 1, "progress": False} | options
    return model, objective, fit(model, objective, how, Budget(steps=steps), **options)


def close(model, other):
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def figures(result):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]


@pytest.mark.parametrize("parts", [2, 4, 5, 12])
def test_a_batch_in_parts_is_the_batch(parts):
    assert isinstance(Words(), Divisible)
    whole, _, expected = train(method())
    model, objective, result = train(method(accumulate=parts))
    close(model, whole)
    for row, other in zip(figures(result), figures(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-9)
    assert set(objective.rows) == {12 // parts, -(-12 // parts)}
    assert expected.loss < 0.8 * expected.history[0]["loss"]


def test_gradients_that_come_as_a_list_add_up_too():
    found = []
    for compiled in (False, True):
        model, objective = Decoder(), Words()
        stepper = Stepper(model, objective, dict(model.named_parameters()), Accelerator(cpu=True), seed=0)
        stepper.enter(method(accumulate=5))
        stepper.draw()
        stepper.capture = Capture(stepper.eager, compiled, "as if")
        loss = stepper.gradient()
        found.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_a_compiled_batch_in_parts_is_the_batch():
    whole, _, expected = train(method(), steps=3)
    model, _, result = train(method(accumulate=2), steps=3, compile=True)
    assert result.compiled
    close(model, whole)
    assert result.loss == pytest.approx(expected.loss, rel=1e-9)


def test_a_parameter_that_no_part_reaches_stays_where_it_is():
    model, objective = Decoder(), Words()
    model.idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    how = Method((Group("*", "adam", 0.02),), points=12, accumulate=3, clip=1.0)
    fit(model, objective, how, Budget(steps=2), progress=False)
    assert model.idle.tolist() == [1, 1, 1]


def test_clipping_bounds_the_step_and_rows_have_the_norm_before():
    norms, moved = [], []
    for clip in (1e9, 0.01):
        model, objective = Decoder(), Words()
        before = [p.detach().clone() for p in model.parameters()]
        how = Method((Group("*bias", "sgd", 0.5), Group("*", "sgd", 0.5)), points=12, clip=clip, accumulate=2)
        result = fit(model, objective, how, Budget(steps=1), progress=False)
        assert "gradient_norm" not in result.history[0]
        norms.append(result.metrics["gradient_norm"])
        moved.append(torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]).detach())
    batch = Words().sample(torch.Generator().manual_seed(0), 12)
    model = Decoder()
    Words().loss(model, batch).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert norms == pytest.approx([float(gradient.norm())] * 2, rel=1e-12)
    torch.testing.assert_close(moved[0], -0.5 * gradient, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(moved[1], -0.5 * 0.01 * gradient / gradient.norm(), rtol=1e-3, atol=1e-8)
    assert float(moved[1].norm()) <= 0.5 * 0.01


def test_scaled_losses_are_clipped_as_they_are_and_rescaled_once_a_step():
    found, scales = [], []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)):
        model, machine = Decoder(), Accelerator(cpu=True)
        machine.scaler = scaler
        stepper = Stepper(model, Words(), dict(model.named_parameters()), machine, seed=0)
        stepper.enter(method(accumulate=2))
        stepper.draw()
        for step in range(5):
            stepper.advance(step, 1.0)
            found.append(float(stepper.norm))
            scales.append(scaler and scaler.get_scale() / 2.0**20)
    assert scales[5:] == [1, 2, 2, 4, 4]
    assert found[:5] == pytest.approx(found[5:], rel=1e-9)


def test_rates_rise_from_the_first_step_and_then_follow_the_schedule():
    _, _, result = train(method(final=0.1), steps=16)
    rates = [row["lr"] / 0.02 for row in result.history[1:]]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    expected = [0.1 + 0.9 * (1 + torch.cos(torch.tensor(torch.pi * step / 12)).item()) / 2 for step in range(12)]
    assert rates[4:] == pytest.approx(expected, rel=1e-6)


def test_groups_by_name_decay_matrices_alone_as_one_adamw_would():
    model, _, _ = train(Method(GROUPS, points=12), steps=5)
    twin, objective = Decoder(), Words()
    named = dict(twin.named_parameters())
    kept = [p for name, p in named.items() if "norm" in name or name.endswith("bias")]
    decayed = [p for p in named.values() if not any(p is q for q in kept)]
    assert all(p.dim() == 2 for p in decayed)
    assert all(p.dim() == 1 for p in kept)
    optimizer = torch.optim.AdamW([{"params": kept, "weight_decay": 0.0}, {"params": decayed}], 0.02, weight_decay=0.3)
    batch = objective.sample(torch.Generator().manual_seed(0), 12)
    for _ in range(5):
        optimizer.zero_grad()
        objective.loss(twin, batch).backward()
        optimizer.step()
    close(model, twin)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_unbroken_and_resumed_runs_are_bit_equal(stop, tmp_path):
    def end(step, model):
        if step == stop:
            raise Stopped

    how = (method(accumulate=3, share=0.5), method(accumulate=2, clip=0.1))
    where = {"evaluate_every": 4, "checkpoint_every": 2}
    train(how, steps=12, directory=tmp_path / "whole", **where)
    with contextlib.suppress(Stopped):
        train(how, steps=12, directory=tmp_path / "broken", on_step=end, **where)
    train(how, steps=12, directory=tmp_path / "broken", resume=True, **where)
    ends = []
    for name in ("whole", "broken"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
        files = [(tmp_path / name / "checkpoint" / f"{part}.safetensors").read_bytes() for part in ("model", "state")]
        ends.append((rows, files))
    assert ends[0] == ends[1]


def test_a_row_of_a_run_that_resumes_at_its_end_has_the_norm_too(tmp_path):
    train(method(), steps=4, directory=tmp_path, evaluate_every=3)
    text = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(text[:-1]))  # killed between the checkpoint and the row
    _, _, result = train(method(), steps=4, directory=tmp_path, resume=True, evaluate_every=3)
    assert result.metrics["gradient_norm"] == json.loads(text[-1])["gradient_norm"]


def test_a_checkpoint_from_before_there_was_accumulation_goes_on(tmp_path):
    how = Method((Group("*", "adam", 0.01),), points=12)
    train(how, steps=2, directory=tmp_path)
    path = tmp_path / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    settings = dict(state["dict"])["methods"]["list"][0]["dict"]
    settings[:] = [pair for pair in settings if pair[0] not in ("accumulate", "clip", "warmup")]
    path.write_text(json.dumps(state))
    assert train(how, steps=3, directory=tmp_path, resume=True)[2].resumed_from == 2


@pytest.mark.parametrize(
    ("objective", "how", "text"),
    [
        (Sine(), Method(points=8, accumulate=2), r"accumulate=2 needs divide\(batch, count\), which Sine has not"),
        (Sine(), Method((Group("*", "lbfgs"),), points=8, clip=1.0), "clip=1.0 does not go with lbfgs.*take adamw"),
        (Sine(), Method((Group("*.bias"), Group("*", "arc")), points=8, clip=1.0), "clip=1.0 does not go with arc"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(objective, how, text):
    with pytest.raises(UsageError, match=text):
        fit(network(), objective, how, Budget(steps=1), progress=False)


def test_what_a_later_method_cannot_have_is_said_before_the_first_begins():
    steps = []
    how = (method(), method(groups=(Group("*", "lbfgs"),), accumulate=2, clip=None))
    with pytest.raises(UsageError, match="accumulate=2 does not go with lbfgs"):
        train(how, on_step=lambda step, model: steps.append(step))
    assert not steps


def test_line_searches_take_no_batches_in_parts():
    with pytest.raises(UsageError, match="accumulate=2 does not go with ssbroyden, which reads more than plain"):
        train(Method((Group("*", "ssbroyden"),), points=12, accumulate=2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"accumulate": 0}, "accumulate must lie between 1 and points=12, not 0"),
        ({"accumulate": 13}, "accumulate must lie between 1 and points=12, not 13"),
        ({"clip": 0.0}, "clip must be None or a positive number, not 0.0"),
        ({"clip": float("nan")}, "clip must be None or a positive number, not nan"),
        ({"warmup": 1.0}, r"warmup is a part of the steps and must lie in \[0, 1\), not 1.0"),
        ({"warmup": -0.1}, r"warmup is a part of the steps and must lie in \[0, 1\), not -0.1"),
    ],
)
def test_values_out_of_range_are_refused(changes, text):
    with pytest.raises(UsageError, match=text):
        method(**changes)
