r"""Tangents through an activation and a linear map, with the backward pass of the former written out.

    J'_k = slope J_k                    S_m = sum_k w_mk J_k^2

With H and t the gradients that arrive at J' and S,

    to slope   sum_k H_k J_k            to J_k   slope H_k + 2 J_k sum_m w_mk t_m

Automatic differentiation of the two lines gives the same in more operations over all tangents, and those are nearly
all of the memory traffic of a step. A compiler fuses the lines themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = tuple[tuple[float, ...], ...]

UNROLLED = 16  # tangents up to which a compiled pass writes them one by one: a tenth of a step at 10 tangents


def carry(slope: Tensor, J: Tensor, signs: Weights) -> tuple[Tensor, Tensor]:
    """Carry tangents through an activation.

    Args:
        slope: first derivative at each point, (N, w).
        J: tangents, (N, q, w).
        signs: weights of the squares, (m, q).

    Returns:
        tangents behind it (N, q, w), and the sums of squares before it (N, m, w).
    """
    if not torch.compiler.is_compiling():
        return _Carry.apply(slope, J, signs)
    return _Rows.apply(slope, J, signs) if J.shape[1] <= UNROLLED else _lines(slope, J, signs)


def squares(J: Tensor, signs: Weights) -> Tensor:
    """Return sum_k w_mk J_k^2, (N, m, w), of tangents (N, q, w)."""
    weights = _weights(signs, J)
    return J.square().sum(1, keepdim=True) if weights is None else weights @ J.square()


def spread(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows W^T, (N, ..., w'), for rows (N, ..., w).

    On a CPU each thread takes its own points: left to itself, a library cuts products whose outputs are few the other
    way, and the gradient of the weight takes 0.45 ms in place of 0.36 (12,288 x 64, two cores).
    """
    n, w = len(rows), rows.shape[-1]
    threads = _threads() if rows.device.type == "cpu" else 1
    if threads == 1 or n % threads:
        return F.linear(rows, weight)
    shares = rows.reshape(threads, rows.numel() // (threads * w), w)
    return torch.bmm(shares, weight.t().expand(threads, -1, -1)).view(*rows.shape[:-1], len(weight))


@torch.compiler.assume_constant_result
def _threads() -> int:
    return torch.get_num_threads()


def _weights(signs: Weights, like: Tensor) -> Tensor | None:
    """Return the weights of the squares (m, q), or None for one row of ones."""
    plain = len(signs) == 1 and all(sign == 1.0 for sign in signs[0])
    return None if plain else like.new_tensor(signs)


def _lines(slope: Tensor, J: Tensor, signs: Weights) -> tuple[Tensor, Tensor]:
    return slope[:, None] * J, squares(J, signs)


def _total(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


class _Rows(torch.autograd.Function):
    """The same for a compiler, one tangent after another: it makes one loop of each way."""

    @staticmethod
    def forward(ctx, slope: Tensor, J: Tensor, signs: Weights) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(slope, J)
        ctx.signs = signs
        rows = J.unbind(1)  # (N, w) each
        sums = [_total([w * row.square() for w, row in zip(each, rows, strict=True)]) for each in signs]
        return torch.stack([slope * row for row in rows], 1), torch.stack(sums, 1)

    @staticmethod
    def backward(ctx, H: Tensor, t: Tensor):  # type: ignore[override]
        slope, J = ctx.saved_tensors
        rows, ways, parts = J.unbind(1), H.unbind(1), t.unbind(1)
        to_slope = _total([way * row for way, row in zip(ways, rows, strict=True)])
        to_J = []
        for way, row, weights in zip(ways, rows, zip(*ctx.signs, strict=True), strict=True):
            each = _total([w * part for w, part in zip(weights, parts, strict=True)])
            to_J.append(slope * way + 2 * each * row)
        return to_slope, torch.stack(to_J, 1), None


class _Carry(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, J: Tensor, signs: Weights) -> tuple[Tensor, Tensor]:
        return _lines(slope, J, signs)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        slope, J, ctx.signs = inputs
        ctx.save_for_backward(slope, J)
        ctx.save_for_forward(slope, J)

    @staticmethod
    def backward(ctx, H: Tensor, t: Tensor):  # type: ignore[override]
        slope, J = ctx.saved_tensors
        weights = _weights(ctx.signs, t)
        each = t if weights is None else weights.t() @ t  # (N, q or 1, w)
        return (H * J).sum(1), torch.addcmul(slope[:, None] * H, each, J, value=2), None

    @staticmethod
    def jvp(ctx, slope_dot: Tensor, J_dot: Tensor, _):  # type: ignore[override]
        slope, J = ctx.saved_tensors
        weights, crossed = _weights(ctx.signs, J), 2 * J * J_dot
        crossed = crossed.sum(1, keepdim=True) if weights is None else weights @ crossed
        return slope_dot[:, None] * J + slope[:, None] * J_dot, crossed
