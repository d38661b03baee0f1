"""One dense attention with the logarithms of its sums, so that two over different keys can be joined into one.

On a CPU by torch's own fused kernel, which is no public function; by products and exponentials elsewhere. It may not be
called without keys, which would end the process, and a query may be hidden from all of them: what hides is the least
finite number and not -inf, so that the logarithm is least too, and nothing of it is left when it is joined.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAME = "_scaled_dot_product_flash_attention_for_cpu"
FUSED, FUSED_BACKWARD = (getattr(torch.ops.aten, name, None) for name in (NAME, f"{NAME}_backward"))


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Return the mix of values (N, G, M, Dv) and the logarithm of each row's sum (N, G, M).

    Args:
        q: (N, G, M, D), float32 or float64.
        k: (N, G, K, D), at least one key; strides may overlap.
        v: (N, G, K, Dv).
        mask: what is added to scores, (., ., M, K), or None.
        scale: of the products.
    """
    if FUSED is not None and _fused(q, v):
        return FUSED(q, k, v, attn_mask=mask, scale=scale)
    scores = _scores(q, k, mask, scale)
    lse = scores.logsumexp(-1)
    return scores.sub_(lse[..., None]).exp_() @ v, lse


def dense_backward(
    slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, through these keys alone.

    `out` and `lse` are those of all keys together: a row's weight is exp(score - lse), whichever part it stands in, so
    the gradients of parts need no joining.
    """
    if FUSED_BACKWARD is not None and _fused(q, v):
        lse = lse.contiguous()
        return FUSED_BACKWARD(slope, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=scale)
    p = _scores(q, k, mask, scale).sub_(lse[..., None]).exp_()
    dv = p.mT @ slope
    p.mul_((slope @ v.mT).sub_((slope * out).sum(-1, keepdim=True))).mul_(scale)
    return p @ k, p.mT @ q, dv


def _fused(q: Tensor, v: Tensor) -> bool:
    return q.device.type == "cpu" and q.shape[-1] == v.shape[-1]


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = (q * scale) @ k.mT
    return scores if mask is None else scores.add_(mask)
