"""Any recipe by tiles of queries: each is run by itself, and once more in the backward pass.

Memory is O(tile Tk) per layer in place of O(Tq Tk). Where no query sees the future, a tile reads the keys up to its end
alone, which is half of them; where a rule has a `reach`, those from its start less the reach. A refinement that reads
columns ahead of a row says how many (`ahead`); a tile keeps all keys for one that does not.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lissome.attention.backends import naive
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention

PAIRS = 2**20  # scores of one tile, over rows and heads: 4 MB in float32
FEWEST = 32  # queries of one tile: with fewer the gradients of all keys cost more than those of the scores


def queries_at_once(heads: int, keys: int) -> int:
    """Return the queries of a tile, for so many heads over all rows and the keys that a query may read.

    >>> queries_at_once(8, 2048), queries_at_once(8, 2**20)
    (64, 32)
    """
    return max(FEWEST, PAIRS // max(1, heads * keys))


class _Tile(NamedTuple):
    """Queries [start, stop) and the keys [low, high) that they may read."""

    start: int
    stop: int
    low: int
    high: int

    def of(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys = slice(self.low, self.high)
        return q[:, :, self.start : self.stop], k[:, :, keys], v[:, :, keys]


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
    run, own = _Run(recipe), dict(recipe.named_parameters(prefix="recipe"))
    tiles = _tiles(q, k, frame, recipe, tile)
    parts = [frame.rows(one.start, one.stop).columns(one.low, one.high) for one in tiles]
    calls = [partial(_call, run, tuple(own), part, scale, dropout) for part in parts]
    if not torch.is_grad_enabled():
        found = [call(*one.of(q, k, v), *own.values()) for one, call in zip(tiles, calls, strict=True)]
    elif dropout or torch.compiler.is_compiling():
        # it remembers the state of the draws, and the compiler knows it
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout > 0)
        found = [again(call, *one.of(q, k, v), *own.values()) for one, call in zip(tiles, calls, strict=True)]
    else:
        return _Tiled.apply(tiles, calls, q, k, v, *own.values())
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _tiles(q: Tensor, k: Tensor, frame: Frame, recipe: Attention, tile: int | None) -> list[_Tile]:
    rows, keys = q.shape[2], k.shape[2]
    ahead = 0 if recipe.refine is None else getattr(recipe.refine, "ahead", keys)
    rule = recipe.validity
    # in a whole frame key j stands in column j, and query i of the last Tq in row i - (Tk - Tq)
    past = keys - rows
    reach = keys if rule.reach is None or not frame.whole else rule.reach + ahead
    size = tile or queries_at_once(q.shape[0] * q.shape[1], min(keys, reach + FEWEST))
    found = []
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        high = min(keys, past + stop + ahead) if frame.whole and rule.causal else keys
        found.append(_Tile(start, stop, max(0, past + start - reach), high))
    return found


class _Tiled(torch.autograd.Function):
    """Tiles one after another; the backward pass runs each again and adds its gradients where they belong.

    Autograd alone would fill a gradient of all keys with zeros for every tile.
    """

    @staticmethod
    def forward(tiles: list[_Tile], calls: list[partial[Tensor]], q: Tensor, k: Tensor, v: Tensor, *own: Tensor):
        out = v.new_empty((*q.shape[:3], v.shape[3]))
        for tile, call in zip(tiles, calls, strict=True):
            out[:, :, tile.start : tile.stop] = call(*tile.of(q, k, v), *own)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tiles, ctx.calls, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        q, k, v, *own = ctx.saved_tensors
        sums = [torch.zeros_like(x) for x in (q, k, v, *own)]
        for tile, call in zip(ctx.tiles, ctx.calls, strict=True):
            # of torch.func and not of autograd: it can be differentiated once more, and by torch.func too
            pull = torch.func.vjp(call, *tile.of(q, k, v), *own)[1]
            found = pull(slope[:, :, tile.start : tile.stop])
            for total, part in zip((*tile.of(*sums[:3]), *sums[3:]), found, strict=True):
                total += part
        return None, None, *sums


class _Run(nn.Module):
    """A recipe as a module that can be called with other parameters."""

    def __init__(self, recipe: Attention):
        super().__init__()
        self.recipe = recipe

    def forward(self, q: Tensor, k: Tensor, v: Tensor, frame: Frame, scale: float | None, dropout: float) -> Tensor:
        return naive.attend(q, k, v, frame, self.recipe, scale, dropout)


def _call(
    run: _Run,
    names: tuple[str, ...],
    frame: Frame,
    scale: float | None,
    dropout: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *own: Tensor,
) -> Tensor:
    # the parameters as they were handed in: after a functional call the recipe has others when it is run again
    return functional_call(run, dict(zip(names, own, strict=True)), (q, k, v, frame, scale, dropout))
