"""What every recipe promises, over random recipes: the same functions that hold a stage of a user."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.attention import Attention, Frame, GrowingCache, attend, attention, causal, everything, explain
from lissome.attention.attend import SPECIAL
from lissome.attention.backends import naive
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


def _frames(rows, length):
    """A full pass, a step after it, a chunk, and a padded row."""
    tokens = torch.randint(0, 8, (rows, length), generator=torch.Generator().manual_seed(rows))
    whole = Frame.full(length, tokens=tokens)
    holes = torch.ones(rows, length).bool()
    holes[0, : length // 2] = False
    padded = Frame.full(length, tokens=tokens, present=holes)
    return [whole, whole.rows(length - 1, length), whole.rows(length // 2, length), padded]


@examples
@given(plan=plans(), scale=st.none() | st.floats(0.1, 2.0), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_every_way_that_does_not_refuse_equals_naive(plan, scale, dtype):
    recipe, case = plan.recipe().to(dtype), plan.case
    for frame in _frames(case.batch, case.length):
        rows = frame.queries.shape[1]
        q = torch.randn(case.batch, case.heads, rows, case.dimension, dtype=dtype, requires_grad=True)
        k, v = (torch.randn(case.batch, case.groups, case.length, case.dimension, dtype=dtype) for _ in "kv")
        wanted = [q, k.requires_grad_(), v.requires_grad_(), *recipe.parameters()]
        truth = attend(q, k, v, frame, recipe, scale=scale, backend="naive")
        weights = torch.randn_like(truth)
        slopes = torch.autograd.grad(truth, wanted, weights, allow_unused=True, materialize_grads=True)
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-3, "atol": 3e-4}
        for name, way in SPECIAL.items():
            if way.refusal(q, k, v, frame, recipe, 0.0):
                continue
            found = attend(q, k, v, frame, recipe, scale=scale, backend=name)
            torch.testing.assert_close(found, truth, **tolerance)
            ours = torch.autograd.grad(found, wanted, weights, allow_unused=True, materialize_grads=True)
            for slope, true in zip(ours, slopes, strict=True):
                torch.testing.assert_close(slope, true, **tolerance)


@pytest.mark.parametrize("names", [{}, {"normalize": "self_adjust(4)"}, {"validity": "causal & window(3)"}])
def test_a_way_of_its_own_is_taken_where_it_serves(names):
    x = torch.empty(64, 4, 64, 8, device="meta")
    frame, recipe = Frame.full(64), attention(4, 8, **names)
    named = "self_adjust" if "normalize" in names else "sdpa"
    assert f"; by {named}: made for such recipes; " in explain(x, x, frame, recipe)


@pytest.mark.parametrize("length", [2, 5, 9])
def test_fused_takes_no_part_of_a_text_with_a_past(length):
    """A square mask from the corner would be wrong there: the queries are the last ones."""
    frame = Frame.full(length + 2).rows(2, length + 2)
    q, k = torch.randn(1, 2, length, 4), torch.randn(1, 2, length + 2, 4)
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
