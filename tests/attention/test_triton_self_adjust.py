"""The kernels of SA-Softmax against the naive way, outputs and gradients."""

import math

import pytest
import torch

from lissome.attention import Attention, Frame, Kerple, causal
from lissome.attention.backends import distances, naive
from lissome.attention.backends.triton import self_adjust, shapes
from lissome.attention.normalize import SelfAdjust
from tests.attention.interpreted import DEVICE, EXACT, SMALL, TOLERANCE, drawn, near


def both(q, k, v, variant, *, detach=False, bias=None, scale=None):
    """Return output and gradients by kernels and by naive; the bias's parameters last."""
    rows, keys = q.shape[2], k.shape[2]
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    recipe = Attention(causal, bias, None, SelfAdjust(variant, detach))
    at, frame = [q, k, v, *recipe.parameters()], Frame.full(keys, device=q.device)
    out = naive.attend(q, k, v, frame.rows(keys - rows, keys), recipe, scale)
    slope = torch.randn_like(out)
    truth = [out.detach(), *torch.autograd.grad(out, at, slope)]
    table = None if bias is None else distances.table(bias, q, keys).flip(-1)  # (H, Tk)
    with torch.no_grad():
        out, known = self_adjust.forward(q, k, v, table, variant, detach, scale, tile=SMALL)
        found = self_adjust.backward(slope, out, known, q, k, v, table, variant, detach, scale, tile=SMALL)
    further = () if table is None else torch.autograd.grad(table, list(recipe.parameters()), found[3])
    return [out, *found[:3], *further], truth


@pytest.mark.parametrize(
    ("variant", "detach"), [(1, False), *((variant, detach) for variant in (2, 3, 4) for detach in (False, True))]
)
def test_groups_bias_ragged_tiles_and_sides_of_any_size(variant, detach):
    q, k, v = drawn((2, 2, 5, 24), (2, 1, 20, 24), (2, 1, 20, 16))
    near(*both(q, k, v, variant, detach=detach, bias=Kerple(2).to(DEVICE, EXACT)))


@pytest.mark.parametrize(("variant", "length", "biased"), [(1, 32, False), (4, 20, True)])
def test_several_tiles_of_queries_and_keys(variant, length, biased):
    bias = Kerple(1).to(DEVICE, EXACT) if biased else None
    near(*both(*drawn(*[(1, 1, length, 16)] * 3), variant, bias=bias))


@pytest.mark.parametrize("variant", [2, 3, 4])
def test_keys_that_tie_share_the_gradient_of_an_extremum(variant):
    q, k, v = (torch.randint(-3, 4, (1, 1, 35, 16), dtype=EXACT, device=DEVICE) for _ in range(3))
    k[:, :, 5:9] = k[:, :, 20:22] = k[:, :, 4:5]  # over two tiles, and a third one below
    k[:, :, 33] = k[:, :, 2]
    q[:, :, 3:5] = q[:, :, 34] = 0  # every key ties
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    scale = 0.125  # whole numbers of eighths: exact in any order, so that ties are
    ours, truth = both(q, k, v, variant, scale=scale)
    z = (q @ k.mT).masked_fill(torch.ones(35, 35, device=DEVICE).tril() == 0, 10_000)
    assert ((z == z.amin(-1, keepdim=True)).sum(-1) > 1).sum() > 9
    # where every key ties, 3 and 4 divide by eps, and what is left of q's gradient is rounding of numbers near 1e6
    near([ours[0], *ours[2:]], [truth[0], *truth[2:]], max(TOLERANCE, 1e-8))
    rows = [0, 1, 2, *range(5, 34)]
    near([ours[1][:, :, rows]], [truth[1][:, :, rows]])


def test_one_key_gives_all_or_nothing_and_zero_for_variant_3():
    _, k, v = drawn((0,), (1, 2, 1, 16), (1, 2, 1, 16))
    q = torch.stack([k[:, 0], -k[:, 1]], 1).detach().requires_grad_()  # a score above 0, and one below
    for variant in (1, 2, 3, 4):
        ours, truth = both(q, k, v, variant)
        near(ours[:1], truth[:1], 1e-5)
    near([ours[0][:, 0]], [v[:, 0]], 1e-5)
    assert not ours[0][:, 1].any()
    assert not self_adjust.forward(q, k, v, None, 3, False, 1.0, tile=SMALL)[0].any()


def test_one_query_of_many_keys():
    near(*both(*drawn((1, 2, 1, 16), (1, 2, 40, 16), (1, 2, 40, 16)), 4, bias=Kerple(2).to(DEVICE, EXACT)))


def test_large_scores_stay_finite():
    near(*both(*drawn((1, 1, 18, 16), (1, 1, 18, 16), (1, 1, 18, 16), factor=12.0), 4), max(TOLERANCE, 1e-7))


@pytest.mark.parametrize("variant", [1, 4])
def test_half_precision_is_summed_in_float32(variant):
    q, k, v = drawn((1, 2, 18, 16), (1, 2, 18, 16), (1, 2, 18, 16), dtype=torch.float16)
    ours, truth = both(q, k, v, variant)
    assert ours[0].dtype == torch.float32
    assert [x.dtype for x in ours[1:]] == [torch.float16] * 3
    near(ours, truth, 4e-3)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_rows_of_equal_scores_stay_finite_in_float16():
    """Variants 3 and 4 divide by eps there; naive has infinite gradients of such queries, and no others."""
    q, k, v = (torch.randn(1, 1, 33, 16, device=DEVICE).half() for _ in range(3))
    q[:, :, [5, 20]] = 0
    ours, truth = both(*(x.requires_grad_() for x in (q, k, v)), 4)
    others = [*range(5), *range(6, 20), *range(21, 33)]
    near([ours[0], ours[1][:, :, others], *ours[2:]], [truth[0], truth[1][:, :, others], *truth[2:]], 4e-3)
    assert not any(x.isnan().any() for x in ours)


def test_a_shift_of_all_scores_costs_no_precision():
    """Half precision keeps 11 bits: of z it would keep 0.03 at 60, of z - M it keeps what matters."""
    q, k, v = (torch.randn(1, 1, 33, 16, device=DEVICE) for _ in range(3))
    q[..., 0], k[..., 0] = 12, 20  # adds 60 to each score
    ours, truth = both(*(x.half().requires_grad_() for x in (q, k, v)), 2)
    near(ours[:1], truth[:1], 4e-3)


def test_what_no_kernel_takes_is_told():
    x = torch.zeros(1, 1, 4, 160, dtype=torch.float16)
    assert "160 numbers" in shapes.refusal(x, x, x)
    assert "float64" in shapes.refusal(*[x[..., :16].double()] * 3)
    assert "no more queries" in shapes.refusal(x[..., :16], x[:, :, :3, :16], x[:, :, :3, :16])
    assert not shapes.refusal(*[x[..., :16]] * 3)
