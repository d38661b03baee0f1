"""DAPE (arXiv 2405.14722, eq. 5) beside a bias of the distance alone, by tiles that stay in the cache; see `toeplitz`.

Per pair, head of D numbers and hidden map of W: 4 D operations for scores and mixing, 4 W for the network (the bias's
half of it is a table), on the pairs of the past alone.
"""

from __future__ import annotations

from torch import Tensor

from lissome.attention.backends import refined
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention

NAME = "dape"
LEAST = 2**17  # pairs from which it is the quicker one, by trial: training on a text of 128 tokens, 8 heads of 32
SHORTEST = 0  # keys of a text from which it is
_operator = refined.operator("dape")


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why it cannot run these tensors and this recipe, as a clause; an empty text if it can."""
    if (kernel := getattr(recipe.refine, "kernel", 1)) != 1:
        return f"its kernel is 1, and that of the refinement {kernel}"
    return refined.refusal(q, k, v, frame, recipe, dropout)


def attend(
    q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), as `naive.attend` does, of what is not refused."""
    return refined.attend(_operator, q, k, v, recipe, scale)
