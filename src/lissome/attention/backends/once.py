"""Operators of torch with a first derivative in reverse mode: under autograd, torch.func, vmap and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lissome._errors import UsageError

Operator = Callable[..., tuple[Tensor, Tensor]]
KERNELS = torch.backends.cuda  # it switches those of a CPU too
FUSED = (KERNELS.flash_sdp_enabled, KERNELS.mem_efficient_sdp_enabled, KERNELS.cudnn_sdp_enabled)


def differentiable(name: str, *, tensors: int) -> Operator:
    """Return the operator `lissome::name` with its derivative; a second one is refused in a sentence.

    It takes tensors, of which some may be None, and then numbers. It gives the output, and what its own backward reads,
    which has no derivative. The backward is `lissome::name_backward`, of the slope of the output, what was given out
    and what was taken in; it gives slopes for the first tensors, any where there was None; the others have none.

    Args:
        name: of the operator, which is the backend's.
        tensors: how many it takes.
    """
    run, back = (getattr(torch.ops.lissome, said).default for said in (name, f"{name}_backward"))
    for each in (run, back):
        torch.library.register_vmap(each, _one_by_one(each))

    # functions around the operators: a derivative that is registered with an operator is none for torch.func
    class Backward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs):
            return back(*inputs)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *slopes):
            raise UsageError(f"backend {name} has no second derivative; backend naive has derivatives of all orders")

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs):
            return run(*inputs)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*output, *inputs[:tensors])
            ctx.numbers = inputs[tensors:]
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx, slope, _):
            # a compiler allows no function inside a function
            once = back if torch.compiler.is_compiling() else Backward.apply
            saved = ctx.saved_tensors  # a checkpoint gives them once
            found = once(slope, *saved, *ctx.numbers)
            slopes = [None if x is None else dx.to(x.dtype) for x, dx in zip(saved[2:], found, strict=False)]
            return *slopes, *(None for _ in range(tensors - len(slopes))), *(None for _ in ctx.numbers)

    def apply(*inputs):
        if not torch.compiler.is_compiling():
            return Forward.apply(*inputs)
        given = [x for x in inputs[:tensors] if x is not None]
        # a compiler cannot call the function where nothing is to be derived, nor with one tensor in two places
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in given)):
            return run(*inputs)
        return Forward.apply(*(None if x is None else x.view_as(x) for x in inputs[:tensors]), *inputs[tensors:])

    return apply


def one_derivative(asked: Iterable[Tensor]) -> str:
    """Return why such operators do not serve where another derivative than theirs is asked for, or an empty text.

    Second derivatives are asked for as of torch's own kernels, by `torch.nn.attention.sdpa_kernel([SDPBackend.MATH])`.
    """
    if not torch.compiler.is_compiling() and not any(enabled() for enabled in FUSED):
        return "fused attention is switched off by torch.nn.attention.sdpa_kernel, as for second derivatives"
    return forward_mode(asked)


def forward_mode(asked: Iterable[Tensor]) -> str:
    """Return why such operators do not serve tensors of which a forward-mode derivative is asked, or an empty text."""
    if not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(x).tangent is not None for x in asked):
        return "it has no forward-mode derivative"
    return ""


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
