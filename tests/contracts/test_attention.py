"""What every recipe promises, over random recipes: the same functions that hold a stage of a user."""

import dataclasses

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
    plan = data.draw(plans(detached=name != "gradients", summed=name != "half"))
    PROPERTIES[name](plan.recipe(), plan.case)


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name not in LACKING])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_v2_as_published_leaks_nothing(name, data):
    plan = data.draw(plans(hidden="published", detached=name != "gradients", summed=name != "half"))
    PROPERTIES[name](plan.recipe(), plan.case)


def _frames(rows, length):
    """A full pass, a step after it, a chunk, and a padded row."""
    tokens = torch.randint(0, 8, (rows, length), generator=torch.Generator().manual_seed(rows))
    whole = Frame.full(length, tokens=tokens)
    holes = torch.ones(rows, length).bool()
    holes[0, : length // 2] = False
    padded = Frame.full(length, tokens=tokens, present=holes)
    return [whole, whole.rows(length - 1, length), whole.rows(length // 2, length), padded]


def _assert_alike(plan, frame, scale, dtype, ways):
    """Hold ways to naive, in the output and every gradient."""
    recipe, case, rows = plan.recipe().to(dtype), plan.case, frame.queries.shape[1]
    q = torch.randn(case.batch, case.heads, rows, case.dimension, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(case.batch, case.groups, case.length, case.dimension, dtype=dtype) for _ in "kv")
    wanted = [q, k.requires_grad_(), v.requires_grad_(), *recipe.parameters()]
    truth = attend(q, k, v, frame, recipe, scale=scale, backend="naive")
    weights = torch.randn_like(truth)
    slopes = torch.autograd.grad(truth, wanted, weights, allow_unused=True, materialize_grads=True)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-3, "atol": 3e-4}
    for name in ways(q, k, v, frame, recipe):
        found = attend(q, k, v, frame, recipe, scale=scale, backend=name)
        torch.testing.assert_close(found, truth, **tolerance)
        ours = torch.autograd.grad(found, wanted, weights, allow_unused=True, materialize_grads=True)
        for slope, true in zip(ours, slopes, strict=True):
            torch.testing.assert_close(slope, true, **tolerance)


SCALES, DTYPES = st.none() | st.floats(0.1, 2.0), st.sampled_from([torch.float64, torch.float32])
SERVED = {  # by each way: it may not refuse these, on whole frames
    "compact": {
        "position": "rotary",
        "refine": "none",
        "normalize": "softmax",
        "validity": "causal & (sinks(1) | separators(3) | window(2))",
    },
    "sdpa": {"position": "rotary", "refine": "none", "normalize": "softmax"},
    "dape": {"position": "kerple", "refine": "dape", "normalize": "softmax"},
    "convolved": {"position": "alibi", "refine": "dape(3)", "normalize": "softmax"},
    "self_adjust": {"position": "kerple", "refine": "none", "normalize": "self_adjust(4)"},
}


@examples
@given(plan=plans(), scale=SCALES, dtype=DTYPES)
def test_every_way_that_does_not_refuse_equals_naive(plan, scale, dtype):
    def ways(*given):
        return [name for name, way in SPECIAL.items() if not way.refusal(*given, 0.0)]

    for frame in _frames(plan.case.batch, plan.case.length):
        _assert_alike(plan, frame, scale, dtype, ways)


@pytest.mark.parametrize("name", SPECIAL)
@settings(max_examples=10, deadline=None)
@given(plan=plans(), scale=SCALES, dtype=DTYPES)
def test_every_way_serves_what_it_is_for_and_equals_naive(name, plan, scale, dtype):
    plan = dataclasses.replace(plan, **{"validity": "causal", **SERVED[name]})
    for frame in _frames(plan.case.batch, plan.case.length)[:3]:
        _assert_alike(plan, frame, scale, dtype, lambda *_: [name])


@pytest.mark.parametrize(
    ("named", "size", "names"),
    [
        ("sdpa", (64, 64), {}),
        ("sdpa", (64, 64), {"validity": "causal & window(3)"}),
        ("sdpa", (128, 64), {"validity": "causal & (sinks(2) | window(3))"}),
        ("compact", (2, 512), {"validity": "causal & (sinks(2) | window(3))"}),
        ("dape", (64, 64), {"position": "kerple", "refine": "dape"}),
        ("convolved", (64, 64), {"refine": "dape(3)"}),
        ("self_adjust", (64, 64), {"normalize": "self_adjust(4)"}),
    ],
)
def test_a_way_of_its_own_is_taken_where_it_serves(named, size, names):
    texts, length = size
    x = torch.empty(texts, 4, length, 8, device="meta")
    frame, recipe = Frame.full(length), attention(4, 8, **names)
    assert f"; by {named}: made for such recipes; " in explain(x, x, frame, recipe)


@pytest.mark.parametrize("length", [2, 5, 9])
def test_queries_behind_a_past_give_the_last_rows_of_the_whole(length):
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
