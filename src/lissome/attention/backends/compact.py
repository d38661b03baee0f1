"""Softmax over near keys and a few kept ones, such as separators, without looking at the others.

The kept keys are gathered once; each block of queries attends to those that are older than its window, and to its own
neighbours (`plan`), by dense calls that are joined by the logarithms of their sums:

    out = out1 + (out2 - out1) sigmoid(lse2 - lse1),    lse = log(exp(lse1) + exp(lse2))

Operations fall from T^2 / 2 to T (n + block + share T / 2) pairs, for a window of n and a share of kept keys. A text of
a batch has a plan of its own. Backward needs no joining: each part is run with the joined output and logarithms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lissome.attention.backends.dense import dense, dense_backward
from lissome.attention.backends.once import differentiable, one_derivative
from lissome.attention.backends.plan import Band, Part, Plan
from lissome.attention.frame import Frame, positions
from lissome.attention.normalize import softmax
from lissome.attention.recipe import Attention

NAME = "compact"
LEAST = 2**21  # pairs from which it is the quicker one
SHORTEST = 512  # keys of a text from which it is: of 512 in 0.6 of the time of pairs under a mask, of 256 in 1.2


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Say why it cannot give what the recipe asks, or "" if it can."""
    split = recipe.validity.split
    if recipe.bias is not None or recipe.refine is not None or recipe.normalize is not softmax:
        return "it runs softmax without bias and refinement alone"
    if not recipe.validity.causal or split is None or not split.near:
        return (
            f"the validity is {recipe.validity.name}, and it runs a causal window beside kept keys, such as separators"
        )
    if dropout:
        return "it has no dropout"
    if q.shape[2] > k.shape[2] or not q.shape[2]:
        return "there are fewer keys than queries, or none"
    if not frame.whole and not _padded(frame):
        return "the queries are not the last of all keys"
    return one_derivative((q, k, v))


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), in v's dtype, of a recipe that is not refused."""
    split = recipe.validity.split
    assert split is not None
    assert split.near is not None
    kept = torch.zeros_like(frame.keys, dtype=torch.bool) if split.kept is None else split.kept(frame)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out, _ = _operator(q, k, v, kept, None if frame.whole else frame.present, split.near, float(scale))
    return out.to(v.dtype)


def _padded(frame: Frame) -> bool:
    """Whether each row is a whole text with padding on its sides."""
    here = frame.present
    if here is None or not frame.queries.shape == frame.keys.shape == here.shape:
        return False
    if here.device.type != "cpu" and torch.compiler.is_compiling():
        return False
    starts = here[:, 0].long() + (here[:, 1:] & ~here[:, :-1]).sum(1)
    counted = positions(here)
    # one answer, as a GPU is waited for
    return bool((starts <= 1).all() & (frame.keys == counted).all() & (frame.queries == counted).all())


