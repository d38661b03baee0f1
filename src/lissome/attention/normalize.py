"""From scores to weights: softmax, the self-adjusting variants of arXiv 2502.18277, and the scores themselves.

Per row of scores z over the visible keys, with p = softmax(z), m = min z, M = max z (section 3, eq. 6 to 9):

    1    z p
    2    (z - m) p
    3    (z - m) / (M - m) p
    4    (z - min(m, 0)) / (max(M, 0) - min(m, 0)) p        the one recommended

Rows then do not sum to 1, as intended. A row that sees one key: 3 gives 0; 4 gives 1 for z > 0 and 0 otherwise, so the
first token of a text may attend to nothing. 1 and 4 are not invariant under a shift of the row: a constant bias matters
there.

Differs from the paper: eps is 1e-6 (1e-10 vanishes beside a denominator in half precision); all is in float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._checks import check_flag, refuse

EPS = 1e-6
VARIANTS = (1, 2, 3, 4)


def softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Return the softmax over visible keys; a row that sees none gives 0.

    Args:
        scores: (B, H, Tq, Tk).
        valid: (1 or B, 1, Tq, Tk) bool.

    >>> softmax(torch.zeros(1, 1, 2, 2), torch.tensor([[[[True, False], [False, False]]]]))
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """
    # the least finite number and not -inf: an empty row then has finite gradients
    least = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~valid, least), -1).masked_fill(~valid, 0)


@dataclass(frozen=True)
class Linear:
    """Linear attention: the weights are the scores of visible keys (arXiv 2212.07677, where it does gradient descent).

    Attributes:
        mean: divide by the number of visible keys.

    Raises:
        UsageError: mean is neither True nor False.

    >>> Linear()(torch.tensor([[[[2.0, -3.0]]]]), torch.tensor([[[[True, True]]]]))
    tensor([[[[ 2., -3.]]]])
    """

    mean: bool = False

    def __post_init__(self):
        check_flag("mean of linear", self.mean)

    @property
    def name(self) -> str:
        """What `explain` says."""
        return f"linear{'(mean=True)' if self.mean else ''}"

    def __call__(self, scores: Tensor, valid: Tensor) -> Tensor:
        """Return the weights (B, H, Tq, Tk); a row that sees no key gives 0."""
        seen = scores.masked_fill(~valid, 0)
        return seen / valid.sum(-1, keepdim=True).clamp(min=1) if self.mean else seen


@dataclass(frozen=True)
class SelfAdjust:
    """SA-Softmax: the softmax times an affine image of the score itself.

    Attributes:
        variant: 1 to 4.
        detach_extrema: hold m and M constant in the gradient. As published they are not, and for the dominant key
            of a row with M > 0 the gradient of variant 4 then vanishes as that of the softmax does.

    Raises:
        UsageError: another variant, or detach_extrema that is neither True nor False.
    """

    variant: int = 4
    detach_extrema: bool = False

    def __post_init__(self):
        if type(self.variant) is not int or self.variant not in VARIANTS:
            raise refuse("the variant of self_adjust", self.variant, "are 1, 2, 3 and 4")
        check_flag("detach_extrema of self_adjust", self.detach_extrema)

    @property
    def name(self) -> str:
        """What `explain` says."""
        return f"self_adjust({self.variant}{', detach_extrema=True' if self.detach_extrema else ''})"

    def __call__(self, scores: Tensor, valid: Tensor) -> Tensor:
        """Return the weights (B, H, Tq, Tk); a row that sees no key gives 0."""
        p = softmax(scores, valid)
        z = scores.masked_fill(~valid, 0)
        if self.variant == 1:
            return z * p
        low, high = self._extrema(scores, valid)  # (B, H, Tq, 1)
        if self.variant == 2:
            return (z - low) * p
        if self.detach_extrema:  # one key alone is both extrema: a constant, and no slope of 1 / |z|
            z = torch.where(valid.sum(-1, keepdim=True) == 1, z.detach(), z)
        if self.variant == 4:
            low, high = low.clamp(max=0), high.clamp(min=0)
        return (z - low) / (high - low + EPS) * p

    def _extrema(self, scores: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return min and max over visible keys, 0 in rows without any."""
        if not scores.shape[-1]:  # torch has no minimum of nothing
            return scores.sum(-1, keepdim=True), scores.sum(-1, keepdim=True)
        most = torch.finfo(scores.dtype).max
        empty = ~valid.any(-1, keepdim=True)
        low = scores.masked_fill(~valid, most).amin(-1, keepdim=True).masked_fill(empty, 0)
        high = scores.masked_fill(~valid, -most).amax(-1, keepdim=True).masked_fill(empty, 0)
        return (low.detach(), high.detach()) if self.detach_extrema else (low, high)
