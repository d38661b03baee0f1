"""The kernels of the compact way against the naive way, outputs and gradients."""

import math

import pytest
import torch

from lissome.attention import Attention, Frame, causal, separated, window
from lissome.attention.backends import naive
from lissome.attention.backends.triton import compact, registered
from lissome.attention.backends.triton.shapes import Tile
from tests.attention.interpreted import DEVICE, SMALL, TOLERANCE, drawn, near

SEPARATORS = (3, 5)
ops = torch.ops.lissome


def tokens_of(batch, keys):
    return torch.randint(0, 16, (batch, keys)).to(DEVICE)


def both(q, k, v, tokens, rule, present=None, tile=SMALL):
    """Return output and gradients by kernels and by naive."""
    rows, keys = q.shape[2], k.shape[2]
    frame = Frame.full(keys, tokens=tokens, present=present, device=q.device)
    scale, recipe = 1 / math.sqrt(q.shape[3]), Attention(rule)
    out = naive.attend(q, k, v, frame.rows(keys - rows, keys), recipe, scale)
    slope = torch.randn_like(out)
    truth = [out.detach(), *torch.autograd.grad(out, (q, k, v), slope)]
    kept = torch.zeros_like(frame.keys, dtype=torch.bool) if rule.split.kept is None else rule.split.kept(frame)
    given = (q, k, v, kept, present, rule.split.near, scale)
    with torch.no_grad():
        out, logs = compact.forward(*given, tile=tile)
        found = compact.backward(slope, out, logs, *given, tile=tile)
    return [out, *found], truth


def test_ragged_texts_groups_queries_at_the_end_and_sides_of_any_size():
    q, k, v = drawn((2, 2, 19, 24), (2, 1, 37, 24), (2, 1, 37, 8))
    tokens = tokens_of(2, 37)
    tokens[1, ::2] = 3  # far more separators than the other text has
    near(*both(q, k, v, tokens, separated(SEPARATORS, initial=2, near=7)))


@pytest.mark.parametrize("wide", [1, 16, 35, 99])
def test_windows_from_the_token_itself_to_more_than_the_text(wide):
    q, k, v = drawn(*[(1, 1, 40, 16)] * 3)
    near(*both(q, k, v, tokens_of(1, 40), separated(SEPARATORS, near=wide)))


@pytest.mark.parametrize("rule", [
    separated((99,), initial=1, near=5), separated(range(16), near=5), causal & window(5)
], ids=["no separators", "all are separators", "a window alone"])  # fmt: skip
def test_texts_of_one_kind_of_token(rule):
    q, k, v = drawn(*[(1, 1, 34, 16)] * 3)
    near(*both(q, k, v, tokens_of(1, 34), rule))


@pytest.mark.parametrize("tile", [Tile(16, 32, 4, 1), Tile(32, 16, 4, 1)])
def test_tiles_that_are_not_square(tile):
    q, k, v = drawn(*[(1, 1, 70, 16)] * 3)
    tokens = tokens_of(1, 70)
    tokens[:, 5:45] = 3  # kept keys without a mask, too
    near(*both(q, k, v, tokens, separated(SEPARATORS, near=9), tile=tile))


def test_padding_on_either_side_gets_nothing():
    q, k, v = drawn(*[(3, 1, 34, 16)] * 3)
    present = torch.ones(3, 34, dtype=torch.bool, device=DEVICE)
    present[0, :11], present[1, 20:], present[2] = False, False, False
    tokens = tokens_of(3, 34)
    tokens[1, :12] = 3
    ours, truth = both(q, k, v, tokens, separated(SEPARATORS, initial=2, near=6), present)
    near(ours, truth)
    assert not any(x[~present[:, None].expand(x.shape[:3])].any() for x in ours)


def test_half_precision_is_summed_in_float32():
    q, k, v = drawn(*[(1, 2, 34, 16)] * 3, dtype=torch.float16)
    ours, truth = both(q, k, v, tokens_of(1, 34), separated(SEPARATORS, near=9))
    assert [x.dtype for x in ours] == [torch.float32, *[torch.float16] * 3]
    near(ours, truth, 4e-3)


def test_large_scores_stay_finite():
    q, k, v = drawn(*[(1, 1, 34, 16)] * 3, factor=12.0)
    ours, truth = both(q, k, v, tokens_of(1, 34), separated(SEPARATORS, near=5))
    near(ours, truth, max(TOLERANCE, 1e-7))


def test_what_no_query_sees_changes_no_bit():
    q, k, v = drawn(*[(1, 1, 40, 16)] * 3, trained=False)
    kept = torch.isin(tokens_of(1, 40), torch.tensor(SEPARATORS, device=DEVICE))
    out = compact.forward(q, k, v, kept, None, 5, 0.25, tile=SMALL)[0]
    for row in (9, 33):
        behind = row - torch.arange(40, device=DEVICE)
        sees = ((behind >= 0) & (kept[0] | (behind < 5)))[:, None]
        other = compact.forward(
            q, torch.where(sees, k, 9 - k), torch.where(sees, v, -v), kept, None, 5, 0.25, tile=SMALL
        )
        assert torch.equal(other[0][:, :, row], out[:, :, row])


@pytest.mark.parametrize("padded", [False, True])
def test_kernels_give_what_the_operator_does(padded):
    """Tiles of the usual size; one row of kept keys for all texts where nothing is padded."""
    q, k, v = drawn((2, 4, 36, 16), (2, 2, 36, 16), (2, 2, 36, 8), dtype=torch.float32, trained=False)
    kept = torch.rand(1 + padded, 36, device=DEVICE) < 0.2
    present = torch.ones(2, 36, dtype=torch.bool, device=DEVICE) if padded else None
    if present is not None:
        present[0, :7] = False
    given = (q, k, v, kept, present, 6, 0.25)
    ours, theirs = registered.forward_compact(*given), ops.compact(*given)
    near(ours, theirs, 2e-5)
    slope = torch.randn_like(ours[0])
    ours = registered.backward_compact(slope, *ours, *given)
    near(ours, ops.compact_backward(slope, *theirs, *given), 2e-5)


def test_what_no_kernel_takes_stays_with_the_operators_own_operations():
    q, k, v = drawn(*[(1, 2, 6, 8)] * 3, dtype=torch.float64, trained=False)
    given = (q, k, v, torch.ones(1, 6, dtype=torch.bool, device=DEVICE), None, 2, 0.25)
    ours, theirs = registered.forward_compact(*given), ops.compact(*given)
    near(ours, theirs, 0)
    slopes = registered.backward_compact(theirs[0], *ours, *given)
    near(slopes, ops.compact_backward(theirs[0], *theirs, *given), 0)


def test_kernels_are_added_for_cuda():
    registered.add()
    for name in ("compact", "compact_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"lissome::{name}", "CUDA")
