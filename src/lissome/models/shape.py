"""The sizes of a decoder, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lissome._checks import check_flag, check_kind, check_number
from lissome._errors import UsageError, unknown
from lissome.attention.build import NORMALIZERS, POSITIONS, REFINEMENTS
from lissome.attention.notation import RULES
from lissome.models.schedule import Pass, passes

FEEDS = ("swiglu", "gelu")
STAGES = {"position": POSITIONS, "refine": REFINEMENTS, "normalize": NORMALIZERS, "validity": RULES}


class LayerShape(Protocol):
    """What a layer reads of a shape; a feed "none" leaves the network of each position away."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def groups(self) -> int: ...  # noqa: D102
    @property
    def feed(self) -> str: ...  # noqa: D102
    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder, and the names of its attention's stages.

    Attributes:
        vocabulary: V, how many tokens there are.
        layers: L.
        width: of the residual stream.
        heads: H of the queries; divides the width.
        key_heads: G of keys and values; divides H; None is H.
        feed: swiglu or gelu.
        feed_width: hidden numbers of each position; None is 4 times the width for gelu, and as many weights for swiglu.
        tied: whether the embedding is the output layer too.
        dropout: part of activations and of attention weights that is set to 0 in training.
        position, refine, normalize: as `lissome.attention.attention` reads them.
        validity: likewise, for all layers; or one for each, with commas between; or h(...), ht(...), hmt(...), where
            the first layer, the last one too, and the middle one too see all of the past.
        length: the training length, in tokens; FIRE needs it.
        body: plain, each layer once; or algoformer(6), looped(6), which run some of them again; see `passes`.

    Raises:
        UsageError: sizes that do not go together, an unknown feed or body, or a value of another kind.

    >>> DecoderShape(vocabulary=256, **PRESETS["tiny"]).hidden
    336
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    key_heads: int | None = None
    feed: str = "swiglu"
    feed_width: int | None = None
    tied: bool = True
    dropout: float = 0.0
    position: str = "rotary"
    refine: str = "none"
    normalize: str = "softmax"
    validity: str = "causal"
    length: int | None = None
    body: str = "plain"

    def __post_init__(self):
        for name in ("vocabulary", "layers", "width", "heads"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise UsageError(f"{name} is {value}; legal are whole numbers, 1 and more")
        for name in ("key_heads", "feed_width", "length"):
            if (value := getattr(self, name)) is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name} is {value}; legal are whole numbers, 1 and more, or none")
        check_heads(self.width, self.heads)
        if self.heads % self.groups:
            near = [g for g in range(1, self.heads + 1) if self.heads % g == 0]
            raise UsageError(f"{self.groups} key heads do not divide {self.heads} heads; legal are: {_listed(near)}")
        if self.feed not in FEEDS:
            raise unknown("feed", self.feed, FEEDS)
        check_number("dropout", self.dropout, "are numbers from 0 to below 1", lambda part: 0 <= part < 1)
        check_flag("tied", self.tied)
        for name, legal in STAGES.items():
            check_kind(name, getattr(self, name), str, f"are the texts {', '.join(legal)}")
        passes(self.body, self.layers)

    @property
    def groups(self) -> int:
        """G, the heads of keys and values."""
        return self.heads if self.key_heads is None else self.key_heads

    @property
    def hidden(self) -> int:
        """The hidden numbers of each position; for swiglu 8/3 of the width, to a multiple of 16."""
        return hidden(self.width, self.feed, self.feed_width)

    @property
    def passes(self) -> list[Pass]:
        """Which layer runs when."""
        return passes(self.body, self.layers)

    @property
    def depth(self) -> int:
        """How many layers a token passes through, those of a loop each time."""
        return len(self.passes)

    def told(self) -> dict[str, Any]:
        """Return the shape as JSON; `DecoderShape(**told)` is the same."""
        return asdict(self)


PRESETS: Mapping[str, Mapping[str, int]] = {
    "tiny": {"layers": 4, "width": 128, "heads": 4},
    "small": {"layers": 6, "width": 384, "heads": 6},
    "125m": {"layers": 12, "width": 768, "heads": 12},
    "350m": {"layers": 24, "width": 1024, "heads": 16},
}


def check_heads(width: int, heads: int) -> None:
    """Refuse heads that do not divide a width.

    Raises:
        UsageError: they do not.
    """
    if width % heads:
        near = [h for h in range(1, width + 1) if width % h == 0]
        raise UsageError(f"{heads} heads do not divide the width {width}; legal are: {_listed(near)}")


def hidden(width: int, feed: str, feed_width: int | None) -> int:
    """Return the hidden numbers of each position: those asked for, or as many weights for every feed."""
    if feed_width is not None:
        return feed_width
    return 4 * width if feed == "gelu" else 16 * round(width / 6)


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
