"""A key-value cache that keeps first tokens, separators and a window: SepLLM (arXiv 2412.12094), in `generate()`.

    cache = SepCache(model.config, separator_ids(tokenizer))
    with cache.attach(model):
        model.generate(**inputs, past_key_values=cache, max_new_tokens=500)

Columns of a row, in the paper's words: [ initial | separators | past window | local window ]. A row that has reached
the capacity drops what is no separator from its past window, and its oldest separators beyond `separators_kept`.

Differs from the paper's code: each row of a batch keeps its own separators; positions in the cache turn each key once,
from where it came; what is dropped leaves at the start of the next forward, so that tokens of the last can be cropped.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lissome._checks import check_whole
from lissome._errors import UsageError, unknown
from lissome.bridges.announced import announcing, check_config, decoder_of, placing, present_of, tokens_of
from lissome.bridges.columns import Columns
from lissome.bridges.installed import GENERATION_MODES_MAPPING, Cache
from lissome.bridges.kinds import check_room, windows_of
from lissome.bridges.ledger import Ledger, Rule, Swept
from lissome.bridges.marks import Every, marks_of
from lissome.bridges.replaced import replaced
from lissome.bridges.turned import angles, frequencies_of

POSITIONS = ("text", "cache")
SEES = ("stored", "window")


class SepCache(Cache):
    """A cache of bounded size for any decoder of transformers whose layers attend to all.

    Args:
        config: of the model.
        separators: ids, as of `separators.separator_ids`; `Every(k)` keeps every k-th token in their place (FixLLM),
            and () none (StreamingLLM).
        initial: a, how many first tokens of each row stay.
        separators_kept: s, how many separators of each row stay, the newest.
        local: w, how many last tokens stay; or one number a layer.
        capacity: c, tokens of a row from which it drops some.
        positions: text: tokens keep the positions that the model gave them. cache: positions are those among what is
            kept, for texts longer than the model was trained for; half-split rotary alone, which `attach` tries.
        sees: stored: a token sees all that is stored. window: it sees the first tokens, separators and those less than
            `local` behind it, as in training with that mask; what it sees then does not depend on how the text was cut
            into forwards, as long as no separator was dropped.
        full: layers that keep everything: none, h (the first), ht (first and last), hmt (and the middle one), all; or
            their numbers.
        chunk: the most tokens of a forward; peak memory is then bounded by the capacity. None: a forward may bring any
            number, on top of what is kept.

    Raises:
        UsageError: a size that is none, initial + separators_kept + local + chunk above the capacity, ids of another
            vocabulary, a model with windows of its own or rotary that changes with the length.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> small = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=8, pad_token_id=0)
    >>> model = LlamaForCausalLM(small).eval()
    >>> cache = SepCache(model.config, [3], initial=1, separators_kept=2, local=4, capacity=10)
    >>> with cache.attach(model):
    ...     text = model.generate(
    ...         torch.ones(1, 5, dtype=torch.long), past_key_values=cache, min_new_tokens=20, max_new_tokens=20
    ...     )
    >>> cache.get_seq_length(), cache.stored <= 10
    (24, True)
    """

    def __init__(
        self,
        config: Any,
        separators: Iterable[int] | Every,
        initial: int = 4,
        separators_kept: int = 64,
        local: int | Sequence[int] = 256,
        capacity: int = 800,
        positions: str = "text",
        *,
        sees: str = "stored",
        full: str | Sequence[int] = "none",
        chunk: int | None = None,
    ):
        config = config.get_text_config(decoder=True)
        check_config(config)
        for name, value in (("initial", initial), ("separators_kept", separators_kept)):
            check_whole(name, value, 0)
        check_whole("capacity", capacity)
        if chunk is not None:
            check_whole("chunk", chunk)
        if positions not in POSITIONS:
            raise unknown("positions", positions, POSITIONS)
        if sees not in SEES:
            raise unknown("sees", sees, SEES)
        windows = windows_of(local, full, config.num_hidden_layers)
        check_room(initial, separators_kept, windows, chunk, capacity)
        marks = marks_of(separators, config.vocab_size)
        self.positions, self.sees, self.chunk, self.capacity = positions, sees, chunk, capacity
        self.follows = positions == "cache"
        made: dict[int | None, Ledger] = {}
        for window in windows:
            room = None if window is None else capacity
            rule = Rule(marks, initial, separators_kept, window or 1, room)
            made.setdefault(window, Ledger(rule, follows=self.follows))
        self.ledgers = list(made.values())  # one a kind of layer, that of the first layer before others
        self.columns = [Columns(made[window]) for window in windows]
        super().__init__(layers=list(self.columns))
        self.frequencies: Tensor | None = None
        self.mean_stored, self.most_stored, self._forwards = 0.0, 0, 0
        self._model = ""  # to which it is attached
        self._others: list[dict[str, Any]] = []  # what the hooks of layers of other kinds are to place

    @property
    def stored(self) -> int:
        """Columns that are stored now, the mean over layers."""
        return round(sum(layer.ledger.stored for layer in self.columns) / len(self.columns))

    def kept(self, layer: int = 0) -> Tensor:
        """Return the places in the text of what a layer stores, (B, S) int64; -1 where a shorter row has nothing."""
        self.columns[layer].ledger.read()
        return self.columns[layer].ledger.text

    @contextlib.contextmanager
    def attach(self, model: nn.Module) -> Iterator[SepCache]:
        """Let a model tell the cache of its forwards while inside; the model itself is not changed.

        Raises:
            UsageError: the cache is attached already, the model is of another config, or positions='cache' is not for
                its layout.
        """
        decoder = decoder_of(model)
        if self._model:
            raise UsageError(f"this cache is attached to a {self._model} already; leave that `with` before another")
        if decoder.config.num_hidden_layers != len(self.columns):
            raise UsageError(
                f"the cache was made for {len(self.columns)} layers and this {type(model).__name__} has "
                f"{decoder.config.num_hidden_layers}; make it of model.config"
            )
        check_config(decoder.config)
        if self.follows:
            self.frequencies = frequencies_of(decoder)
        hooks = [announcing(decoder, self, self._announce)]
        for module, own in zip(decoder.layers if len(self.ledgers) > 1 else (), self.columns, strict=False):
            if own.ledger is not self.ledgers[0]:
                hooks.append(placing(module, self, partial(self._place, decoder, self.ledgers.index(own.ledger))))
        self._model = type(model).__name__
        try:
            yield self
        finally:
            self._model = ""
            for hook in hooks:
                hook.remove()

    def _announce(self, decoder: Any, named: dict[str, Any]) -> dict[str, Any]:
        """Take in what a forward brings, drop what has to leave, and return the arguments that are to be replaced."""
        ids, main = tokens_of(decoder, named), self.ledgers[0]
        coming, before = ids.shape[1], main.stored + main.gone
        self._check(coming)
        present = present_of(named.get("attention_mask"), before + coming, coming)
        for ledger in self.ledgers:
            swept = ledger.note(ids, present, named.get("position_ids"))
            if swept is not None:
                self._sweep(ledger, swept)
        self._count()
        first, *others = replaced(decoder, self.ledgers, coming, named, windowed=self.sees == "window")
        self._others = others
        return first

    def _check(self, coming: int) -> None:
        if self.chunk is not None and coming > self.chunk:
            raise UsageError(
                f"this forward brings {coming} tokens and chunk is {self.chunk}; give "
                f"generate(prefill_chunk_size={self.chunk}), or chunk=None where memory may grow with the prompt"
            )
        for layer in self.columns:
            if layer.length != layer.ledger.stored:
                raise UsageError("a forward with this cache stopped halfway; call cache.reset() and begin anew")

    def _sweep(self, ledger: Ledger, swept: Swept) -> None:
        turns = None
        for layer in self.columns:
            if layer.ledger is not ledger:
                continue
            if turns is None and self.frequencies is not None:
                turns = angles(swept.moved, self.frequencies, layer.keys.dtype)
            layer.sweep(swept, turns)

    def _count(self) -> None:
        stored = self.ledgers[0].stored if len(self.ledgers) == 1 else self.stored
        self._forwards += 1
        self.mean_stored += (stored - self.mean_stored) / self._forwards
        self.most_stored = max(self.most_stored, stored)

    def _place(self, decoder: Any, number: int, layer: Any, hidden: Tensor, named: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a layer of another kind than the first."""
        if not self._others:
            return {}
        own = self._others[number - 1]
        changes = {"attention_mask": own["attention_mask"]}
        if self.frequencies is not None:
            if "turned" not in own:  # once for all layers of the kind
                own["turned"] = decoder.rotary_emb(hidden, own["position_ids"])
            changes["position_embeddings"] = own["turned"]
        return changes

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the stored column at which queries begin; masks are made of columns."""
        return self.columns[layer_idx].length

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest tokens, as many as the number is below 0.

        Raises:
            UsageError: more than have come since keys were last dropped; those of the last forward can always be.
        """
        if tokens_to_remove > 0:
            raise UsageError(f"crop({tokens_to_remove}); legal are 0 and less: how many tokens to take back, as -3")
        if not tokens_to_remove:
            return
        for ledger in self.ledgers:
            ledger.check_crop(-tokens_to_remove)
        for ledger in self.ledgers:
            ledger.crop(-tokens_to_remove)
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget all tokens; the cache can serve another text."""
        for ledger in self.ledgers:
            ledger.clear()
        super().reset()
        self.mean_stored, self.most_stored, self._forwards = 0.0, 0, 0

    def state(self) -> dict[str, Any]:
        """Return all that is held, as tensors, numbers and lists of them, for `restore`."""
        own = {"mean": self.mean_stored, "most": self.most_stored, "forwards": self._forwards}
        parts = {"ledgers": self.ledgers, "columns": self.columns}
        return own | {name: [each.state() for each in held] for name, held in parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold what another cache of the same sizes held when it gave its `state`; what comes next is the same."""
        self.mean_stored, self.most_stored, self._forwards = state["mean"], state["most"], state["forwards"]
        for name, held in (("ledgers", self.ledgers), ("columns", self.columns)):
            for part, own in zip(held, state[name], strict=True):
                part.restore(own)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows of a beam search in another order."""
        self._rows(lambda each: each.index_select(0, beam_idx.to(each.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._rows(lambda each: each.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._rows(lambda each: each[indices.to(each.device)])

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for part in (*self.ledgers, *self.columns):
            part.rows(change)

    def __deepcopy__(self, memo: dict[int, Any]) -> SepCache:
        """Return a cache of its own that is attached to nothing."""
        other = memo[id(self)] = object.__new__(type(self))
        vars(other).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        other._model, other._others = "", []
        return other


def attached(model: Any, input_ids: Tensor, **named: Any) -> Any:
    """Generate with an attached cache, without a `with`: `model.generate(..., custom_generate=attached)`.

    Args:
        model: of transformers.
        input_ids: (B, T) int64.
        named: what generate hands on; `past_key_values` is a `SepCache`.

    Raises:
        UsageError: it is none, or a way of generating that transformers holds no code for.
    """
    cache, mode = named.get("past_key_values"), named["generation_config"].get_generation_mode()
    if not isinstance(cache, SepCache):
        raise UsageError(
            f"custom_generate=attached came with past_key_values of type {type(cache).__name__}; legal is a SepCache"
        )
    if "/" in (name := GENERATION_MODES_MAPPING[mode]):
        raise UsageError(
            f"generation by {mode.value} is not part of transformers; legal are greedy, sampling and beams"
        )
    with cache.attach(model):
        return getattr(type(model), name)(model, input_ids, **named)
