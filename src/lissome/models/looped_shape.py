"""The sizes of a body that iterates, and the three arrangements that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lissome._checks import check_flag, check_kind, check_whole
from lissome._errors import UsageError, unknown
from lissome.attention import Attention, Frame, Validity, attention
from lissome.attention.notation import by_layer
from lissome.models.shape import FEEDS, STAGES, check_heads, hidden

INJECTIONS = ("none", "add", "from_zero")
NORMS = ("pre", "none")
LOOPED_FEEDS = (*FEEDS, "none")


def _not_last(frame: Frame) -> Tensor:
    return (frame.keys < frame.keys.amax(-1, keepdim=True))[:, None, :].expand(-1, frame.queries.shape[1], -1)


# of a whole prompt alone: read in parts it would be another rule, so it is no word of `attention`
but_last = Validity(_not_last, "but_last")


@dataclass(frozen=True, kw_only=True)
class LoopedShape:
    """Sizes of a body of three stages: layers before, a block that is iterated, layers after.

    Attributes:
        width: of the residual stream.
        heads: H; divides the width.
        pre: layers before the loop, 0 and more.
        loop: layers of the iterated block; 0: a plain stack, which takes one iteration.
        post: layers after the loop, 0 and more.
        iterations: T of the trained model; a call may ask for another number.
        inject: none: h <- loop(h), from the state h0 after `pre`; add: h <- loop(h + h0), from h0; from_zero: the same
            from 0.
        norm: pre, before attention and network of each layer and once at the end; or none.
        norm_in_loop: normalise the state at the end of each iteration.
        feed: gelu, swiglu, or none for layers of attention alone.
        feed_width: hidden numbers of each position; None as in `DecoderShape`.
        position, refine, normalize: as `lissome.attention.attention` reads them.
        validity: likewise, for all layers, or one for each with commas between (`pre`, `loop`, `post` in their order);
            or but_last: every token sees all but the last one, the query of a prompt.
        length: the training length, in tokens; FIRE needs it.

    Raises:
        UsageError: sizes that do not go together, an unknown setting, or a value of another kind.

    >>> LoopedShape(width=32, heads=4, iterations=6, **BODIES["looped"]).layers
    1
    """

    width: int = 256
    heads: int = 8
    pre: int = 1
    loop: int = 1
    post: int = 1
    iterations: int = 20
    inject: str = "none"
    norm: str = "pre"
    norm_in_loop: bool = False
    feed: str = "gelu"
    feed_width: int | None = None
    position: str = "rotary"
    refine: str = "none"
    normalize: str = "softmax"
    validity: str = "causal"
    length: int | None = None

    def __post_init__(self):
        for name in ("width", "heads", "iterations"):
            check_whole(name, getattr(self, name))
        for name in ("pre", "loop", "post"):
            check_whole(name, getattr(self, name), 0)
        for name in ("feed_width", "length"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value)
        check_heads(self.width, self.heads)
        for name, legal in (("inject", INJECTIONS), ("norm", NORMS), ("feed", LOOPED_FEEDS)):
            if (value := getattr(self, name)) not in legal:
                raise unknown(name, value, legal)
        check_flag("norm_in_loop", self.norm_in_loop)
        for name, legal in STAGES.items():
            check_kind(name, getattr(self, name), str, f"are the texts {', '.join(legal)}")
        if not self.layers:
            raise UsageError("pre, loop and post are all 0; legal is at least one layer in one of them")
        if not self.loop:
            self._check_plain()

    def _check_plain(self) -> None:
        for name, value, one in (
            ("iterations", self.iterations, 1),
            ("inject", self.inject, "none"),
            ("norm_in_loop", self.norm_in_loop, False),
        ):
            if value != one:
                raise UsageError(f"{name} is {value} and loop is 0; legal without a loop is {name}={one}")

    @property
    def layers(self) -> int:
        """How many layers have weights of their own."""
        return self.pre + self.loop + self.post

    @property
    def groups(self) -> int:
        """G, the heads of keys and values: H."""
        return self.heads

    @property
    def hidden(self) -> int:
        """The hidden numbers of each position."""
        return hidden(self.width, self.feed, self.feed_width)

    @property
    def dropout(self) -> float:
        """None: an iteration that is run again has to give the same numbers."""
        return 0.0

    def told(self) -> dict[str, Any]:
        """Return the shape as JSON; `LoopedShape(**told)` is the same."""
        return asdict(self)


BODIES: Mapping[str, Mapping[str, Any]] = {
    "algoformer": {"pre": 1, "loop": 1, "post": 1, "inject": "add"},
    "looped": {"pre": 0, "loop": 1, "post": 0, "inject": "from_zero", "norm_in_loop": True},
    "plain": {"pre": 3, "loop": 0, "post": 0, "iterations": 1},
}
"""AlgoFormer (arXiv 2402.13572), the looped transformer (arXiv 2311.12424), and a plain stack."""


def recipes(shape: LoopedShape) -> list[Attention]:
    """Return the attention that a shape names for each layer.

    Raises:
        UsageError: a stage that it names wrongly.
    """
    whole = shape.validity.strip() == but_last.name
    rules = [but_last] * shape.layers if whole else by_layer(shape.validity, shape.layers)
    found = []
    for rule in rules:
        recipe = attention(
            shape.heads,
            shape.width // shape.heads,
            position=shape.position,
            refine=shape.refine,
            normalize=shape.normalize,
            length=shape.length,
        )
        recipe.validity = rule
        found.append(recipe)
    return found
