"""A refinement that reads neighbours over a cache that has dropped keys, against the mask over the whole text."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.attention import Attention, Dape, Frame, Kerple, SelfAdjust, Validity, attend, causal, separated
from lissome.attention.backends import naive
from tests.attention.test_separator_cache import VOCABULARY, Stream, drawn, over, seen_by_lists, streams

LONG = 60


def recipe(kernel, rule=causal):
    return Attention(rule, Kerple(2), Dape(2, kernel=kernel, width=4), SelfAdjust(4)).double()


def assert_as_masked(stream, made, rule):
    """Hold a cache to the text under a mask; return whether keys were dropped."""
    (q, k, v), cache = drawn(stream), stream.cache()
    whole = Frame.full(q.shape[2], tokens=stream.tokens, present=stream.present)
    truth = naive.attend(q, k, v, whole, Attention(rule, made.bias, made.refine, made.normalize))
    torch.testing.assert_close(over(cache, stream, made, q, k, v), truth, rtol=1e-9, atol=1e-9)
    return cache.dropped


@pytest.mark.parametrize("kernel", [3, 9])
@settings(max_examples=6, deadline=None)
@given(stream=streams(20), padding=st.integers(0, 6))
def test_what_was_dropped_is_as_masked(kernel, stream, padding):
    there = torch.ones_like(stream.present)
    there[0, :padding] = False  # on the left; a hole between is a column of its own
    stream = dataclasses.replace(stream, present=there)
    seen = seen_by_lists(stream)
    assert_as_masked(stream, recipe(kernel), causal & Validity(lambda frame: seen))


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_model_that_was_trained_with_the_mask_does_not_notice(kernel, chunk):
    rule = separated({3}, initial=2, near=5)
    tokens = torch.randint(0, VOCABULARY, (2, LONG), generator=torch.Generator().manual_seed(0))
    sizes = {"initial": 2, "separators_kept": 30, "local": 5, "capacity": 45}
    stream = Stream(tokens, torch.ones_like(tokens).bool(), list(range(0, LONG, chunk)), {3}, sizes)
    assert assert_as_masked(stream, recipe(kernel, rule), rule)


def test_without_the_gaps_neighbours_are_others():
    made, kept = recipe(3), torch.tensor([[0, 1, 5, 6]])
    q, k = torch.randn(1, 2, 1, 4).double(), torch.randn(1, 2, 4, 4).double()
    here, gone = (Frame(kept[:, -1:], kept, gaps=gaps) for gaps in (False, True))
    assert not torch.allclose(attend(q, k, k, here, made), attend(q, k, k, gone, made))


def test_gradients_go_through():
    made, kept = recipe(3), torch.tensor([[0, 1, 5, 6], [0, 3, 4, 6]])
    q, k = torch.randn(2, 2, 2, 4).double(), torch.randn(2, 2, 4, 4).double()
    frame = Frame(kept[:, -2:], kept, gaps=True)
    assert torch.autograd.gradcheck(lambda q, k: attend(q, k, k, frame, made), (q.requires_grad_(), k.requires_grad_()))
