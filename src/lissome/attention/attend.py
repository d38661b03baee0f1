"""Run a recipe on queries, keys and values, by the way that suits it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

import lissome.attention.backends.triton  # noqa: F401  (adds kernels to the operators where there is a GPU)
from lissome._checks import check_kind, check_number
from lissome._errors import UsageError, unknown
from lissome.attention.backends import compact, convolved, dape, naive, sdpa, self_adjust, tiled
from lissome.attention.floor import floor
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention
from lissome.attention.rotary import Rotary

SPECIAL = {way.NAME: way for way in (compact, sdpa, dape, convolved, self_adjust)}  # for some recipes
BACKENDS = ("auto", "naive", "tiled", *SPECIAL)
QUERIES = 16  # with fewer, as in decoding, own tiles are too thin to pay; fused kernels are not
LARGEST = 2**25  # pairs over rows and heads that are held whole: 128 MB for each stage in float32


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    frame: Frame,
    recipe: Attention,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Mix values by the weights of a recipe.

    Args:
        q: queries (B, H, Tq, D), already turned if the recipe has a rotary stage.
        k: keys (B, G, Tk, D), G a divisor of H: each serves H / G heads.
        v: values (B, G, Tk, Dv).
        frame: where queries and keys stand.
        recipe: validity, bias, refine, normalize.
        scale: of the products, 1 / sqrt(D) if None.
        dropout: part of the weights that is set to 0, after they are normalised.
        backend: auto, naive (every pair in memory; derivatives of all orders), tiled (any recipe in bounded memory; in
            reverse mode all orders), or one that runs some recipes: compact, sdpa, dape, convolved, self_adjust.
            `explain` says which one auto takes.

    Returns:
        (B, H, Tq, Dv) in v's dtype; a query that sees no key gets 0.

    Raises:
        UsageError: shapes or dtypes that do not go together, an unknown backend, or one that cannot run the recipe.

    >>> import torch
    >>> x = torch.randn(1, 2, 5, 8)
    >>> attend(x, x, x, Frame.full(5), Attention()).shape
    torch.Size([1, 2, 5, 8])
    """
    _check(q, k, v, frame, recipe, scale)
    check_number("dropout", dropout, "are numbers from 0 to 1", lambda part: 0 <= part <= 1)
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    taken = _choose(q, k, v, frame, recipe, dropout) if backend == "auto" else backend
    if taken in SPECIAL:
        if refused := SPECIAL[taken].refusal(q, k, v, frame, recipe, dropout):
            raise UsageError(f"backend {taken} cannot run this: {refused}")
        return SPECIAL[taken].attend(q, k, v, frame, recipe, scale, dropout)
    return (tiled if taken == "tiled" else naive).attend(q, k, v, frame, recipe, scale, dropout)


def stages(q: Tensor, k: Tensor, frame: Frame, recipe: Attention, *, scale: float | None = None) -> naive.Stages:
    """Return what each stage gives, every pair in memory, to be looked at; arguments and errors as of `attend`."""
    _check(q, k, k, frame, recipe, scale)
    return naive.stages(q, k, frame, recipe, scale)


def explain(q: Tensor, k: Tensor, frame: Frame, recipe: Attention, *, dropout: float = 0.0) -> str:
    """Return the stages in words, the backend that `attend` takes for such tensors and why, and the floor of a pass.

    Values are taken to be as keys; errors as of `attend`.
    """
    _check(q, k, k, frame, recipe)
    taken, why = _choose(q, k, k, frame, recipe, dropout), "made for such recipes"
    if taken not in SPECIAL:
        found = ((name, _refusal(way, q, k, k, frame, recipe, dropout)) for name, way in SPECIAL.items())
        held = "more than are held at once" if taken == "tiled" else "held at once"
        why = f"{_pairs(q, k):,} pairs are {held} ({'; '.join(f'not {name}: {said}' for name, said in found)})"
    return f"{recipe.explain()}; by {taken}: {why}; forward at least {floor(q, k, frame, recipe)}"


def chosen(q: Tensor, k: Tensor, frame: Frame, recipe: Attention, *, dropout: float = 0.0) -> str:
    """Return the name of the backend that `attend` takes for such tensors, values being as keys; errors as of it."""
    _check(q, k, k, frame, recipe)
    return _choose(q, k, k, frame, recipe, dropout)


def _choose(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return the name of the quickest way that serves."""
    for name, way in SPECIAL.items():
        # a step of decoding asks no way of own tiles, too thin whatever the recipe; a compiler knows 1 without a guard
        if not (way.LEAST and q.shape[2] == 1) and not _refusal(way, q, k, v, frame, recipe, dropout):
            return name
    return "tiled" if _pairs(q, k) > LARGEST else "naive"


def _refusal(way: Any, q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why a special way cannot run these tensors or would not be quicker, or an empty text."""
    if refused := way.refusal(q, k, v, frame, recipe, dropout):
        return refused
    if way.LEAST and (_pairs(q, k) < way.LEAST or q.shape[2] < QUERIES):
        return f"that is for {way.LEAST:,} pairs and {QUERIES} queries, and more"
    if k.shape[2] < way.SHORTEST:
        return f"that is for {way.SHORTEST:,} keys and more"
    return ""


def _pairs(q: Tensor, k: Tensor) -> int:
    """Return the pairs of queries and keys over rows and heads."""
    return q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]


def _check(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, scale: float | None = None) -> None:
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_kind(name, value, Tensor, "is a tensor (B, heads, T, D)")
    check_kind("frame", frame, Frame, "is such as Frame.full(5)")
    check_kind("recipe", recipe, Attention, "is such as attention(8, 64)")
    if scale is not None:
        check_number("scale", scale, "are finite numbers, or None", lambda scale: abs(scale) < math.inf)
    if any(x.ndim != 4 for x in (q, k, v)):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise UsageError(f"q, k, v have shapes {shapes}; legal are four dimensions (B, heads, T, D)")
    if 0 in (q.shape[1], k.shape[1], q.shape[3]):
        raise UsageError(f"q {tuple(q.shape)} or k {tuple(k.shape)} has no head or no number; legal are 1 and more")
    if q.dtype.is_floating_point and q.dtype.itemsize < 2:
        raise UsageError(f"q has dtype {q.dtype}; legal are float16, bfloat16, float32 and float64")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise UsageError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not go together")
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise UsageError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; legal is one of floating point")
    if isinstance(recipe.rotary, Rotary) and recipe.rotary.dimension != q.shape[3]:
        raise UsageError(f"heads have {q.shape[3]} numbers, and the recipe's rotary is for {recipe.rotary.dimension}")
    if q.shape[1] % k.shape[1]:
        raise UsageError(f"{q.shape[1]} query heads do not divide into groups of {k.shape[1]} key heads")
    rows = {len(x) for x in (frame.queries, frame.keys, frame.tokens, frame.present) if x is not None}
    if not rows <= {1, len(q)}:
        raise UsageError(f"the frame has {max(rows)} rows, and q has {len(q)}")
    if (frame.queries.shape[1], frame.keys.shape[1]) != (q.shape[2], k.shape[2]):
        raise UsageError(
            f"the frame has {frame.queries.shape[1]} queries and {frame.keys.shape[1]} keys, "
            f"and q and k have {q.shape[2]} and {k.shape[2]}"
        )
