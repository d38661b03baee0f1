"""What DAPE's two ways share: which recipes they serve, a recipe in numbers, and operators of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from lissome._errors import UsageError
from lissome.attention.backends import toeplitz
from lissome.attention.backends.toeplitz import Numbers
from lissome.attention.frame import Frame
from lissome.attention.normalize import softmax
from lissome.attention.recipe import Attention
from lissome.attention.refine import Dape
from lissome.attention.validity import causal

Operator = Callable[..., tuple[Tensor, Tensor]]


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why both ways cannot run it, or an empty text: the kernel alone is left to be asked for."""
    refine, bias = recipe.refine, recipe.bias
    if type(refine) is not Dape:  # a class made of it may compute something else
        return f"it runs dape alone, and the refinement is {getattr(refine, 'name', type(refine).__name__)}"
    if recipe.validity != causal:
        return f"it runs causal attention, and the validity is {recipe.validity.name}"
    if recipe.normalize is not softmax:
        return f"it runs softmax alone, and the normalizer is {getattr(recipe.normalize, 'name', 'another')}"
    if bias is not None and not getattr(bias, "stationary", False):
        said = getattr(bias, "name", type(bias).__name__.lower())
        return f"the bias has to depend on the distance alone and say so, and {said} does not"
    if refine.biased != (bias is not None) or refine.outer.out_channels != q.shape[1]:
        return "the refinement was made for other heads, or for a bias where there is none, or the other way round"
    if not frame.whole or q.shape[2] > k.shape[2]:
        return "its queries are the last of all keys, none padded, and those of this frame are not"
    if not q.numel() or not v.numel():
        return "there is nothing to attend to"
    if dropout:
        return f"it has no dropout, and {dropout} is asked for"
    if not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(x).tangent is not None for x in (q, k, v)):
        return "it has no forward-mode derivative"
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
        shift = refine.outer.bias
        out, _ = operator(q, k, v, *numbers, shift, scale, refine.form == "residual")
        return out.to(v.dtype)


def numbers_of(refine: Dape, bias: torch.nn.Module | None, q: Tensor, keys: int) -> Numbers:
    """Return a refinement in numbers, under autograd, so that each parameter gets its gradient through them.

    Without a residual nothing is added to scores; and f(S + P) is f([S ; P]) with the same weights for both.
    """
    dtype, heads = torch.promote_types(q.dtype, torch.float32), q.shape[1]
    inner, outer = (layer.weight[:, :, 0].to(dtype) for layer in (refine.inner, refine.outer))
    assert refine.inner.bias is not None
    start, half = refine.inner.bias.to(dtype), refine.kernel // 2
    first, second = inner[:, :heads].transpose(1, 2).flatten(1), outer.flip(2).permute(2, 0, 1).flatten(0, 1)
    table, edge = inner.new_zeros(heads, 0), inner.new_zeros(0, refine.width, keys)
    if bias is None:
        return Numbers(table, start[:, None].expand(-1, keys).contiguous(), edge, first, second)
    places = torch.arange(keys, device=q.device)[None]
    found = bias(Frame(places[:, -1:], places))[0, :, 0].to(dtype)  # (H, Tk)
    if len(found) != heads:
        raise UsageError(f"the bias is for {len(found)} heads, and q has {heads}")
    layer = inner if refine.form == "sum" else inner[:, heads:]  # (W, H, k)
    hidden = F.conv1d(found, layer, start, padding=half)  # zeros outside: the future, and no keys
    if half:  # rows other than the last have keys' end elsewhere: what they read beyond it is taken back
        beyond = [F.conv1d(F.pad(found, (gap, 0)), layer[..., :gap])[:, :keys] for gap in range(half, 0, -1)]
        edge = -torch.stack(beyond)
    return Numbers(found if refine.form == "residual" else table, hidden, edge, first, second)


def operator(name: str) -> Operator:
    """Return `lissome::name` with its derivative, an operator of torch to which kernels of devices can be added.

    It takes q, k, v, the five `Numbers`, a shift of all scores of a head, which no softmax sees (its gradient is 0),
    the scale, and whether the form is residual. It returns what `toeplitz.forward` does, without derivative of the
    second.
    """

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

    @torch.library.custom_op(f"lissome::{name}_backward", mutates_args=())
    def back(
        slope: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        hidden: Tensor,
        edge: Tensor,
        inner: Tensor,
        outer: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
        residual: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        numbers = Numbers(table, hidden, edge, inner, outer)
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv, slopes = toeplitz.backward(slope, q, k, v, numbers, out, lse, scale, residual)
        return dq, dk, dv, slopes.table, slopes.hidden, slopes.edge, slopes.inner, slopes.outer

    @back.register_fake
    def _(slope, q, k, v, table, hidden, edge, inner, outer, out, lse, scale, residual):
        return tuple(x.new_empty(x.shape) for x in (q, k, v, table, hidden, edge, inner, outer))

    for each in (run, back):
        each.register_vmap(_one_by_one(each))
    forward_of, backward_of = (getattr(torch.ops.lissome, said).default for said in (name, f"{name}_backward"))

    # functions around the operators: a derivative that is registered with an operator is none for torch.func
    class Backward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs):
            return backward_of(*inputs)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *slopes):
            raise UsageError(f"backend {name} has no second derivative; backend naive has derivatives of all orders")

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(q, k, v, table, hidden, edge, inner, outer, shift, scale, residual):
            return forward_of(q, k, v, table, hidden, edge, inner, outer, scale, residual)

        @staticmethod
        def setup_context(ctx, inputs, output):
            *tensors, shift, ctx.scale, ctx.residual = inputs
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(*tensors, *output, shift)

        @staticmethod
        def backward(ctx, slope, _):
            *tensors, shift = ctx.saved_tensors
            once = (
                backward_of if torch.compiler.is_compiling() else Backward.apply
            )  # no function inside a function there
            found = once(slope, *tensors, ctx.scale, ctx.residual)
            return *found, torch.zeros_like(shift), None, None

    return Forward.apply


def _one_by_one(each: Any) -> Callable[..., tuple[tuple[Tensor, ...], tuple[int, ...]]]:
    """Return the rule of an operator under vmap: one call after another."""

    def rule(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        calls = [
            each(*(x if dim is None else x.select(dim, i) for x, dim in zip(inputs, dims, strict=True)))
            for i in range(info.batch_size)
        ]
        found = tuple(torch.stack(outputs) for outputs in zip(*calls, strict=True))
        return found, (0,) * len(found)

    return rule
