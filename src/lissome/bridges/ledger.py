"""What a cache that drops keys knows of its columns: place in the text, whether one is there, whether it is marked.

Layers that keep the same have one ledger; they only gather what it says. Rows do not know of each other: each drops
when its own tokens reach the capacity, keeps its own newest marked tokens, and stands at the right of its columns.
Tokens are noted as they come and read when something is to be dropped, so that a step costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.bridges.marks import Marks

STATE = ("stored", "left", "gone", "swept", "shown", "positions", "text", "marked", "_turned", "_count")


@dataclass(frozen=True)
class Rule:
    """What is kept of a row that is full.

    Attributes:
        marks: which tokens are separators.
        initial: how many of the first tokens.
        kept: how many separators, the newest; those among the first or in the window are not counted.
        local: how many of the last tokens.
        capacity: tokens from which a row is full; None: it never is.
    """

    marks: Marks
    initial: int
    kept: int
    local: int
    capacity: int | None


@dataclass(frozen=True)
class Swept:
    """What layers have to do.

    Attributes:
        index: (B, S) int64, which columns stay, in their order; others fill up the left of shorter rows.
        moved: (B, S) int64, how far each has moved from where its key was turned, if positions are those in the cache.
    """

    index: Tensor
    moved: Tensor


class Ledger:
    """The columns of one kind of layer, the newest ones included.

    Args:
        rule: what is kept.
        follows: whether positions are those in the cache.

    Attributes:
        stored: S, columns.
        left: columns that the last sweep left; those behind them can be taken back.
        gone: columns that were dropped.
        swept: whether columns are no longer those of the text.
        shown: (B, S) bool, which columns hold a token, kept since the first sweep; None: all do.
        text: (B, S) int64, the place of each token in its text, -1 where there is none; as far as it was read.
        marked: (B, S) bool, separators; as far as it was read.
        positions: (1 or B, T) int64, of the newest tokens, where they are those in the cache.
    """

    def __init__(self, rule: Rule, *, follows: bool):
        self.rule, self.follows = rule, follows
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.stored = self.left = self.gone = 0
        self.swept = False
        self.shown: Tensor | None = None
        self.positions: Tensor | None = None
        self.text = self.marked = self._turned = self._count = torch.empty(0)
        self._read = 0  # columns
        self._noted: list[tuple[Tensor, Tensor | None, Tensor | None, int]] = []

    def note(self, ids: Tensor, present: Tensor | None, positions: Tensor | None) -> Swept | None:
        """Take in the tokens of a forward, and say what has to leave before it.

        Args:
            ids: (B, T) int64.
            present: (B, T) bool, False at padding; None: all are there.
            positions: (1 or B, T) int64 at which the model will turn their keys; None: it counts columns.
        """
        before, coming, swept = self.stored, ids.shape[1], None
        if self.rule.capacity is not None and before and before + coming > self.rule.capacity:
            swept = self._sweep(coming, present, self.rule.capacity)
            before = self.stored
        self.stored = before + coming
        if self.swept:
            self._show(ids, present, before)
            positions = self.positions if self.follows else positions
        self._noted.append((ids, present, positions, self.gone + before))
        return swept

    def _show(self, ids: Tensor, present: Tensor | None, before: int) -> None:
        if self.shown is not None or present is not None:
            ones = ids.new_ones(len(ids), before, dtype=torch.bool) if self.shown is None else self.shown
            self.shown = torch.cat((ones, torch.ones_like(ids, dtype=torch.bool) if present is None else present), 1)
        if not self.follows:
            return
        if self.shown is None:
            self.positions = torch.arange(before, self.stored, device=ids.device)[None]
        else:
            self.positions = (self.shown.cumsum(1)[:, before:] - 1).clamp_min(0)

    def read(self) -> None:
        """Bring `text` and `marked` up to date."""
        if not self._noted:
            return
        ids = torch.cat([each[0] for each in self._noted], 1)  # (B, n)
        if not self._read:
            self._count = ids.new_zeros(len(ids), 1)
        if all(each[1] is None for each in self._noted):
            text = self._count + torch.arange(ids.shape[1], device=ids.device)
            self._count = self._count + ids.shape[1]
        else:
            there = [torch.ones_like(each[0], dtype=torch.bool) if each[1] is None else each[1] for each in self._noted]
            present = torch.cat(there, 1)
            order = present.cumsum(1)
            text = (self._count + order - 1).masked_fill(~present, -1)
            self._count = self._count + order[:, -1:]
        marked = self.rule.marks(ids, text) & (text >= 0)
        turned = torch.cat([_turned(*each) for each in self._noted], 1) if self.follows else text
        joined = not self._read
        self.text = text if joined else torch.cat((self.text, text), 1)
        self.marked = marked if joined else torch.cat((self.marked, marked), 1)
        self._turned = turned if joined else torch.cat((self._turned, turned), 1)
        self._read = self.text.shape[1]
        self._noted = []

    def _sweep(self, coming: int, present: Tensor | None, capacity: int) -> Swept | None:
        """Choose what rows keep that would be full with what is coming."""
        self.read()
        rule, there = self.rule, self.text >= 0
        order = there.cumsum(1)  # 1, 2 .. among the tokens of a row
        total = order[:, -1:]
        comes = torch.full_like(total, coming) if present is None else present.sum(1, keepdim=True)
        full = (total + comes > capacity) & (comes > 0)  # (B, 1)
        kept = (self.text < rule.initial) | (order > total - rule.local)
        marked = self.marked & ~kept
        newest = marked.flip(1).cumsum(1).flip(1)  # 1 is the newest
        kept = there & (kept | (marked & (newest <= rule.kept)) | ~full)
        counts = kept.sum(1)
        width, least, drops = torch.stack((counts.max(), counts.min(), (there & ~kept).any().long())).tolist()
        if width == self.stored and not drops:
            return None
        index = kept.to(torch.int8).argsort(stable=True)[:, self.stored - width :]  # what leaves comes first
        kept = kept.gather(1, index)
        self.text = self.text.gather(1, index).masked_fill(~kept, -1)
        self.marked = self.marked.gather(1, index) & kept
        self._turned = self._turned.gather(1, index)
        self.gone += self.stored - width
        self.stored = self.left = self._read = width
        self.swept, self.shown = True, None if least == width else kept
        places = (kept.cumsum(1) - 1).clamp_min(0)
        return Swept(index, places - self._turned)

    def seen(self, coming: int, window: int | None) -> Tensor:
        """Return which columns the newest tokens see, (B, 1, T, S) bool; a padded one sees its own.

        Args:
            coming: T.
            window: a token sees the first ones, separators, and those less than so far behind it; None: all columns.
        """
        self.read()
        columns = torch.arange(self.stored, device=self.text.device)
        own = columns[-coming:, None]  # (T, 1)
        seen = (columns <= own) & (self.text >= 0)[:, None]  # (B, T, S)
        if window is not None:
            near = self.text[:, -coming:, None] - self.text[:, None] < window
            seen = seen & (near | (self.marked | (self.text < self.rule.initial))[:, None])
        return (seen | (columns == own))[:, None]

    def check_crop(self, count: int) -> None:
        """Refuse to take back what stands before the last sweep.

        Raises:
            UsageError: there are fewer columns behind it.
        """
        if count > self.stored - self.left:
            raise UsageError(
                f"crop would take back {count} tokens, and {self.stored - self.left} came since keys were last "
                "dropped; legal are those, the tokens of the last forward always"
            )

    def crop(self, count: int) -> None:
        """Take back the newest columns."""
        self.read()
        self._count = self._count - (self.text[:, self._read - count :] >= 0).sum(1, keepdim=True)
        self.stored = self._read = self._read - count
        self.text, self.marked, self._turned = (
            each[:, : self.stored] for each in (self.text, self.marked, self._turned)
        )
        if self.shown is not None:
            self.shown = self.shown[:, : self.stored]

    def rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Choose, repeat or reorder rows."""
        if not self.stored:
            return
        self.read()
        self.text, self.marked, self._turned, self._count = map(
            change, (self.text, self.marked, self._turned, self._count)
        )
        self.shown = None if self.shown is None else change(self.shown)

    def state(self) -> dict[str, Any]:
        """Return all that is known, as tensors and numbers, for `restore`."""
        self.read()
        return {name: getattr(self, name) for name in STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know what another ledger of the same rule knew."""
        self.clear()
        for name in STATE:
            setattr(self, name, state[name])
        self._read = self.stored


def _turned(ids: Tensor, present: Tensor | None, positions: Tensor | None, start: int) -> Tensor:
    """Return where the keys of one forward were turned, (B, T)."""
    if positions is None:
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    return positions.to(ids.device).expand(len(ids), -1)
