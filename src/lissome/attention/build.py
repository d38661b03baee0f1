"""A recipe from the names of its stages."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from lissome._checks import check_whole
from lissome._errors import UsageError
from lissome.attention.bias import Alibi, Fire, Kerple
from lissome.attention.normalize import Linear, SelfAdjust, softmax
from lissome.attention.notation import made, rule
from lissome.attention.recipe import Attention
from lissome.attention.refine import WIDTH, Dape
from lissome.attention.rotary import BASE, Rotary

POSITIONS = ("none", "rotary", "alibi", "kerple", "fire")
REFINEMENTS = ("none", "dape")
NORMALIZERS = ("softmax", "self_adjust", "linear")


def attention(
    heads: int,
    dimension: int,
    *,
    position: str = "rotary",
    refine: str = "none",
    normalize: str = "softmax",
    validity: str = "causal",
    length: int | None = None,
) -> Attention:
    """Return a recipe by the names of its stages.

    Args:
        heads: H.
        dimension: D of a head.
        position: none, rotary, rotary(base=500000), alibi, kerple, kerple(power), fire.
        refine: none, dape, dape(3) for DAPE V2, dape(3, form=plain, hidden=published, zero_init=True).
        normalize: softmax, self_adjust(4), self_adjust(4, detach_extrema=True), linear, linear(mean=True).
        validity: causal, window(256), sinks(4), separators(13, 198), every_kth(8), everything, joined by & and |.
        length: the training length, which FIRE needs.

    Raises:
        UsageError: sizes below 1, an unknown stage (the nearest legal one is named), values it does not take, FIRE
            without a length.

    >>> attention(4, 16, position="kerple", refine="dape(3)", normalize="self_adjust(4)").explain()
    'causal; kerple; dape(3); self_adjust(4)'
    """
    check_whole("the number of heads", heads)
    check_whole("the dimension of a head", dimension)
    if length is not None:
        check_whole("the training length", length)

    def fire() -> Fire:
        if length is None:
            raise UsageError("the position 'fire' needs the training length, and none is given; say length=512")
        return Fire(heads, length)

    positions: dict[str, Callable[..., nn.Module | None]] = {
        "none": _nothing,
        "rotary": functools.partial(_rotary, dimension),
        "alibi": lambda: Alibi(heads),
        "kerple": functools.partial(Kerple, heads),
        "fire": fire,
    }
    placed = made(position, "position", positions)
    rotary, bias = (placed, None) if isinstance(placed, Rotary) else (None, placed)

    def dape(
        kernel: int = 1, *, form: str = "residual", hidden: str = "masked", width: int = WIDTH, zero_init: bool = False
    ) -> Dape:
        biased = bias is not None
        return Dape(heads, biased=biased, kernel=kernel, form=form, hidden=hidden, width=width, zero_init=zero_init)

    return Attention(
        rule(validity),
        bias,
        made(refine, "refine", {"none": _nothing, "dape": dape}),
        made(normalize, "normalize", {"softmax": lambda: softmax, "self_adjust": SelfAdjust, "linear": Linear}),
        rotary=rotary,
    )


def _nothing() -> None:
    return None


def _rotary(dimension: int, base: float = BASE) -> Rotary:
    return Rotary(dimension, base)
