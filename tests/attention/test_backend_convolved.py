"""DAPE V2 by tiles: what naive gives, for every kernel, at the edges of the keys and of the chunks."""

import pytest
import torch
from hypothesis import given, settings

from lissome.attention import Frame
from lissome.attention.backends import chunks, convolved
from tests.attention.alike import Plan, assert_alike, plans


@given(plan=plans([3, 5, 9], longest=9))
@settings(max_examples=40, deadline=None)
def test_small_shapes_give_what_naive_gives(plan):
    assert_alike(convolved, plan)


@given(plan=plans([3, 5], longest=150))
@settings(max_examples=8, deadline=None)
def test_long_shapes_give_what_naive_gives(plan):
    assert_alike(convolved, plan)


@pytest.mark.parametrize("form", ["residual", "plain", "sum"])
@pytest.mark.parametrize(("kernel", "keys"), [(3, 1), (5, 2), (7, 3), (41, 1), (41, 20)])
def test_kernels_wider_than_the_keys(kernel, form, keys):
    """Most columns that the kernel reads lie outside: both edges are at work in every row."""
    assert_alike(convolved, Plan(kernel=kernel, form=form, queries=keys, keys=keys))


def test_rows_of_a_chunk_do_not_meet():
    """A kernel reads over the end of a row, where zeros stand, and never the first keys of the next row."""
    plan = Plan(kernel=3, batch=1, queries=100, keys=100)
    q, k, v, _ = plan.tensors()
    truth = convolved.attend(q, k, v, plan.frame(), plan.recipe())
    assert chunks.CHUNK > 2 * 101
    for row in (40, 41):
        other = q.detach().clone()
        other[:, :, row] += 5
        found = convolved.attend(other, k, v, plan.frame(), plan.recipe())
        changed = (found != truth).any(-1).any(1)[0]
        assert changed.nonzero().flatten().tolist() == [row]


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_step_of_one_token_gives_the_last_row(kernel):
    plan = Plan(kernel=kernel, queries=9, keys=9)
    q, k, v, _ = plan.tensors()
    whole = convolved.attend(q, k, v, plan.frame(), plan.recipe())
    for cut in (1, 2, 5, 9):
        step = Frame.full(cut).rows(cut - 1, cut)
        found = convolved.attend(q[:, :, cut - 1 : cut], k[:, :, :cut], v[:, :, :cut], step, plan.recipe())
        torch.testing.assert_close(found[:, :, 0], whole[:, :, cut - 1], rtol=1e-12, atol=1e-12)
