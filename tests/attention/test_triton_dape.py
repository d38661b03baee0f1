"""The kernels of DAPE and DAPE V2 against the naive way, outputs and gradients."""

import pytest
import torch

from lissome.attention import Attention, Dape, Frame, Kerple, causal
from lissome.attention.backends import naive, refined
from lissome.attention.backends.triton import dape
from lissome.attention.backends.triton.distances import distances
from tests.attention.interpreted import DEVICE, EXACT, TOLERANCE, drawn, near


def both(q, k, v, refine, bias=None, scale=0.25):
    """Return output and gradients by kernels and by naive; the parameters' last, but for a shift no softmax sees."""
    rows, keys = q.shape[2], k.shape[2]
    recipe = Attention(causal, bias, refine)
    named = {name: value for name, value in recipe.named_parameters() if name != "refine.outer.bias"}
    at, frame = [q, k, v, *named.values()], Frame.full(keys, device=q.device).rows(keys - rows, keys)
    out = naive.attend(q, k, v, frame, recipe, scale)
    slope = torch.randn_like(out)
    truth = [out.detach(), *torch.autograd.grad(out, at, slope)]
    numbers = refined.numbers_of(refine, bias, q, keys)
    residual = refine.form == "residual"
    with torch.no_grad():
        out, logs = dape.forward(q, k, v, *numbers, scale, residual)
        found = dape.backward(slope, q, k, v, *numbers, out, logs, scale, residual)
    assert [x.shape for x in found] == [x.shape for x in (q, k, v, *numbers)]
    pairs = [(x, dx) for x, dx in zip(numbers, found[3:], strict=True) if x.requires_grad]
    further = torch.autograd.grad([x for x, _ in pairs], list(named.values()), [dx for _, dx in pairs])
    return [out, *found[:3], *further], truth


def made(heads, dtype=EXACT, **named):
    return Dape(heads, width=5, **named).to(DEVICE, dtype), Kerple(heads).to(DEVICE, dtype)


@pytest.mark.parametrize("kernel", [1, 3])
def test_texts_groups_ragged_tiles_and_sides_of_any_size(kernel):
    near(*both(*drawn((2, 4, 5, 8), (2, 2, 20, 8), (2, 2, 20, 24)), *made(4, kernel=kernel)))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("form", ["plain", "sum"])
def test_every_form(kernel, form):
    near(*both(*drawn(*[(1, 2, 7, 16)] * 3), *made(2, kernel=kernel, form=form)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_several_tiles_of_queries_and_keys(kernel):
    near(*both(*drawn(*[(1, 1, 30, 16)] * 3), *made(1, kernel=kernel)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_scores_alone(kernel):
    refine, _ = made(2, kernel=kernel, biased=False)
    near(*both(*drawn((1, 2, 3, 16), (1, 2, 21, 16), (1, 2, 21, 16)), refine))


def test_a_wider_kernel():
    near(*both(*drawn((1, 1, 5, 16), (1, 1, 21, 16), (1, 1, 21, 16)), *made(1, kernel=5)))


def test_a_text_shorter_than_the_kernel():
    near(*both(*drawn(*[(1, 2, 1, 16)] * 3), *made(2, kernel=5))[:2])


@pytest.mark.parametrize("kernel", [1, 3])
def test_half_precision_is_summed_in_float32(kernel):
    q, k, v = drawn(*[(1, 2, 7, 16)] * 3, dtype=torch.float16)
    ours, truth = both(q, k, v, *made(2, torch.float32, kernel=kernel))
    assert [x.dtype for x in ours[:4]] == [torch.float32, *[torch.float16] * 3]
    near(ours[:4], truth[:4], 4e-3)
    near(ours[4:], truth[4:], 2e-2)  # rounded slopes of either sign are summed


def test_the_future_leaves_every_bit_of_the_past():
    q, k, v = (x.detach() for x in drawn(*[(1, 2, 20, 16)] * 3))
    refine, bias = made(2, kernel=3)
    with torch.no_grad():
        numbers = refined.numbers_of(refine, bias, q, 20)
        one, _ = dape.forward(q, k, v, *numbers, 0.25, True)
        k[:, :, 11:], v[:, :, 11:] = 50, -50
        other, _ = dape.forward(q, k, v, *numbers, 0.25, True)
    assert torch.equal(one[:, :, :11], other[:, :, :11])
    assert not torch.equal(one[:, :, 11:], other[:, :, 11:])


@pytest.mark.parametrize(("a", "b", "step", "nearest"), [(4, 4, 4, -3), (4, 8, 4, -5), (4, 8, 2, -6)])
def test_sums_over_distances_are_those_of_a_loop(a, b, step, nearest):
    tiles, keys = torch.randn(3, 6, a, b, dtype=torch.float64), 14
    truth = torch.zeros(3, keys, dtype=torch.float64)
    for o in range(6):
        for r in range(a):
            for c in range(b):
                distance = o * step + r + (b - 1 - c) + nearest
                if 0 <= distance < keys:
                    truth[:, distance] += tiles[:, o, r, c]
    near([distances(tiles, step, nearest, keys)], [truth], TOLERANCE)


def test_what_the_kernels_cannot_take_is_told():
    q = torch.zeros(1, 12, 4, 64, dtype=torch.bfloat16)
    assert "the kernel of dape is 5, and they take 1 and 3" in dape.refusal(q, q, 32, 5)
    assert "width of dape is 128" in dape.refusal(q, q, 128, 1)
    assert "12 heads of 64 numbers" in dape.refusal(q.float(), q.float(), 32, 1)
    assert not dape.refusal(q, q, 32, 1)
    assert not dape.refusal(q, q, 32, 3)
