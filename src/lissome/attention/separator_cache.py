"""Keys and values of a long stream in bounded memory: first tokens, separators and neighbours (arXiv 2412.12094).

A layer holds, section 3.2 of the paper (its a, s, w and c are `initial`, `separators_kept`, `local` and `capacity`),

    [ initial | separators | past window | local window ]

New tokens enter the local window, and what it pushes out enters the past window. When new tokens would exceed the
capacity, all of the past window is dropped but its separators, which join theirs; of those the newest are kept.

Differs from the paper's code: each row of a batch keeps separators of its own; what is dropped is dropped when the next
tokens are announced, not after the last ones, which is the same keys for each query; and a text may be read in parts,
which drops between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lissome._checks import check_columns, check_whole
from lissome._errors import UsageError, unknown
from lissome.attention.cache import GrowingCache
from lissome.attention.frame import Frame, positions
from lissome.attention.segments import separators
from lissome.attention.validity import See, Validity

POSITIONS = ("text", "cache")


@dataclass(frozen=True)
class Columns:
    """What a cache holds in each column, the same for all layers.

    Attributes:
        tokens: (B, N) int64.
        places: (B, N) int64, positions in the text, -1 where there is nothing.
        turned: (B, N) int64, positions that a rotary stage turned the keys to when they came.
    """

    tokens: Tensor
    places: Tensor
    turned: Tensor

    def take(self, columns: Tensor, there: Tensor) -> Columns:
        """Return the columns (B, n), those that are there (B, n) bool."""
        each = (x.gather(1, columns) for x in (self.tokens, self.places, self.turned))
        return Columns(*(x.masked_fill(~there, fill) for x, fill in zip(each, (0, -1, -1), strict=True)))

    def join(self, more: Columns) -> Columns:
        """Return these columns and more behind them."""
        pairs = ((self.tokens, more.tokens), (self.places, more.places), (self.turned, more.turned))
        return Columns(*(torch.cat(pair, 1) for pair in pairs))


class SeparatorCache:
    """Keep the first tokens, the newest separators and the neighbours; drop others when there are too many.

    A forward is announced once, and each layer then adds its own, as with `GrowingCache`. The tokens of one forward see
    all that is held and one another; what they see of a text depends on how it is cut into forwards. Rows that hold
    fewer tokens are padded on the left. At most `capacity` tokens are held, more only while a forward brings more than
    fit beside what may not be dropped. Gradients do not go through a cache.

    What was dropped is not recalled: with a share r of separators their block covers about separators_kept / r tokens.

    Args:
        layers: how many layers append to it.
        ids: tokens that are separators, or a rule on keys, such as `every_kth(8)` for FixLLM; none at all, with
            `separators_kept=0`, is StreamingLLM.
        initial: a, first tokens of each row that stay.
        separators_kept: s.
        local: w, newest tokens that stay.
        capacity: c, above a + s + w.
        positions: text, as far as a model was trained; or cache, where a token's position is its place among those
            that are held, so that a stream may be longer: keys are kept as they came, and are turned by the difference.
        rotary: what turns the keys of each layer, None for a layer that turns none; needed for positions in the cache.

    Raises:
        UsageError: sizes below their least or that leave no room, unknown positions, or positions in the cache without
            a rotary stage for each layer.

    >>> cache = SeparatorCache(1, [13], initial=1, separators_kept=2, local=2, capacity=6)
    >>> for token in (7, 13, 8, 9, 8, 9, 8, 9):
    ...     frame = cache.begin(torch.tensor([[token]]))
    ...     k, v = cache.append(0, torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4))
    >>> frame.keys, frame.tokens
    (tensor([[0, 1, 4, 5, 6, 7]]), tensor([[ 7, 13,  8,  9,  8,  9]]))
    """

    def __init__(
        self,
        layers: int,
        ids: Iterable[int] | Validity,
        *,
        initial: int = 4,
        separators_kept: int = 64,
        local: int = 256,
        capacity: int = 800,
        positions: str = "text",
        rotary: Sequence[nn.Module | None] | None = None,
    ):
        check_whole("layers", layers)
        check_whole("initial", initial, 0)
        check_whole("separators_kept", separators_kept, 0)
        check_whole("local", local)
        check_whole("capacity", capacity)
        if capacity <= (least := initial + separators_kept + local):
            parts = f"{initial} first tokens, {separators_kept} separators and {local} neighbours"
            raise UsageError(f"the capacity is {capacity}, and {parts} stay; legal are {least + 1} and more")
        if positions not in POSITIONS:
            raise unknown("positions", positions, POSITIONS)
        if positions == "cache" and (rotary is None or len(rotary) != layers):
            raise UsageError(
                "positions in the cache move, and keys are turned along by the rotary stage of each layer; "
                "legal is such as rotary=[recipe.rotary for recipe in model.recipes]"
            )
        self.marks = _marks(ids, separators_kept)
        self.initial, self.separators_kept, self.local, self.capacity = initial, separators_kept, local, capacity
        self.positions = positions
        turns: Sequence[nn.Module | None] = rotary if positions == "cache" and rotary else [None] * layers
        self.layers = [_Layer(capacity, turn) for turn in turns]
        self.columns: Columns | None = None  # of the last forward
        self.whole = True  # whether every row has something in every column
        self.dropped = False
        self._read: Tensor | int = 0  # tokens of the text so far, (B, 1)
        self._step = _Step(0, 0)

    @property
    def held(self) -> Tensor:
        """How many tokens each row holds, (B,) int64."""
        if self.columns is None:
            return torch.zeros(0, dtype=torch.long)
        return (self.columns.places >= 0).sum(1)

    def begin(self, tokens: Tensor, present: Tensor | None = None) -> Frame:
        """Announce new tokens, drop what has to go, and return the frame of the queries and all keys.

        Args:
            tokens: (B, T) int64.
            present: (B, T) bool, False at padding.

        Raises:
            UsageError: another number of rows than before, present of another shape than tokens, or other dtypes.
        """
        before = self.columns
        _check(tokens, present, before)
        here = torch.ones_like(tokens, dtype=torch.bool) if present is None else present
        start = stop = 0 if before is None else before.tokens.shape[1]
        columns = None
        if before is not None and start + tokens.shape[1] > self.capacity:
            before, columns = self._drop(before, here)
            stop = before.tokens.shape[1]
        self.whole = self.whole and present is None
        places = positions(here, self._read)
        self._read = self._read + here.sum(1, keepdim=True)
        new = Columns(tokens, places, places)
        held = new if before is None else before.join(new)
        there = held.places >= 0
        if self.positions == "cache":
            now = positions(there)
            new = replace(new, turned=now[:, stop:])
            held = new if before is None else before.join(new)
        else:
            now = held.places
        shift = None if columns is None else now[:, :stop] - held.turned[:, :stop]
        self.columns, self._step = held, _Step(start, stop, columns, shift)
        if self.whole and (self.positions == "cache" or not self.dropped):
            keys = torch.arange(now.shape[1], device=tokens.device)[None]
            return Frame(keys[:, stop:], keys, held.tokens, None, whole=True)
        gaps = self.positions == "text" and self.dropped
        return Frame(now[:, stop:], now, held.tokens, None if self.whole else there, gaps=gaps)

    def _drop(self, held: Columns, new: Tensor) -> tuple[Columns, Tensor | None]:
        """Return what stays of each row, on the right, and which columns that is; None: all."""
        there = held.places >= 0
        full = there.sum(1) + new.sum(1) > self.capacity  # rows
        if not full.any():
            return held, None
        newest = there & (_from_behind(there) <= self.local)
        first = there & (held.places < self.initial)
        ends = there & ~newest & ~first & self._ends(held)
        stays = first | newest | (ends & (_from_behind(ends) <= self.separators_kept))
        stays = torch.where(full[:, None], stays, there)
        counts = stays.sum(1)
        columns = torch.argsort(stays.int(), dim=1, stable=True)[:, held.tokens.shape[1] - int(counts.max()) :]
        there = stays.gather(1, columns)
        self.whole, self.dropped = bool(there.all()), True
        return held.take(columns, there), columns

    def _ends(self, held: Columns) -> Tensor:
        if self.marks is None:
            return torch.zeros_like(held.tokens, dtype=torch.bool)
        return self.marks(Frame(held.places[:, -1:], held.places, held.tokens))

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new keys and values (B, G, T, D) of a layer, and return all that are held, (B, G, Tk, D).

        Raises:
            UsageError: a layer that the cache does not have, or keys that were not announced.
        """
        if layer not in range(len(self.layers)):
            raise UsageError(f"layer {layer} adds to a cache for {len(self.layers)}; legal are 0 and more, below that")
        announced = 0 if self.columns is None else self.columns.tokens.shape[1] - self._step.stop
        if k.shape[2] != announced or self.layers[layer].length != self._step.start:
            raise UsageError(
                f"a layer that holds {self.layers[layer].length} keys adds {k.shape[2]} where {announced} to "
                f"{self._step.start} were announced; call begin once a forward"
            )
        return self.layers[layer].append(k.detach(), v.detach(), self._step)

    def state(self) -> dict[str, Any]:
        """Return all that is held, as tensors, numbers and lists of them, for `restore`."""
        columns = self.columns
        return {
            "columns": None if columns is None else [columns.tokens, columns.places, columns.turned],
            "read": self._read,
            "whole": self.whole,
            "dropped": self.dropped,
            "layers": [each.state() for each in self.layers],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold what another cache of the same sizes held when it gave its `state`; what comes next is the same.

        Raises:
            UsageError: it had another number of layers.
        """
        if (count := len(state["layers"])) != len(self.layers):
            raise UsageError(f"the state is of {count} layers, and the cache has {len(self.layers)}; legal are as many")
        self.columns = None if state["columns"] is None else Columns(*state["columns"])
        self._read, self.whole, self.dropped = state["read"], state["whole"], state["dropped"]
        for layer, own in zip(self.layers, state["layers"], strict=True):
            layer.restore(own)


Cache = GrowingCache | SeparatorCache


@dataclass(frozen=True)
class _Step:
    """What each layer does before it adds.

    Attributes:
        start, stop: columns before something is dropped, and after.
        columns: (B, stop) which ones stay; None: all.
        shift: (B, stop) from where each was turned to, to where it stands.
    """

    start: int
    stop: int
    columns: Tensor | None = None
    shift: Tensor | None = None


class _Layer:
    """Keys as they came, keys as they are shown, and values."""

    def __init__(self, capacity: int, rotary: nn.Module | None):
        self.rotary = rotary
        self.keys, self.values = _Room(capacity), _Room(capacity)
        self.shown = self.keys
        self.room = capacity

    @property
    def length(self) -> int:
        return self.keys.length

    def append(self, k: Tensor, v: Tensor, step: _Step) -> tuple[Tensor, Tensor]:
        if step.columns is not None:
            self.keys.take(step.columns)
            self.values.take(step.columns)
            if self.rotary is not None:
                self.shown = _Room(self.room)
                self.shown.add(self.rotary(self.keys.all(), step.shift))
        for room, x in ((self.keys, k), (self.values, v)):
            room.add(x)
        if self.shown is not self.keys:
            self.shown.add(k)
        return self.shown.all(), self.values.all()

    def state(self) -> dict[str, Any]:
        rooms = {"keys": self.keys, "values": self.values} | ({} if self.shown is self.keys else {"shown": self.shown})
        return {name: room.all() for name, room in rooms.items() if room.length}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.keys, self.values, self.shown = (_Room(self.room) for _ in range(3))
        for name, held in state.items():
            {"keys": self.keys, "values": self.values, "shown": self.shown}[name].add(held)
        if "shown" not in state:
            self.shown = self.keys


class _Room:
    """A tensor (B, G, length, D) with room behind it."""

    def __init__(self, room: int):
        self.room, self.length = room, 0
        self.held: Tensor | None = None

    def add(self, x: Tensor) -> None:
        old, stop = self.held, self.length + x.shape[2]
        if old is None or old.shape[2] < stop:
            self.held = x.new_empty(*x.shape[:2], max(min(self.room, 2 * stop), stop), x.shape[3])
            if old is not None:
                self.held[:, :, : self.length] = old[:, :, : self.length]
        assert self.held is not None
        self.held[:, :, self.length : stop] = x
        self.length = stop

    def take(self, columns: Tensor) -> None:
        """Keep the columns (B, n) alone; what was handed out stays what it was."""
        held = self.all()
        index = columns[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
        self.held, self.length = None, 0
        self.add(held.gather(2, index))

    def all(self) -> Tensor:
        assert self.held is not None
        return self.held[:, :, : self.length]


def _from_behind(marked: Tensor) -> Tensor:
    """Return how many are marked from each column of (B, N) on, itself among them."""
    return marked.flip(1).cumsum(1).flip(1)


def _marks(ids: Iterable[int] | Validity, kept: int) -> See | None:
    """Return what says of held columns which are separators."""
    if not isinstance(ids, Validity):
        ids = tuple(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else ids
        if kept == 0 and ids == ():
            return None
        ids = separators(ids)
    if ids.split is None or ids.split.near != 0:
        raise UsageError(f"the rule '{ids.name}' reads more than the key; legal are such as every_kth(8)")
    return ids.split.kept


def _check(tokens: Tensor, present: Tensor | None, before: Columns | None) -> None:
    check_columns("tokens", tokens, torch.long)
    if present is not None:
        check_columns("present", present, torch.bool)
        if present.shape != tokens.shape:
            raise UsageError(
                f"present has shape {tuple(present.shape)}; legal is that of tokens, {tuple(tokens.shape)}"
            )
    if before is not None and len(before.tokens) != len(tokens):
        raise UsageError(f"the cache holds {len(before.tokens)} rows, and {len(tokens)} came")