@torch.library.custom_op("lissome::compact", mutates_args=())
def _run(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, present: Tensor | None, near: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the mix (B, H, Tq, Dv) and the logarithms of sums (B, H, Tq), in float32 at least.

    `kept` (1 or B, Tk) are keys that all later queries see, `present` (1 or B, Tk) where there is one at all.
    """
    out, lse = (x.zero_() if present is not None else x for x in _empty(q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for text in _texts(q, k, v, kept, present, near):
            for band in text.plan.bands:
                queries = text.read(text.q, band)  # (G, R, D)
                mixes, logs = zip(
                    *(
                        dense(_blocks(queries, part), text.keys(part), text.values(part), part.mask, scale)
                        for part in text.plan.parts(band)
                    ),
                    strict=True,
                )
                logs = [text.split(x, band) for x in logs]
                total = functools.reduce(torch.logaddexp, logs)
                text.band(lse, band).copy_(total)
                to = text.band(out, band)
                for index, (mix, log) in enumerate(zip(mixes, logs, strict=True)):
                    part, weight = text.split(mix, band), (log - total).exp_()[..., None]
                    if index:
                        to.addcmul_(part, weight)
                    else:
                        torch.mul(part, weight, out=to)
    return out, lse


@_run.register_fake
def _empty(q, k, v, *_):
    dtype = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(*q.shape[:3], v.shape[3], dtype=dtype), q.new_empty(q.shape[:3], dtype=dtype)


@torch.library.custom_op("lissome::compact_backward", mutates_args=())
def _run_backward(
    slope: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    present: Tensor | None,
    near: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    dq, dk, dv = found = _empty_slopes(slope, out, lse, q, k, v)
    if present is not None:
        for x in found:
            x.zero_()
    with torch.autocast(q.device.type, enabled=False):
        for text in _texts(q, k, v, kept, present, near):
            sums = [torch.zeros_like(x) for x in text.all]
            given = [text.q, *(_straight(text.of(x)) for x in (slope, out, lse))]
            for band in text.plan.bands:
                queries, push, mix, log = (text.read(x, band) for x in given)  # (G, R, .)
                to = text.band(dq, band)
                for index, part in enumerate(text.plan.parts(band)):
                    at = _blocks(push, part), _blocks(queries, part), text.keys(part), text.values(part)
                    moved, *pulled = dense_backward(*at, _blocks(mix, part), _blocks(log, part), part.mask, scale)
                    to.add_(text.split(moved, band)) if index else to.copy_(text.split(moved, band))
                    for total, some in zip(sums[part.kept :: 2], pulled, strict=True):
                        part.add(total, some)
            text.write_sums(sums, dk, dv)
    return found


@_run_backward.register_fake
def _empty_slopes(slope, out, lse, q, k, v, *_):
    # empty_like would keep the strides of a view, and they are written through views of their own
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv


_operator = differentiable(NAME, tensors=5)


def _blocks(x: Tensor, part: Part) -> Tensor:
    """Return (G, R, ...) as a part's calls take it: (blocks, G, R / blocks, ...)."""
    return x.unflatten(1, (part.blocks, -1)).transpose(0, 1)


def _straight(x: Tensor) -> Tensor:
    """Return x with its last numbers side by side, as the fused kernel reads them unasked."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _texts(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, present: Tensor | None, near: int) -> Iterator[_Text]:
    """Go through the texts of a batch; those that keep the same keys share a plan."""
    share, dtype, plan = q.shape[1] // k.shape[1], torch.promote_types(q.dtype, torch.float32), None
    for row in range(len(q)):
        here = slice(None)
        if present is not None:
            found = present[row % len(present)].nonzero()[:, 0]
            if not len(found):
                continue
            here = slice(int(found[0]), int(found[-1]) + 1)
        queries, keys, values = (_straight(x[row, :, here].to(dtype)) for x in (q, k, v))
        if plan is None or len(kept) > 1 or present is not None:
            plan = Plan(kept[row % len(kept), here], queries.shape[1], near, share, dtype)
        yield _Text(row, here, plan, queries, keys, values)


class _Text:
    """One text of a batch.

    Attributes:
        row: which one.
        here: columns that hold it.
        all: keys and kept keys, values and kept values, each (G, ., D), in the order k, kept k, v, kept v.
    """

    def __init__(self, row: int, here: slice, plan: Plan, q: Tensor, k: Tensor, v: Tensor):
        self.row, self.here, self.plan, self.q = row, here, plan, q
        self.all = [k, k[:, plan.places], v, v[:, plan.places]]

    def keys(self, part: Part) -> Tensor:
        """Return the keys of a part, (blocks, G, width, D)."""
        return part.view(self.all[part.kept])

    def values(self, part: Part) -> Tensor:
        """Return the values of a part, (blocks, G, width, Dv)."""
        return part.view(self.all[2 + part.kept])

    def of(self, x: Tensor) -> Tensor:
        """Return the columns of this text of x (B, H, Tq, ...)."""
        return x[self.row, :, self.here].to(self.q.dtype)

    def band(self, x: Tensor, band: Band) -> Tensor:
        """Return of x (B, H, Tq, ...) the queries of a band, a view (G, blocks, share, queries of a block, ...)."""
        return self._of_band(x[self.row, :, self.here], band)

    def split(self, x: Tensor, band: Band) -> Tensor:
        """Return what a call gives, (1 or blocks, G, ., ...), in the order of `band`."""
        step = (band.stop - band.start) // band.blocks
        x = x.unflatten(2, (-1, self.plan.share, step))  # (1 or blocks, G, blocks or 1, share, step, ...)
        return x.transpose(0, 1).flatten(1, 2)

    def _of_band(self, x: Tensor, band: Band) -> Tensor:
        """Return of x (H, Tq, ...) the queries of a band, as `band` does."""
        rows = x[:, band.start - self.plan.past : band.stop - self.plan.past]
        return rows.unflatten(1, (band.blocks, -1)).unflatten(0, (-1, self.plan.share)).transpose(1, 2)

    def read(self, x: Tensor, band: Band) -> Tensor:
        """Return of x (H, Tq, ...) the queries of a band, (G, R, ...)."""
        return self._of_band(x, band).flatten(1, 3)

    def write_sums(self, sums: list[Tensor], dk: Tensor, dv: Tensor) -> None:
        """Write the gradients of keys and values, those of kept ones added to their places."""
        for x, whole, kept in ((dk, sums[0], sums[1]), (dv, sums[2], sums[3])):
            x[self.row, :, self.here] = whole.index_add_(1, self.plan.places, kept)
