"""What every recipe promises, over random recipes: the same functions that hold a stage of a user."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.attention import Attention, Frame, GrowingCache, attend, causal, everything, explain
from lissome.attention.backends import naive, sdpa
from lissome.testing import PROPERTIES, Case
from tests.attention.drawn import plans

LACKING = {"cache", "left", "right"}  # what V2 as published does not keep
examples = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("name", PROPERTIES)
@examples
@given(data=st.data())
def test_every_recipe_holds(name, data):
    plan = data.draw(plans(detached=name != "gradients"))
    PROPERTIES[name](plan.recipe(), plan.case)


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name not in LACKING])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_v2_as_published_leaks_nothing(name, data):
    plan = data.draw(plans(hidden="published", detached=name != "gradients"))
    PROPERTIES[name](plan.recipe(), plan.case)


@examples
@given(
    groups=st.integers(1, 3),
    share=st.integers(1, 3),
    length=st.integers(1, 9),
    step=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    scale=st.none() | st.floats(0.1, 2.0),
)
def test_fused_equals_naive(groups, share, length, step, dtype, scale):
    recipe, frame = Attention(), Frame.full(length)
    frame = frame.rows(length - 1, length) if step else frame
    q = torch.randn(2, groups * share, frame.queries.shape[1], 4, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(2, groups, length, 4, dtype=dtype, requires_grad=True) for _ in "kv")
    assert sdpa.serves(q, k, frame, recipe)
    assert explain(q, k, frame, recipe).endswith("by sdpa")
    found = attend(q, k, v, frame, recipe, scale=scale)
    truth = attend(q, k, v, frame, recipe, scale=scale, backend="naive")
    tolerance = {"rtol": 0, "atol": 1e-10 if dtype is torch.float64 else 3e-5}
    torch.testing.assert_close(found, truth, **tolerance)
    weights = torch.randn_like(truth)
    for ours, theirs in zip(
        torch.autograd.grad(found, (q, k, v), weights), torch.autograd.grad(truth, (q, k, v), weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("length", [2, 5, 9])
def test_fused_takes_no_part_of_a_text_with_a_past(length):
    """A square mask from the corner would be wrong there: the queries are the last ones."""
    frame = Frame.full(length + 2).rows(2, length + 2)
    q, k = torch.randn(1, 2, length, 4), torch.randn(1, 2, length + 2, 4)
    assert not sdpa.serves(q, k, frame, Attention())
    whole = naive.attend(torch.cat((torch.randn(1, 2, 2, 4), q), 2), k, k, Frame.full(length + 2), Attention())
    torch.testing.assert_close(attend(q, k, k, frame, Attention()), whole[:, :, 2:])


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_a_cache_survives_many_forwards(tokens):
    """Buffers grow, and what was handed out before stays what it was."""
    cache, k = GrowingCache(2), torch.randn(2, 1, 3 * tokens, 2)
    handed = []
    for step in range(3):
        part = slice(step * tokens, (step + 1) * tokens)
        cache.begin(torch.zeros(2, tokens).long())
        for layer in (0, 1):
            keys, values = cache.append(layer, (layer + 1) * k[:, :, part], k[:, :, part])
            handed.append((keys, values, layer + 1, (step + 1) * tokens))
    for keys, values, factor, stop in handed:
        assert torch.equal(keys, factor * k[:, :, :stop])
        assert torch.equal(values, k[:, :, :stop])


def test_the_case_of_a_rule_that_looks_ahead_is_not_asked_for_its_future():
    recipe = Attention(everything).double()
    PROPERTIES["future"](recipe, Case())
    assert not everything.causal
    assert causal.causal
