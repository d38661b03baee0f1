"""Any recipe by tiles of queries: each is run by itself, and once more in the backward pass.

Memory is O(tile Tk) per layer in place of O(Tq Tk), for a third more time. Where no query sees the future, a tile
reads the keys up to its end alone, which is half of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
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
    # a refinement that does not say how far it reads is given all keys
    ahead = 0 if recipe.refine is None else getattr(recipe.refine, "ahead", keys)
    found = []
    for start in range(0, rows, tile):
        stop = min(start + tile, rows)
        # in a whole frame key j stands in column j, and query i of the last Tq in row i - (Tk - Tq)
        seen = min(keys, keys - rows + stop + ahead) if frame.whole and recipe.validity.causal else keys
        part = frame.rows(start, stop).columns(seen)
        asked = (q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], part, recipe, scale, dropout)
        if torch.is_grad_enabled():
            found.append(checkpoint(naive.attend, *asked, use_reentrant=False, preserve_rng_state=dropout > 0))
        else:
            found.append(naive.attend(*asked))
    return found[0] if len(found) == 1 else torch.cat(found, 2)
