"""What stands beside a key where keys between others were dropped: its neighbours in the text, not in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention.frame import Frame

Refine = Callable[[Tensor, Tensor | None, Tensor], Tensor]


def refine(stage: Refine, scores: Tensor, bias: Tensor | None, valid: Tensor, frame: Frame) -> Tensor:
    """Return what a refinement makes of scores (B, H, Tq, Tk), as if the dropped keys were there and hidden.

    Where a frame has `gaps`, keys that are no neighbours in the text are put apart by columns that nobody sees: as many
    as were dropped, or as the refinement reads on either side (`beside`). It reads 0 there, as at any hidden pair.

    Args:
        stage: the refinement.
        scores: S, (B, H, Tq, Tk).
        bias: P, (1 or B, H, Tq, Tk), or None.
        valid: (1 or B, 1, Tq, Tk) bool.
        frame: where the keys stand, in the order of the text.

    >>> from lissome.attention import Dape
    >>> scores, seen = torch.randn(1, 2, 1, 3), torch.ones(1, 1, 1, 3).bool()
    >>> dape, kept = Dape(2, kernel=3, biased=False), torch.tensor([[0, 1, 9]])
    >>> gone = refine(dape, scores, None, seen, Frame(kept[:, -1:], kept, gaps=True))
    >>> alone = dape(scores[..., 2:], None, seen[..., 2:])
    >>> torch.allclose(gone[..., 2:], alone), torch.allclose(dape(scores, None, seen)[..., 2:], alone)
    (True, False)
    """
    beside = getattr(stage, "beside", 0) if frame.gaps else 0
    if not beside:
        return stage(scores, bias, valid)
    steps = frame.keys.diff(dim=1).clamp(1, beside + 1)  # padding stands at -1, in columns of its own
    columns = F.pad(steps.cumsum(1), (1, 0))[:, None, None]  # (1 or B, 1, 1, Tk)
    width = int(columns.max()) + 1

    def put(x: Tensor) -> Tensor:
        x, index = torch.broadcast_tensors(x, columns)
        return x.new_zeros(*x.shape[:-1], width).scatter(-1, index, x)

    found = stage(put(scores), None if bias is None else put(bias), put(valid))  # (B, H, Tq, width)
    return found.gather(-1, columns.expand(*found.shape[:-1], -1))
