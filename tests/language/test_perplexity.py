"""Perplexity by length is the definition's, at the same places for all lengths, and what is too long is told."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome._errors import UsageError, is_out_of_memory
from lissome.language import memory
from lissome.language import perplexity as module
from lissome.language.memory import available_memory
from lissome.language.perplexity import perplexity_by_length
from tests.language.small import Echo
from tests.oracles.perplexity import nats_by_window, summary

IDS = torch.randint(11, (400,), generator=torch.Generator().manual_seed(0)).numpy().astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    scored=st.integers(1, 12),
    windows=st.integers(1, 5),
    batch=st.integers(1, 90),
    count=st.integers(41, 120),
)
def test_scores_are_those_of_the_definition(lengths, scored, windows, batch, count):
    model, ids = Echo(11), IDS[:count]
    found = perplexity_by_length(model, ids, lengths, scored=scored, windows=windows, tokens_at_once=batch)
    assert [each.length for each in found] == lengths
    for each in found:
        truth = nats_by_window(
            model.eval(),
            ids.tolist(),
            each.length,
            longest=max(lengths),
            shortest=min(lengths),
            scored=scored,
            windows=windows,
        )
        assert each.each == pytest.approx(truth, rel=1e-11)
        nats, perplexity, error = summary(truth)
        assert (each.nats, each.perplexity) == pytest.approx((nats, perplexity), rel=1e-11)
        assert each.windows == len(truth)
        assert each.error == pytest.approx(error, abs=1e-12) if each.windows > 1 else math.isnan(each.error)
        assert each.scored == min(scored, *lengths)


class Watch(nn.Module):
    """Uniform logits; keeps what it was given."""

    def __init__(self, size):
        super().__init__()
        self.size, self.given = size, []

    def forward(self, tokens, last):
        self.given.append((tokens, last, self.training))
        return torch.zeros(len(tokens), last, self.size)


def test_windows_of_all_lengths_end_at_the_same_positions():
    model = Watch(1000)
    found = perplexity_by_length(model, np.arange(1000), [128, 16, 64], scored=32, windows=9)
    assert all(each.nats == pytest.approx(math.log(1000)) for each in found)
    assert all(each.perplexity == pytest.approx(1000) for each in found)
    assert all(each.error == pytest.approx(0, abs=1e-6) for each in found)
    seen = {}
    for tokens, last, training in model.given:
        assert last == 16  # the shortest length is shorter than what was to be scored
        assert not training
        seen.setdefault(tokens.shape[1], []).extend(tokens[:, -1].tolist())
    assert list(seen) == [16, 64, 128]  # the cheap ones first
    assert seen[16] == seen[64] == seen[128]
    assert (seen[16][0], seen[16][-1], len(seen[16])) == (127, 998, 9)
    assert model.training


def test_no_token_is_scored_twice():
    found = perplexity_by_length(Watch(9), IDS % 9, [50], scored=25, windows=1000)
    assert found[0].windows == 1 + (399 - 50) // 25
    assert perplexity_by_length(Watch(9), IDS[:51] % 9, [50], windows=7)[0].windows == 1


def test_a_byte_costs_what_the_scored_tokens_cost_over_their_bytes():
    widths = np.arange(1, 12)
    for each in perplexity_by_length(Echo(11), IDS, [20, 60], scored=5, windows=4, widths=widths):
        scored = [IDS[end - 4 : end + 1] for end in (60, 173, 286, 399)]  # evenly from the greatest length to the end
        bits = sum(nats * 5 for nats in each.each) / math.log(2)
        assert each.bits_per_byte == pytest.approx(bits / sum(int(id) + 1 for ids in scored for id in ids), rel=1e-12)
    assert perplexity_by_length(Echo(11), IDS, [20])[0].bits_per_byte is None


def test_as_many_tokens_go_through_at_once_as_asked():
    model = Watch(9)
    perplexity_by_length(model, IDS % 9, [10, 40, 100], scored=5, windows=20, tokens_at_once=80)
    assert [tuple(tokens.shape) for tokens, _, _ in model.given] == [
        *[(8, 10), (8, 10), (4, 10)], *[(2, 40)] * 10, *[(1, 100)] * 20
    ]  # fmt: skip


def test_tensors_and_arrays_are_scored_alike():
    one = perplexity_by_length(Echo(11), IDS, [20])
    assert perplexity_by_length(Echo(11), torch.from_numpy(IDS.astype(np.int64)), [20]) == one
    assert perplexity_by_length(Echo(11), IDS.astype("<u4"), (20, 20)) == one * 2


def test_logits_of_half_precision_are_scored_in_float32():
    half = perplexity_by_length(Echo(11, dtype=torch.bfloat16), IDS, [20])[0]
    assert half.nats == pytest.approx(perplexity_by_length(Echo(11), IDS, [20])[0].nats, rel=0.05)


def test_it_tells_of_each_length_that_is_done():
    told = []
    perplexity_by_length(Watch(9), IDS % 9, [30, 10], tick=told.append)
    assert told == [10, 30]


def test_a_text_that_is_too_short_is_told_with_the_greatest_legal_length():
    with pytest.raises(
        UsageError, match="^the held-out text has 400 tokens, too few for length 500; legal are lengths up to 399$"
    ):
        perplexity_by_length(Watch(9), IDS, [10, 500])
    assert perplexity_by_length(Watch(11), IDS, [399])[0].windows == 1
    with pytest.raises(UsageError, match="lengths up to 0$"):
        perplexity_by_length(Watch(9), IDS[:0], [10])


@pytest.mark.parametrize(
    ("lengths", "named", "words"),
    [
        ([], {}, "lengths are empty; give at least one"),
        ([8, 0], {}, "a length is 0; legal are whole numbers of at least 1"),
        ([8], {"scored": 0}, "scored is 0"),
        ([8], {"windows": -1}, "windows is -1"),
        ([8], {"tokens_at_once": 0}, "tokens_at_once is 0"),
    ],
)
def test_what_is_asked_wrongly_is_told(lengths, named, words):
    with pytest.raises(UsageError, match=words):
        perplexity_by_length(Watch(9), IDS, lengths, **named)


def test_a_length_beyond_memory_is_refused_before_anything_runs():
    model = Watch(9)
    with pytest.raises(
        UsageError,
        match=r"^length 300 needs about 1\.3 GiB and 0\.1 GiB of memory are left; legal are lengths up to 100$",
    ):
        perplexity_by_length(model, IDS, [50, 300], bytes_of=lambda n: 15_000 * n * n, available=15_000 * 100 * 100)
    assert model.given == []
    with pytest.raises(UsageError, match="not even one token fits$"):
        perplexity_by_length(model, IDS, [50], bytes_of=lambda n: n, available=0)


def test_the_system_is_asked_for_memory_when_none_is_named(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda device: 20_000 if device.type == "cpu" else None)
    with pytest.raises(UsageError, match="legal are lengths up to 141$"):
        perplexity_by_length(Watch(9), IDS, [200], bytes_of=lambda n: n * n)


def test_fewer_windows_go_through_at_once_where_memory_is_short():
    model = Watch(9)
    perplexity_by_length(model, IDS % 9, [10], scored=5, windows=20, bytes_of=lambda n: 100 * n, available=6_999)
    assert [len(tokens) for tokens, _, _ in model.given] == [6, 6, 6, 2]


class Full(Echo):
    """A model that finds no memory for more than some tokens at once."""

    def __init__(self, most, error):
        super().__init__(11)
        self.most, self.error = most, error

    def forward(self, tokens, last=None):
        if tokens.numel() > self.most:
            raise self.error
        return super().forward(tokens, last)


CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)
WINDOWS = RuntimeError("[enforce fail at alloc_cpu.cpp:88] data. DefaultCPUAllocator: not enough memory: you tried")
NONE_LEFT = [CPU, WINDOWS, torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]


@pytest.mark.parametrize("error", NONE_LEFT, ids=range(4))
def test_where_memory_runs_out_fewer_windows_are_tried_and_one_is_refused(error):
    expected = perplexity_by_length(Echo(11), IDS, [20, 40], windows=7)
    model = Full(80, error)
    found = perplexity_by_length(model, IDS, [20, 40], windows=7)
    assert [each.each for each in found] == [pytest.approx(each.each) for each in expected]
    assert model.seen[-1] == (1, 40)
    with pytest.raises(UsageError, match="^length 90 does not fit in memory; take lengths below it$"):
        perplexity_by_length(model, IDS, [20, 90])
    assert model.training


def test_memory_that_is_truly_not_there_is_told():
    class Greedy(Watch):
        def forward(self, tokens, last):
            return torch.zeros(1 << 50)

    with pytest.raises(UsageError, match="length 20 does not fit in memory"):
        perplexity_by_length(Greedy(9), IDS, [20])


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="^a shape is wrong$"):
        perplexity_by_length(Full(1, RuntimeError("a shape is wrong")), IDS, [20])
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_memory_is_what_the_system_and_the_container_leave(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    real = available_memory(cpu)
    assert real is None or 1 << 20 < real < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert available_memory(cpu) == 512_000
    (tmp_path / "memory.max").write_text("400000\n")
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 50000\n")
    assert available_memory(cpu) == 150_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(cpu) == 512_000
    assert available_memory(torch.device("meta")) is None


def test_the_whole_memory_counts_where_no_more_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "none")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    whole = available_memory(torch.device("cpu"))
    assert whole is not None
    assert whole > 1 << 28
    monkeypatch.delattr(memory.os, "sysconf")
    assert available_memory(torch.device("cpu")) is None
