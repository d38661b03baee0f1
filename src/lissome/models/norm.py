r"""RMSNorm (arXiv 1910.07467, eq. 4), in few passes over memory where torch has no kernel of its own: on a CPU.

y = r x g,   r = (mean(x^2) + eps)^(-1/2)
dx = r (g dy - r^2 x mean(g dy x)),   dg = sum over rows of r x dy
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXACT = (torch.float32, torch.float64)  # half precision is rounded between its steps, by torch's own rule


class Norm(nn.Module):
    """Divide by the root of the mean square, then scale each number; `torch.nn.RMSNorm` with fewer passes on CPUs.

    Args:
        width: how many numbers are normalised together, the last dimension.
        eps: is added to the mean square.

    Attributes:
        weight: (width,), the scale g; 1 at the start.

    >>> Norm(2, eps=1e-6)(torch.tensor([[3.0, 3.0]])).detach().round()
    tensor([[1., 1.]])
    """

    def __init__(self, width: int, *, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., width) normalised, in its dtype."""
        ours = x.device.type == "cpu" and x.dtype == self.weight.dtype and x.dtype in EXACT
        if not ours or torch.compiler.is_compiling():  # a compiler fuses the single operations
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        found: Tensor = _Norm.apply(x, self.weight, self.eps)[0]
        return found

    def extra_repr(self) -> str:
        """Return sizes for the printed module."""
        return f"{len(self.weight)}, eps={self.eps:g}"


class _Norm(torch.autograd.Function):
    """Gives r too, so that the backward pass has it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1), in one pass
        r = size.square().div_(x.shape[-1]).add_(eps).rsqrt_()
        return (x * weight).mul_(r), r  # this order: a weight of its own for each of many models broadens x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.eps = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, output[1])
        ctx.save_for_forward(x, weight, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor | None, _):  # type: ignore[override]
        if grad is None:
            return None, None, None
        x, weight, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is differentiated again: single operations, each with a derivative
            r = (x.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
            slope = grad * weight
            inner = r * slope - r**3 * x * (slope * x).mean(-1, keepdim=True)
            return inner, (grad * x * r).reshape(-1, x.shape[-1]).sum(0), None
        width = x.shape[-1]
        pairs = (grad * x).reshape(-1, width)  # both sums over it are products of matrix and vector
        scale = pairs.mv(weight).view_as(r) * r.square() / -width
        inner = torch.addcmul(grad * weight, x, scale).mul_(r)
        return inner, pairs.T.mv(r.flatten()), None

    @staticmethod
    def jvp(ctx, x_dot: Tensor | None, weight_dot: Tensor | None, _):  # type: ignore[override]
        x, weight, r = ctx.saved_tensors
        x_dot = torch.zeros_like(x) if x_dot is None else x_dot
        r_dot = -(r**3) * (x * x_dot).mean(-1, keepdim=True)
        y_dot = (r * x_dot + r_dot * x) * weight
        return (y_dot if weight_dot is None else y_dot + r * x * weight_dot), r_dot
