"""Keys and values of what was read before, so that a next token costs one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lissome._checks import check_columns, check_whole
from lissome._errors import UsageError
from lissome.attention.frame import Frame, positions

FRAME = ("queries", "keys", "tokens", "present", "whole")  # what is kept of a frame


class GrowingCache:
    """Keep all keys and values; a forward is announced once, and each layer then adds its own.

    Positions, tokens and padding are the same for all layers and are kept once. Buffers grow by doubling, so a token
    is copied about twice in all. Gradients do not go through a cache.

    Args:
        layers: how many layers append to it.

    Raises:
        UsageError: fewer than 1 layer.

    >>> cache = GrowingCache(layers=1)
    >>> for tokens in (torch.tensor([[7, 8]]), torch.tensor([[9]])):
    ...     frame = cache.begin(tokens)
    ...     k, v = cache.append(0, torch.randn(1, 2, tokens.shape[1], 4), torch.randn(1, 2, tokens.shape[1], 4))
    >>> k.shape, frame.queries, frame.tokens
    (torch.Size([1, 2, 3, 4]), tensor([[2]]), tensor([[7, 8, 9]]))
    """

    def __init__(self, layers: int):
        check_whole("layers", layers)
        self.layers: list[_Buffer] = [_Buffer() for _ in range(layers)]
        self.frame: Frame | None = None  # of the last forward
        self.length = 0  # columns, padding included

    def begin(self, tokens: Tensor, present: Tensor | None = None) -> Frame:
        """Announce new tokens, and return the frame of their queries and all keys.

        Args:
            tokens: (B, T) int64.
            present: (B, T) bool, False at padding.

        Raises:
            UsageError: another number of rows than before, present of another shape than tokens, or other dtypes.
        """
        check_columns("tokens", tokens, torch.long)
        if present is not None:
            check_columns("present", present, torch.bool)
            if present.shape != tokens.shape:
                raise UsageError(
                    f"present has shape {tuple(present.shape)}; legal is that of tokens, {tuple(tokens.shape)}"
                )
        before = self.frame
        if before is not None and before.tokens is not None and len(before.tokens) != len(tokens):
            raise UsageError(f"the cache holds {len(before.tokens)} rows, and {len(tokens)} came")
        if before is None:
            frame = Frame.full(tokens.shape[1], tokens=tokens, present=present, device=tokens.device)
        else:
            frame = self._next(before, tokens, present)
        self.frame, self.length = frame, frame.keys.shape[1]
        return frame

    def _next(self, before: Frame, tokens: Tensor, present: Tensor | None) -> Frame:
        assert before.tokens is not None
        kept, count = self.length, tokens.shape[1]
        seen = torch.cat((before.tokens, tokens), 1)
        if before.present is None and present is None:
            keys = torch.arange(kept + count, device=tokens.device)[None]
            return Frame(keys[:, kept:], keys, seen, None, whole=True)
        old = before.tokens.new_ones(before.tokens.shape).bool() if before.present is None else before.present
        new = tokens.new_ones(tokens.shape).bool() if present is None else present
        queries = positions(new, old.sum(1, keepdim=True))
        keys = torch.cat((before.keys.expand(len(tokens), -1), queries), 1)
        return replace(before, queries=queries, keys=keys, tokens=seen, present=torch.cat((old, new), 1), whole=False)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new keys and values (B, G, T, D) of a layer, and return all of them, (B, G, Tk, D).

        Raises:
            UsageError: a layer that the cache does not have, or keys that were not announced.
        """
        if layer not in range(len(self.layers)):
            raise UsageError(f"layer {layer} adds to a cache for {len(self.layers)}; legal are 0 and more, below that")
        return self.layers[layer].append(k, v, self.length)

    def state(self) -> dict[str, Any]:
        """Return all that is held, as tensors, numbers and lists of them, for `restore`."""
        frame = None if self.frame is None else {name: getattr(self.frame, name) for name in FRAME}
        return {"length": self.length, "frame": frame, "layers": [each.state() for each in self.layers]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold what another cache of as many layers held when it gave its `state`; what comes next is the same."""
        self.length = state["length"]
        self.frame = None if state["frame"] is None else Frame(**state["frame"])
        for layer, own in zip(self.layers, state["layers"], strict=True):
            layer.restore(own)


class _Buffer:
    """Keys and values of one layer, with room behind them."""

    kept: tuple[Tensor, Tensor] | None = None
    length = 0

    def append(self, k: Tensor, v: Tensor, stop: int) -> tuple[Tensor, Tensor]:
        start = stop - k.shape[2]
        if start != self.length:
            raise UsageError(
                f"a layer holds {self.length} keys where {start} were announced; call begin once a forward"
            )
        if start == 0 and self.kept is None:
            self.kept, self.length = (k.detach(), v.detach()), stop
            return self.kept
        assert self.kept is not None
        keys, values = self.kept
        if keys.shape[2] < stop:
            keys, values = self.kept = _grown(keys, start, 2 * stop), _grown(values, start, 2 * stop)
        keys[:, :, start:stop], values[:, :, start:stop] = k.detach(), v.detach()
        self.length = stop
        return keys[:, :, :stop], values[:, :, :stop]

    def state(self) -> dict[str, Any]:
        if self.kept is None:
            return {"kept": None, "room": 0}
        return {"kept": [each[:, :, : self.length] for each in self.kept], "room": self.kept[0].shape[2]}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["kept"] is None:
            self.kept, self.length = None, 0
            return
        keys, values = state["kept"]
        self.length = keys.shape[2]
        # as much room as there was: kernels may round otherwise where rows lie elsewhere
        self.kept = _grown(keys, self.length, state["room"]), _grown(values, self.length, state["room"])


def _grown(old: Tensor, length: int, room: int) -> Tensor:
    new = old.new_zeros((*old.shape[:2], room, old.shape[3]))
    new[:, :, :length] = old[:, :, :length]
    return new
