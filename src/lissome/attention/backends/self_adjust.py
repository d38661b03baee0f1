"""SA-Softmax over causal texts by tiles of whole rows: memory O(tile T), each product run once, the future skipped.

With z the scores of a row, p their softmax, w = a (z - l) p its weights and o its output, where l and a are

    1    l = 0,           a = 1
    2    l = m,           a = 1
    3    l = m,           a = 1 / (M - m + eps)
    4    l = min(m, 0),   a = 1 / (max(M, 0) - min(m, 0) + eps)

the backward pass, with dw = do v^T, t = do . o and s = sum_j p_j dw_j, is (from w, arXiv 2502.18277, eq. 6 to 9)

    dz = p (a (z - l + 1) dw - t)  +  [z = m] (a t - a s) / ties  -  [z = M] a t / ties,

without the last two terms where extrema are held constant, with - s alone in 2, and in 4 where m <= 0 and M >= 0 alone.
The sum over j of its first term is a s, for the w_j dw_j sum up to t. Five products, as softmax attention has.

Scores are in powers of 2, which take a third of the time of powers of e; bmm(q, k) gives them so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome.attention.backends import distances
from lissome.attention.backends.once import differentiable
from lissome.attention.backends.strips import LN2, grouped, parts
from lissome.attention.frame import Frame
from lissome.attention.normalize import EPS, SelfAdjust
from lissome.attention.recipe import Attention

NAME = "self_adjust"
LEAST = 2**19  # pairs from which it is the quicker one, by trial: training on 32 texts of 64 tokens, 4 heads of 16
SHORTEST = 0  # keys of a text from which it is


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why the tiles cannot run a recipe on such tensors, or nothing."""
    if type(recipe.normalize) is not SelfAdjust:  # a class made of it may compute something else
        return f"it runs self_adjust alone, and the normalizer is {getattr(recipe.normalize, 'name', 'another')}"
    if recipe.refine is not None:
        return "it runs no refinement, and there is one"
    return distances.refusal(q, k, v, frame, recipe, dropout)


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), in v's dtype, of a recipe that is not refused."""
    normalize = recipe.normalize
    assert isinstance(normalize, SelfAdjust)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    table = None if recipe.bias is None else distances.table(recipe.bias, q, k.shape[2]).flip(-1)
    out, _ = _operator(q, k, v, table, normalize.variant, normalize.detach_extrema, float(scale))
    return out.to(v.dtype)


@torch.library.custom_op("lissome::self_adjust", mutates_args=())
def _run(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, variant: int, detach: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the mix (B, H, Tq, Dv), and what its own backward reads, (3, B, H, Tq), both in float32 at least.

    `table` (H, Tk) is the bias at each distance. Here min, max and sum of rows are known, in powers of
    2 and in an order of its own.
    """
    out, known = _empty(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        for part in parts(q, k, v, table, scale, room=2):
            low, most, total = part.known(known).zero_()  # (c, R, 1)
            mix = out.new_empty(*part.q.shape[:2], v.shape[3])
            for strip in part.strips():
                rows, z, p = strip.rows, strip.scores(), strip.room(1)
                least, peak = low[:, rows], most[:, rows]  # (c, n r, 1)
                if variant > 1:
                    torch.amin(z, -1, keepdim=True, out=least)
                torch.amax(strip.lower_future(), -1, keepdim=True, out=peak)
                torch.exp2(torch.sub(z, peak, out=p), out=p)
                torch.sum(p, -1, keepdim=True, out=total[:, rows])
                strip.clear_future()
                if variant > 1:
                    z.sub_(least.clamp(max=0) if variant == 4 else least)
                torch.bmm(z.mul_(p), strip.v, out=mix[:, rows])
            _, gain = _image(low, most, variant)
            part.write(out, mix.mul_(gain.mul(LN2).div_(total)))
    return out, known


@_run.register_fake
def _empty(q, k, v, *_):
    dtype = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(*q.shape[:3], v.shape[3], dtype=dtype), q.new_empty(3, *q.shape[:3], dtype=dtype)


@torch.library.custom_op("lissome::self_adjust_backward", mutates_args=())
def _run_backward(
    slope: Tensor,
    out: Tensor,
    known: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    variant: int,
    detach: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and the table; that of no table is empty."""
    dq, dk, dv, dtable = found = _empty_slopes(slope, out, known, q, k, v, table)
    dtable.zero_()
    sides = 0 if detach else (0, 1, 2, 2)[variant - 1]  # extrema that move
    with torch.autocast(q.device.type, enabled=False):
        slope, out = (grouped(x, k) for x in (slope, out))
        for part in parts(q, k, v, table, scale, room=3):
            low, most, total = part.known(known)  # (c, R, 1)
            log, (floor, gain) = most + total.log2(), _image(low, most, variant)
            do = part.read(slope)  # (c, R, Dv)
            t = (do * part.read(out)).sum(-1, keepdim=True)
            do, turned, sums = do * gain, torch.empty_like(part.q), part.sums()
            moves = _moves(low, most, gain * t, variant)
            for strip in part.strips():
                rows, z, p = strip.rows, strip.scores(), strip.room(1)
                attained = strip.search(sides)
                strip.lower_future()
                torch.exp2(torch.sub(z, log[:, rows], out=p), out=p)
                strip.clear_future()
                if variant > 1:
                    z.sub_(floor[:, rows])
                dz = torch.bmm(do[:, rows], strip.v.mT, out=strip.room(2))  # a dw, (c, n r, e)
                dz.addcmul_(dz, z, value=LN2).sub_(t[:, rows]).mul_(p)
                if detach and variant > 2 and strip.first == 0:
                    dz[:, : part.share] = 0  # the weight of one key is a constant
                if attained is not None:
                    attained.add(dz, *(x[:, rows] for x in moves))
                torch.bmm(dz, strip.k, out=turned[:, rows])
                strip.add(sums, dz, p.mul_(z), do[:, rows])
            part.write(dq, turned.mul_(scale))
            part.write_sums(sums, dk, dv, dtable)
    return found


@_run_backward.register_fake
def _empty_slopes(slope, out, known, q, k, v, table, *_):
    # empty_like would keep the strides of a view, and they are written through views of their own
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv, out.new_empty(0 if table is None else table.shape)


_operator = differentiable(NAME, tensors=4)


def _image(low: Tensor, most: Tensor, variant: int) -> tuple[Tensor, Tensor]:
    """Return l, in powers of 2 as the extrema are, and a."""
    if variant < 3:
        return low, torch.ones_like(low)
    if variant == 4:
        low, most = low.clamp(max=0), most.clamp(min=0)
    return low, 1 / ((most - low) * LN2 + EPS)


def _moves(low: Tensor, most: Tensor, at: Tensor, variant: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a t and 1 for minima that count and a t for maxima that count, each (c, R, 1); 0 for the others."""
    one = torch.ones_like(at)
    if variant == 2:
        return torch.zeros_like(at), one, one
    if variant == 4:
        return at * (low <= 0), one * (low <= 0), at * (most >= 0)
    return at, one, at
