"""Rotary keys that move: turned by the difference, and found by trial to be of the layout for which that is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.bridges.installed import DynamicCache

PLACES = (2, 9)  # where the keys of a trial stand
TOKENS = 8


def angles(moved: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of a move, (B, 1, S, R) each.

    Args:
        moved: (B, S) int64.
        frequencies: (R / 2,), as the model's own.
        dtype: of the keys; half precision is computed in float32.
    """
    wide = torch.promote_types(dtype, torch.float32)
    turn = moved[:, None, :, None].to(wide) * frequencies.to(moved.device, wide)  # (B, 1, S, R / 2)
    turn = torch.cat((turn, turn), -1)
    return turn.cos(), turn.sin()


def turn(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first R numbers of keys (B, G, S, D), of which one half pairs with the other.

    >>> keys = torch.tensor([[[[1.0, 0.0, 5.0]]]])
    >>> quarter = angles(torch.ones(1, 1), torch.tensor([torch.pi / 2]), keys.dtype)
    >>> turn(keys, *quarter).abs().round().tolist()
    [[[[0.0, 1.0, 5.0]]]]
    """
    size = cos.shape[-1]
    part = keys[..., :size].to(cos.dtype)
    one, other = part.chunk(2, -1)
    part = (part * cos + torch.cat((-other, one), -1) * sin).to(keys.dtype)
    return part if size == keys.shape[-1] else torch.cat((part, keys[..., size:]), -1)


def frequencies_of(decoder: Any) -> Tensor | None:
    """Return what the keys of a decoder turn by from one position to the next, (R / 2,); None: they do not turn.

    The first layer's keys of a few tokens are computed at two places: the one has to be the other, turned.

    Raises:
        UsageError: it is not, or the decoder is in training and drops numbers out.
    """
    kind = type(decoder).__name__
    if decoder.training:
        raise UsageError(f"this {kind} is in training; call model.eval() before positions='cache' are attached")
    keys, values = zip(*(_handed(decoder, place) for place in PLACES), strict=True)
    alike = torch.equal(*values)  # latent attention hands what turns in place of values
    if alike and torch.equal(*keys):
        return None
    found = getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None)
    if alike and found is not None and 2 * len(found) <= keys[0].shape[-1]:
        moved = torch.full((1, keys[0].shape[2]), PLACES[1] - PLACES[0], device=keys[0].device)
        error = turn(keys[0], *angles(moved, found, keys[0].dtype)) - keys[1]
        near = 1e-4 if keys[0].dtype in (torch.float32, torch.float64) else 0.03
        if error.float().norm() <= near * keys[1].float().norm():
            return found
    raise UsageError(
        f"the keys of this {kind} are not turned half against half by its rotary_emb, so that they cannot be moved; "
        "legal for it is positions='text'"
    )


class _Seen(Exception):
    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.both = keys.detach(), values.detach()


class _Spy(DynamicCache):
    """Ends a forward at its first keys."""

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **named: Any) -> Any:
        """Raise keys and values, (1, G, T, D) each."""
        raise _Seen(key_states, value_states)


def _handed(decoder: Any, place: int) -> tuple[Tensor, Tensor]:
    device = decoder.get_input_embeddings().weight.device
    ids = torch.arange(min(TOKENS, decoder.config.vocab_size), device=device)[None]
    positions = torch.full_like(ids, place)
    try:
        with torch.no_grad():
            decoder(input_ids=ids, position_ids=positions, past_key_values=_Spy(), use_cache=True)
    except _Seen as seen:
        return seen.both
    raise UsageError(f"this {type(decoder).__name__} does not hand its keys to a cache; no cache can serve it")
