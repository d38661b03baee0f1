"""The objective of a language model: windows, loss and figures."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome._types import Divisible, Objective
from lissome.language.bpe import Bpe
from lissome.language.score import cross_entropy, perplexity
from lissome.language.text import Text, split_tokens
from lissome.language.vocabulary import Bytes
from lissome.optim import Budget, Group, Method, fit
from tests.language.small import Echo

WORDS = "to be or not to be, that is the question; whether 'tis nobler in the mind, ähem " * 40
IDS = Bytes().encode(WORDS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def text(length=16, **named):
    return Text(*split_tokens(IDS), length=length, **named)


def test_it_is_an_objective():
    assert isinstance(text(), Objective)
    assert isinstance(text(), Divisible)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_windows_are_runs_of_training_tokens(dtype):
    ids = np.arange(200).astype(dtype)
    drawn = Text(*split_tokens(ids), length=7).sample(seeded(), 3000)["tokens"]
    assert drawn.shape == (3000, 8)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(8))
    assert set(drawn[:, 0].tolist()) == set(range(180 - 7))  # all starts, and never a held-out token
    assert int(drawn.max()) == 179


def test_batches_come_from_the_generator_alone():
    one, other = text().sample(seeded(3), 9)["tokens"], text().sample(seeded(3), 9)["tokens"]
    assert torch.equal(one, other)
    assert not torch.equal(one, text().sample(seeded(4), 9)["tokens"])


def test_the_last_tenth_is_held_out():
    train, held = split_tokens(IDS)
    assert len(held) == math.ceil(len(IDS) / 10)
    assert np.array_equal(np.concatenate([train, held]), IDS)
    assert np.shares_memory(train, IDS)
    assert len(split_tokens(IDS, 0.25)[1]) == math.ceil(len(IDS) / 4)
    for part in (0, 1, -0.1, math.nan):
        with pytest.raises(UsageError, match=f"the held-out part is {part}; legal is a number between 0 and 1"):
            split_tokens(IDS, part)


def test_loss_is_the_mean_over_tokens_one_by_one():
    objective, model = text(5), Echo(256).eval()
    batch = objective.sample(seeded(), 3)
    loss = objective.loss(model, batch)
    total = 0.0
    for row in batch["tokens"].tolist():
        for place in range(1, 6):
            logits = model(torch.tensor([row[:place]]))[0, -1]
            total -= float(logits.detach().softmax(0)[row[place]].log())
    assert float(loss.detach()) == pytest.approx(total / 15, rel=1e-12)
    assert loss.dtype == torch.float64


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_loss_of_a_batch_is_the_weighted_sum_of_its_parts(count):
    objective, model = text(), Echo(256).eval()
    batch = objective.sample(seeded(), 8)
    parts = objective.divide(batch, count)
    assert torch.equal(torch.cat([part["tokens"] for part, _ in parts]), batch["tokens"])
    total = sum(weight * objective.loss(model, part) for part, weight in parts)
    torch.testing.assert_close(total, objective.loss(model, batch), rtol=1e-12, atol=0)


def test_more_parts_than_rows_are_refused():
    with pytest.raises(UsageError, match="^a batch of 8 rows in 9 parts; legal are 1 to 8$"):
        text().divide(text().sample(seeded(), 8), 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_of_half_precision_are_scored_in_float32(dtype):
    logits = (5 * torch.randn(4, 6, 300, generator=seeded())).to(dtype).requires_grad_()
    targets = torch.randint(300, (4, 6), generator=seeded())
    found = cross_entropy(logits, targets)
    truth = F.cross_entropy(logits.detach().double().flatten(0, 1), targets.flatten(), reduction="none").view(4, 6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(found.mean(), logits)
    wide = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(wide, targets).mean(), wide)
    assert slope.dtype == dtype
    torch.testing.assert_close(slope.double(), expected, rtol=1e-2, atol=1e-6)


def test_half_precision_keeps_one_array_of_float32_for_the_backward_pass():
    logits = torch.randn(2, 8, 50, generator=seeded()).bfloat16().requires_grad_()
    kept = []

    def keep(tensor):
        if tensor.is_floating_point() and tensor.numel() >= logits.numel():
            kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(logits, torch.zeros(2, 8, dtype=torch.int64))
    assert len(set(kept)) == 1


def test_figures_are_of_all_windows_and_the_same_each_time():
    objective, model = text(16, vocabulary=Bytes(), scored=200), Echo(256).train()
    before = copy.deepcopy(model.state_dict())
    found = objective.evaluate(model)
    assert found == objective.evaluate(model) == text(16, vocabulary=Bytes(), scored=200).evaluate(model)
    rows = objective.validation
    assert len(rows) == 200 // 16 == 12
    assert objective.scored == 12 * 16
    model.eval()
    mean = float(F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).detach())
    assert found["validation_loss"] == pytest.approx(mean, rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert found["bits_per_byte"] == pytest.approx(mean / math.log(2), rel=1e-12)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_leaves_each_module_training_or_not_as_it_was():
    model = Echo(256).train()
    model.drop.eval()
    text().evaluate(model)
    assert (model.training, model.drop.training) == (True, False)


def test_held_out_windows_lie_over_the_whole_part_and_score_no_token_twice():
    ids = np.arange(1000).astype("<u2")
    rows = Text(*split_tokens(ids), length=16).validation
    assert len(rows) == 99 // 16
    scored = rows[:, 1:].flatten().tolist()
    assert len(set(scored)) == len(scored)
    assert (int(rows.min()), int(rows.max())) == (900, 999)


def test_bits_per_byte_counts_the_bytes_that_ids_stand_for():
    bpe = Bpe.train([WORDS], 290)
    assert bpe.end is not None
    ids = np.append(bpe.encode(WORDS), [bpe.end] * 3)
    objective = Text(*split_tokens(ids), length=8, vocabulary=bpe)
    targets = objective.validation[:, 1:].flatten().numpy()
    width = len(bpe.decode(targets[targets != bpe.end]).encode())
    assert objective.bytes == width > len(targets)
    found = objective.evaluate(Echo(290))
    assert found["bits_per_byte"] == pytest.approx(found["validation_loss"] * len(targets) / math.log(2) / width)
    assert "bits_per_byte" not in Text(*split_tokens(ids), length=8).evaluate(Echo(290))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(4, 300), length=st.integers(1, 40), scored=st.integers(1, 100))
def test_any_text_is_enough_or_told_what_is(count, length, scored):
    train, held = split_tokens(np.zeros(count, np.uint8))
    most = len(held) - 1
    if length <= most:
        objective = Text(train, held, length=length, scored=scored)
        assert objective.scored <= max(scored, length)
        assert objective.validation.shape[1] == length + 1
    else:
        with pytest.raises(UsageError, match=f"too short for length {length}: {len(train)} tokens to train on and"):
            Text(train, held, length=length)


def test_lengths_that_are_illegal_are_told():
    with pytest.raises(
        UsageError, match="^the text is too short for length 90: 90 tokens .* 10 held out; legal are lengths of 1 to 9"
    ):
        Text(*split_tokens(np.zeros(100, np.uint8)), length=90)
    with pytest.raises(UsageError, match="^length is 0; legal are 1 to 9$"):
        Text(*split_tokens(np.zeros(100, np.uint8)), length=0)
    with pytest.raises(UsageError, match="too short for length 1: 8 .* 1 held out; take a longer text$"):
        Text(*split_tokens(np.zeros(9, np.uint8)), length=1)


def test_perplexity_of_what_no_number_holds_is_infinite():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(800.0) == math.inf
    assert perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_training_lowers_the_figures():
    model = Echo(256, dtype=torch.float32)
    objective = text(16, vocabulary=Bytes(), scored=512)
    before = objective.evaluate(model)
    method = Method(groups=(Group(pattern="*", optimizer="adam", lr=3e-2),), points=16, resample_every=1)
    result = fit(model, objective, method, Budget(steps=80), seed=0, progress=False)
    assert result.metrics["validation_loss"] < 0.6 * before["validation_loss"]
