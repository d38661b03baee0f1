"""Any recipe by tiles of queries: each is run by itself, and once more in the backward pass.

Memory is O(tile Tk) per layer in place of O(Tq Tk). Where no query sees the future, a tile reads the keys up to its end
alone, which is half of them, and those that its refinement reads beyond (`ahead`; all keys if it does not say so).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lissome.attention.backends import naive
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention

PAIRS = 2**22  # scores of one tile, over rows and heads: 16 MB in float32


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    frame: Frame,
    recipe: Attention,
    scale: float | None = None,
    dropout: float = 0.0,
    *,
    tile: int | None = None,
) -> Tensor:
    """Return the mix of values (B, H, Tq, Dv), as `naive.attend` does; `tile` queries at once, None is usual."""
    rows, keys = q.shape[2], k.shape[2]
    tile = tile or max(16, PAIRS // (q.shape[0] * q.shape[1] * keys))
    run, own = _Run(recipe), dict(recipe.named_parameters(prefix="recipe"))
    ahead = 0 if recipe.refine is None else getattr(recipe.refine, "ahead", keys)
    found = []
    for start in range(0, rows, tile):
        stop = min(start + tile, rows)
        # in a whole frame key j stands in column j, and query i of the last Tq in row i - (Tk - Tq)
        seen = min(keys, keys - rows + stop + ahead) if frame.whole and recipe.validity.causal else keys
        part = frame.rows(start, stop).columns(seen)
        asked = (q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], part, scale, dropout)
        if torch.is_grad_enabled():
            # the parameters as they are now: after a functional call the recipe has others when it is run again
            call = (functional_call, run, own, asked)
            found.append(checkpoint(*call, use_reentrant=False, preserve_rng_state=dropout > 0))
        else:
            found.append(run(*asked))
    return found[0] if len(found) == 1 else torch.cat(found, 2)


class _Run(nn.Module):
    """A recipe as a module that can be called with other parameters."""

    def __init__(self, recipe: Attention):
        super().__init__()
        self.recipe = recipe

    def forward(self, q: Tensor, k: Tensor, v: Tensor, frame: Frame, scale: float | None, dropout: float) -> Tensor:
        return naive.attend(q, k, v, frame, self.recipe, scale, dropout)
