"""From what transformers tells an attention function to a frame: positions, padding, windows.

A mask function runs once a forward and an attention function once a layer. What the first returns reaches the second
untouched if it has four dimensions, so it says one of three things:

    None                            all keys 0 .. Tk - 1 are there, the queries are the last Tq: the frame is whole
    (1 or B, 1, 1, Tq + Tk) int64   positions of the queries, then of the keys, -1 where there is none
    (B, 1, Tq, Tk) bool             any other rule, True where a query may see; also a mask of the caller's own
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.attention import Attention, Frame, Validity, everything, window
from lissome.attention.frame import positions
from lissome.bridges.families import FAMILIES
from lissome.bridges.installed import causal_mask_function, sdpa_mask, sliding_window_causal_mask_function

FRAME = "lissome_frame"  # a keyword of the model's forward: a frame of the caller's own, as of a cache that drops keys
# what attention functions are given by some models, and what it does there
UNKNOWN = {
    "softcap": "caps its scores (softcap)",
    "s_aux": "adds sinks to its scores (s_aux)",
    "position_bias": "adds a bias of its own (position_bias)",
}
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens")


def mask(
    *,
    kv_length: int,
    q_length: int | None = None,
    kv_offset: int = 0,
    q_offset: int | Tensor = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    config: Any = None,
    **named: Any,
) -> Tensor | None:
    """Say where queries and keys stand, as the module's docstring tells; arguments are those of transformers.

    Args:
        kv_length: Tk, as a cache will return them.
        q_length: Tq; older transformers give `cache_position` in its place, the columns of the queries (Tq,).
        kv_offset: column of the first key; above 0 where a cache of a sliding window has dropped some.
        q_offset: column of the first query.
        mask_function: the rule of the model.
        attention_mask: (B, columns so far) bool, False at padding.
        local_size: the window of the rule, if it has one.
        device: of what is returned.
        config: of the model.
        named: what `transformers.masking_utils.sdpa_mask` takes besides.

    Raises:
        UsageError: an attention_mask of another shape.
    """
    older = named.get("cache_position")
    if not _told_by_positions(mask_function, local_size, config):
        named |= {"kv_length": kv_length, "kv_offset": kv_offset, "mask_function": mask_function}
        named |= {"attention_mask": attention_mask, "allow_is_causal_skip": False}
        newer = {"q_length": q_length, "q_offset": q_offset, "device": device} if older is None else {}
        return sdpa_mask(**named, **newer)
    if older is not None:
        q_length, q_offset, device = len(older), int(older[0]), older.device
    assert q_length is not None
    if attention_mask is not None and isinstance(q_offset, int):
        _check_columns(attention_mask, q_offset + q_length)
    compiled = torch.compiler.is_compiling()  # no look at values then
    if attention_mask is None or (not compiled and bool(attention_mask.all())):
        if isinstance(q_offset, int) and kv_offset == 0 and q_offset + q_length == kv_length:
            return None
        keys = torch.arange(kv_length, device=device)[None] + kv_offset  # (1, Tk)
        queries = torch.arange(q_length, device=device)[None] + q_offset  # (1, Tq)
    else:
        behind = max(kv_offset + kv_length - attention_mask.shape[1], 0)  # room of a cache of fixed size
        places = positions(torch.nn.functional.pad(attention_mask.bool(), (0, behind)))  # (B, columns)
        keys = places[:, kv_offset : kv_offset + kv_length]
        queries = places[:, torch.arange(q_length, device=places.device) + q_offset]
    return torch.cat((queries, keys), 1)[:, None, None]  # (1 or B, 1, 1, Tq + Tk)


def framed(
    q: Tensor, k: Tensor, mask: Tensor | None, recipe: Attention, named: Mapping[str, Any]
) -> tuple[Frame, Attention]:
    """Return the frame of one layer, and the recipe with what its mask and its window hide besides.

    Args:
        q: (B, H, Tq, D).
        k: (B, G, Tk, D).
        mask: what `mask` returned, or a mask of the caller's own: (1 or B, 1, Tq, Tk), bool or added to scores.
        recipe: of the layer.
        named: the other keywords of an attention function.

    Raises:
        UsageError: a mask of another shape or one for each head, packed rows, or something that the recipe would leave
            out.
    """
    for name, does in UNKNOWN.items():
        if named.get(name) is not None:
            raise UsageError(f"this model {does}, which stages of Lissome know nothing of; use its own attention")
    if any(named.get(name) is not None for name in PACKED):
        raise packed()
    rows, columns = q.shape[2], k.shape[2]
    if (own := named.get(FRAME)) is not None:
        return own, recipe
    if mask is not None and mask.shape[-2] == 1 and mask.shape[-1] == rows + columns and mask.dtype == torch.long:
        places = mask[:, 0, 0]  # (1 or B, Tq + Tk)
        keys = places[:, rows:]
        frame = Frame(places[:, :rows], keys, present=keys >= 0)
    else:
        keys = torch.arange(columns, device=k.device)[None]  # (1, Tk)
        queries = torch.arange(columns - rows, columns, device=k.device)[None]  # (1, Tq)
        frame = Frame(queries, keys, whole=rows <= columns)
        if mask is not None:
            recipe = _joined(recipe, _shown(mask, rows, columns))
    size = named.get("sliding_window")
    if size is not None and columns > size:
        recipe = _joined(recipe, window(size))
    return frame, recipe


def packed() -> UsageError:
    """Return the refusal of rows that hold several texts."""
    return UsageError(
        "a row holds several texts (its position_ids begin anew), which would see each other; give each text its own "
        "row, padded, with an attention_mask"
    )


def check_rows(frame: Frame, mask: Tensor | None, position_ids: Tensor | None) -> None:
    """Refuse rows in which positions go back between two tokens that are there.

    Raises:
        UsageError: they do.
    """
    if position_ids is None or position_ids.ndim != 2 or position_ids.shape[1] < 2 or torch.compiler.is_compiling():
        return
    back = position_ids.diff(dim=-1) <= 0  # (1 or B, Tq - 1)
    there = frame.queries >= 0  # (1 or B, Tq)
    if mask is not None and mask.dtype == torch.bool:
        there = mask[:, 0].diagonal(mask.shape[-1] - mask.shape[-2], -2, -1)  # a token that is there sees itself
    if bool((back & there[:, 1:] & there[:, :-1]).any()):
        raise packed()


def _check_columns(mask: Tensor, least: int) -> None:
    if mask.ndim != 2 or mask.shape[1] < least:
        raise UsageError(
            f"attention_mask has shape {tuple(mask.shape)}, and {least} tokens have been read with these; "
            f"legal is (B, {least}), with a number for each of them"
        )


def _joined(recipe: Attention, rule: Validity) -> Attention:
    """Return the recipe with one more rule; the stages are the same modules."""
    validity = rule if recipe.validity is everything else recipe.validity & rule
    return Attention(validity, recipe.bias, recipe.refine, recipe.normalize)


def _shown(mask: Tensor, rows: int, columns: int) -> Validity:
    """Return a mask (1 or B, 1, Tq, Tk) as a rule on columns."""
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2] != rows or mask.shape[3] < columns:
        raise UsageError(
            f"attention_mask has shape {tuple(mask.shape)} inside the model; "
            f"legal is (B, T), or (B, 1, {rows}, {columns})"
        )
    mask = mask[..., :columns]
    if mask.dtype != torch.bool and mask.is_floating_point():
        seen = mask > torch.finfo(mask.dtype).min / 2
        if not torch.compiler.is_compiling() and bool((mask.masked_fill(~seen, 0) != 0).any()):
            raise UsageError(
                "attention_mask adds numbers to scores; legal are 0 and the least number, or True and False"
            )
        mask = seen
    return Validity(partial(_looked_up, mask.bool()[:, 0], columns - rows), "mask of the caller")


def _looked_up(seen: Tensor, before: int, frame: Frame) -> Tensor:
    # by positions, which are columns here: tiles ask for some rows and some columns alone
    return seen[:, frame.queries[0] - before][:, :, frame.keys[0]]


def _told_by_positions(rule: Any, local_size: int | None, config: Any) -> bool:
    """Say whether positions, and the window that a known family passes on itself, tell all of a rule."""
    if _alike(rule, causal_mask_function):
        return True
    known = getattr(config, "model_type", None) in FAMILIES
    return known and local_size is not None and _alike(rule, sliding_window_causal_mask_function(local_size))


def _alike(one: Any, other: Any) -> bool:
    """Say whether two rules are the same code over the same numbers."""
    if inspect.isfunction(one) and inspect.isfunction(other):
        inside = [tuple(cell.cell_contents for cell in each.__closure__ or ()) for each in (one, other)]
        return one.__code__ is other.__code__ and _alike(*inside)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return isinstance(one, int) and isinstance(other, int) and one == other
