"""DAPE V2 (arXiv 2410.04798) beside a bias of the distance alone, by tiles that stay in the cache; see `toeplitz`.

Per pair, head of D numbers, hidden map of W and kernel k: 4 D operations for scores and mixing, 4 k W for the network
(the bias's half of it is a table), on the pairs of the past alone.
"""

from __future__ import annotations

from torch import Tensor

from lissome.attention.backends import refined
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention

NAME = "convolved"
LEAST = 2**17  # pairs from which it is the quicker one, by trial: training on a text of 128 tokens, 8 heads of 32
SHORTEST = 0  # keys of a text from which it is
_operator = refined.operator("convolved")


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why it cannot run these tensors and this recipe, as a clause; an empty text if it can."""
    if getattr(recipe.refine, "kernel", 3) == 1:
        return "its kernel is 3 or more, and that of the refinement 1"
    if (hidden := getattr(recipe.refine, "hidden", "masked")) != "masked":
        return f"its hidden map is masked, and that of the refinement {hidden}"
    return refined.refusal(q, k, v, frame, recipe, dropout)


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), as `naive.attend` does, of what is not refused."""
    return refined.attend(_operator, q, k, v, recipe, scale)
