"""Keys and values of one layer in a cache that drops some: as a dynamic layer, and a gather now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.bridges.installed import CacheLayerMixin
from lissome.bridges.ledger import Ledger, Swept
from lissome.bridges.turned import turn


class Columns(CacheLayerMixin):
    """The columns of a layer.

    Args:
        ledger: of its columns; forwards are noted there before they reach a layer.

    Attributes:
        keys: (B, G, S, D), as attention is to see them.
        values: (B, G, S, D).
        arrived: (B, G, left, D), the keys that the last sweep left, as they came; None where keys do not move. A key
            that moves again is turned from here, never twice.
    """

    is_croppable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.keys: Any = None  # None until the first keys come
        self.values: Any = None
        self.ledger = ledger
        self.length = 0
        self.arrived: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with the first keys."""
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Append what has come, (B, G, T, D) each, and return all.

        Raises:
            UsageError: the ledger knows nothing of it.
        """
        length = self.length + key_states.shape[2]
        if length != self.ledger.stored:
            raise UsageError(
                f"{key_states.shape[2]} tokens came that the cache was not told of; call the model inside "
                "`with cache.attach(model):`, or generate(custom_generate=attached)"
            )
        if self.length:
            self.keys = torch.cat((self.keys, key_states), 2)
            self.values = torch.cat((self.values, value_states), 2)
        else:
            self.lazy_initialization(key_states, value_states)
        self.length = length
        return self.keys, self.values

    def sweep(self, swept: Swept, angles: tuple[Tensor, Tensor] | None) -> None:
        """Keep some columns.

        Args:
            swept: which.
            angles: cosines and sines (B, 1, S, R) by which keys are to be turned from where they came; None: not.
        """
        index = swept.index.to(self.keys.device)
        keys = self.keys
        if angles is not None and self.arrived is not None:
            keys = torch.cat((self.arrived, keys[:, :, self.arrived.shape[2] :]), 2)
        keys, self.values = (_gathered(each, index) for each in (keys, self.values))
        if angles is not None:
            self.arrived = keys
            keys = turn(keys, *(each.to(keys.device) for each in angles))
        self.keys, self.length = keys, index.shape[1]

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return how many columns attention will see, and where they begin; older transformers give positions."""
        coming = len(query_length) if isinstance(query_length, Tensor) else query_length
        return self.length + coming, 0

    def get_seq_length(self) -> int:
        """Return how many columns have come, those that were dropped included."""
        return self.length + self.ledger.gone

    def get_max_length(self) -> int:
        """Return -1: there may come any number."""
        return -1

    get_max_cache_shape = get_max_length  # as transformers before 5.13 calls it

    def rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Choose, repeat or reorder rows."""
        if self.length:
            self.keys, self.values = change(self.keys), change(self.values)
            self.arrived = None if self.arrived is None else change(self.arrived)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest columns, as many as the number is below 0."""
        if tokens_to_remove and self.length:
            self.length += tokens_to_remove
            self.keys, self.values = self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def state(self) -> dict[str, Any]:
        """Return what is stored, as tensors and None, for `restore`."""
        return {"keys": self.keys, "values": self.values, "arrived": self.arrived}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Store what another layer stored."""
        self.reset()
        if state["keys"] is not None:
            self.lazy_initialization(state["keys"], state["values"])
            self.arrived, self.length = state["arrived"], state["keys"].shape[2]

    def reset(self) -> None:
        """Forget all."""
        self.keys = self.values = self.arrived = None
        self.is_initialized, self.length = False, 0


def _gathered(whole: Tensor, index: Tensor) -> Tensor:
    if len(index) == 1:
        return whole.index_select(2, index[0])
    return whole.gather(2, index[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3]))
