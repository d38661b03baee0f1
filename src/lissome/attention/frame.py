"""Which queries meet which keys: positions, tokens and what is there, and no lengths anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lissome._checks import check_columns, check_whole
from lissome._errors import UsageError


@dataclass(frozen=True)
class Frame:
    """Where the queries and the keys of one attention stand.

    A full pass, a step of decoding, a padded row and a cache that has dropped keys differ in their frame alone; every
    stage reads it, so all of them are one code path.

    Attributes:
        queries: (1 or B, Tq) int64, position of each query; -1 for padding, which then sees nothing.
        keys: (1 or B, Tk) int64, position of each key.
        tokens: (B, Tk) int64, the token of each key, or None where no stage asks for it.
        present: (1 or B, Tk) bool, False where a column holds no token (padding); None: all do.
        whole: known without a look at the tensors: the keys are 0 .. Tk - 1, all present, and the queries are the
            last Tq of them. Fast paths ask for it.
        gaps: known likewise: keys between others were dropped, so that columns side by side need not be in the text.

    >>> frame = Frame.full(3)
    >>> frame.distance[0]
    tensor([[ 0, -1, -2],
            [ 1,  0, -1],
            [ 2,  1,  0]])
    """

    queries: Tensor
    keys: Tensor
    tokens: Tensor | None = None
    present: Tensor | None = None
    whole: bool = False
    gaps: bool = False

    @classmethod
    def full(
        cls,
        length: int,
        *,
        tokens: Tensor | None = None,
        present: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Frame:
        """Return the frame of a sequence that attends to itself.

        Args:
            length: T, of queries and keys alike.
            tokens: (B, T) int64.
            present: (B, T) bool, False at padding, left or right; positions count the tokens that are there.
            device: of the positions.

        Raises:
            UsageError: a length that is none, or tokens or present of another length or dtype.
        """
        check_whole("the length of a frame", length, 0)
        for name, value, dtype in (("tokens", tokens, torch.long), ("present", present, torch.bool)):
            if value is not None:
                check_columns(name, value, dtype)
                if value.shape[1] != length:
                    raise UsageError(f"{name} has shape {tuple(value.shape)}; legal is (B, {length})")
        if present is None:
            places = torch.arange(length, device=device)[None]  # (1, T)
            return cls(places, places, tokens, None, whole=True)
        places = positions(present)  # (B, T)
        return cls(places, places, tokens, present)

    @property
    def distance(self) -> Tensor:
        """How far each key lies behind each query, (1 or B, Tq, Tk) int64; negative in the future."""
        return self.queries[:, :, None] - self.keys[:, None, :]

    @property
    def device(self) -> torch.device:
        """The device of the positions."""
        return self.queries.device

    def rows(self, start: int, stop: int) -> Frame:
        """Return the frame of the queries [start, stop) and all keys."""
        return replace(self, queries=self.queries[:, start:stop], whole=self.whole and stop == self.queries.shape[1])

    def columns(self, start: int, stop: int) -> Frame:
        """Return the frame of all queries and the keys [start, stop)."""
        if start <= 0 and stop >= self.keys.shape[1]:
            return self
        part = slice(start, stop)
        tokens = None if self.tokens is None else self.tokens[:, part]
        present = None if self.present is None else self.present[:, part]
        return replace(self, keys=self.keys[:, part], tokens=tokens, present=present, whole=False)


def positions(present: Tensor, before: Tensor | int = 0) -> Tensor:
    """Return the position of each token, counted over those that are there; -1 where there is none.

    Args:
        present: (B, T) bool.
        before: tokens that came earlier, a number or (B, 1).

    >>> positions(torch.tensor([[False, True, True]]))
    tensor([[-1,  0,  1]])
    """
    counted = present.long().cumsum(-1) - 1 + before
    return counted.masked_fill(~present, -1)
