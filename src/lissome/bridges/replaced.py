"""What a forward is given in place of its mask and positions, once a cache no longer holds all of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lissome.attention import Frame
from lissome.bridges.announced import COUNTED, OURS, shaped
from lissome.bridges.frames import FRAME
from lissome.bridges.ledger import Ledger

Arguments = dict[str, Any]


def replaced(
    decoder: Any, ledgers: Sequence[Ledger], coming: int, named: Arguments, *, windowed: bool
) -> list[Arguments]:
    """Return the arguments of a forward and, from the second on, those of the layers of each other kind.

    Args:
        decoder: of the model.
        ledgers: of the kinds of layers, with the tokens that come; that of the first layer before others.
        coming: T.
        named: the arguments that came.
        windowed: whether tokens see first tokens, separators and a window, and not all that is stored.

    Returns:
        attention_mask and position_ids, as far as they are others; nothing at all while each layer stores the text and
        its tokens see it.
    """
    main = ledgers[0]
    narrow = min((each.rule.local for each in ledgers if each.rule.capacity is not None), default=main.stored)
    if not any(each.swept for each in ledgers) and not (windowed and main.stored > narrow):
        return [{}]
    positions = named.get("position_ids")
    if positions is None:
        seen = main.gone + main.stored
        positions = torch.arange(seen - coming, seen, device=named["input_ids"].device)[None]
    return [_of_forward(decoder, main, coming, positions, windowed)] + [
        {"attention_mask": _mask(decoder, each, coming, windowed), "position_ids": _places(each, positions)}
        for each in ledgers[1:]
    ]


def _of_forward(decoder: Any, main: Ledger, coming: int, positions: Tensor, windowed: bool) -> Arguments:
    changes: Arguments = {"position_ids": _places(main, positions)}
    if windowed and main.rule.capacity is not None:
        return changes | {"attention_mask": _mask(decoder, main, coming, windowed)}
    if not main.swept:
        return changes
    if decoder.config._attn_implementation.startswith(OURS) and not main.follows:
        main.read()  # biases go by the distance in the text
        own = Frame(main.text[:, -coming:], main.text, present=main.text >= 0)
        return changes | {"attention_mask": main.shown, FRAME: own}
    # no mask of queries by keys: the model makes it, or does without, as FlashAttention has to
    return changes | {"attention_mask": main.shown if COUNTED else _mask(decoder, main, coming, windowed)}


def _places(ledger: Ledger, positions: Tensor) -> Tensor:
    return ledger.positions if ledger.follows and ledger.positions is not None else positions


def _mask(decoder: Any, ledger: Ledger, coming: int, windowed: bool) -> Tensor | None:
    """Return a mask of queries by keys, (B, 1, T, S), or None where a single token sees all."""
    window = ledger.rule.local if windowed and ledger.rule.capacity is not None else None
    if window is None and coming == 1 and ledger.swept and ledger.shown is None:
        return None
    return shaped(decoder, ledger.seen(coming, window))
