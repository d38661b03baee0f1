"""What DAPE's two ways share: which recipes they serve, a recipe in numbers, and operators of torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention.backends import distances, toeplitz
from lissome.attention.backends.once import Operator, differentiable
from lissome.attention.backends.toeplitz import Numbers
from lissome.attention.frame import Frame
from lissome.attention.normalize import softmax
from lissome.attention.recipe import Attention
from lissome.attention.refine import Dape


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why both ways cannot run it, or an empty text: the kernel alone is left to be asked for."""
    refine = recipe.refine
    if type(refine) is not Dape:  # a class made of it may compute something else
        return f"it runs dape alone, and the refinement is {getattr(refine, 'name', type(refine).__name__)}"
    if recipe.normalize is not softmax:
        return f"it runs softmax alone, and the normalizer is {getattr(recipe.normalize, 'name', 'another')}"
    if refused := distances.refusal(q, k, v, frame, recipe, dropout):
        return refused
    if refine.biased != (recipe.bias is not None) or refine.outer.out_channels != q.shape[1]:
        return "the refinement was made for other heads, or for a bias where there is none, or the other way round"
    return ""


def attend(
    operator: Operator, q: Tensor, k: Tensor, v: Tensor, recipe: Attention, scale: float | None = None
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv) in v's dtype, of a recipe that is not refused.

    Raises:
        UsageError: a bias for another number of heads.
    """
    with torch.autocast(q.device.type, enabled=False):
        refine = recipe.refine
        assert isinstance(refine, Dape)
        numbers = numbers_of(refine, recipe.bias, q, k.shape[2])
        scale = q.shape[3] ** -0.5 if scale is None else float(scale)
        out, _ = operator(q, k, v, *numbers, scale, refine.form == "residual")
        return out.to(v.dtype)


def numbers_of(refine: Dape, bias: torch.nn.Module | None, q: Tensor, keys: int) -> Numbers:
    """Return a refinement in numbers, under autograd, so that each parameter gets its gradient through them.

    Without a residual nothing is added to scores; and f(S + P) is f([S ; P]) with the same weights for both.

    Raises:
        UsageError: a bias for another number of heads.
    """
    dtype, heads = torch.promote_types(q.dtype, torch.float32), q.shape[1]
    inner, outer = (layer.weight[:, :, 0].to(dtype) for layer in (refine.inner, refine.outer))
    assert refine.inner.bias is not None
    assert refine.outer.bias is not None
    start, half = refine.inner.bias.to(dtype), refine.kernel // 2
    first, second = inner[:, :heads].transpose(1, 2).flatten(1), outer.flip(2).permute(2, 0, 1).flatten(0, 1)
    # a shift of all scores of a head, which no softmax sees: no column of it is read, and its gradient is 0
    shift, edge = refine.outer.bias.to(dtype)[:, None][:, :0], inner.new_zeros(0, refine.width, keys)
    if bias is None:
        return Numbers(shift, start[:, None].expand(-1, keys).contiguous(), edge, first, second)
    found = distances.table(bias, q, keys).to(dtype)  # (H, Tk)
    layer = inner if refine.form == "sum" else inner[:, heads:]  # (W, H, k)
    hidden = F.conv1d(found, layer, start, padding=half)  # zeros outside: the future, and no keys
    if half:  # rows other than the last have keys' end elsewhere: what they read beyond it is taken back
        beyond = [F.conv1d(F.pad(found, (gap, 0)), layer[..., :gap])[:, :keys] for gap in range(half, 0, -1)]
        edge = -torch.stack(beyond)
    table = torch.cat((found, shift), 1) if refine.form == "residual" else shift
    return Numbers(table, hidden, edge, first, second)


def operator(name: str) -> Operator:
    """Return `lissome::name` with its derivative, an operator of torch to which kernels of devices can be added.

    It takes q, k, v, the five `Numbers`, the scale, and whether the form is residual. It returns the mix of values, and
    what its own backward reads.
    """
    _add_forward(name)
    _add_backward(name)
    return differentiable(name, tensors=8)


def _add_forward(name: str) -> None:
    @torch.library.custom_op(f"lissome::{name}", mutates_args=())
    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        hidden: Tensor,
        edge: Tensor,
        inner: Tensor,
        outer: Tensor,
        scale: float,
        residual: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(q.device.type, enabled=False):
            return toeplitz.forward(q, k, v, Numbers(table, hidden, edge, inner, outer), scale, residual)

    @run.register_fake
    def _(q, k, v, table, hidden, edge, inner, outer, scale, residual):
        shape = (*q.shape[:3], v.shape[3])
        return hidden.new_empty(shape), hidden.new_empty(shape[:3])


def _add_backward(name: str) -> None:
    @torch.library.custom_op(f"lissome::{name}_backward", mutates_args=())
    def back(
        slope: Tensor,
        out: Tensor,
        known: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        hidden: Tensor,
        edge: Tensor,
        inner: Tensor,
        outer: Tensor,
        scale: float,
        residual: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        numbers = Numbers(table, hidden, edge, inner, outer)
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv, slopes = toeplitz.backward(slope, q, k, v, numbers, out, known, scale, residual)
        return dq, dk, dv, slopes.table, slopes.hidden, slopes.edge, slopes.inner, slopes.outer

    @back.register_fake
    def _(slope, out, known, q, k, v, table, hidden, edge, inner, outer, scale, residual):
        return tuple(x.new_empty(x.shape) for x in (q, k, v, table, hidden, edge, inner, outer))
