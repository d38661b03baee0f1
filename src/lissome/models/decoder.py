"""A decoder-only transformer whose attention is a recipe; read from top to bottom.

tokens -> embedding -> L times (x + attend(norm(x)); x + feed(norm(x))) -> norm -> logits

Some layers may run several times, as the shape says: each run has its own place in a cache.

RMSNorm (arXiv 1910.07467), SwiGLU (arXiv 2002.05202) or GELU, tied embeddings (arXiv 1608.05859), grouped-query heads
(arXiv 2305.13245).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissome._checks import check_columns, check_function, check_kind, check_whole
from lissome._errors import UsageError
from lissome.attention import (
    Attention,
    Cache,
    Frame,
    GrowingCache,
    Rotary,
    SeparatorCache,
    Stages,
    attend,
    attention,
    stages,
)
from lissome.attention.notation import by_layer
from lissome.attention.rotary import Angles
from lissome.attention.validity import Validity
from lissome.models.norm import Norm
from lissome.models.shape import DecoderShape, LayerShape

EPS = 1e-5  # of the norms
STD = 0.02  # of embeddings, as in GPT-2: a tied layer begins near chance
SMALL = 2 / 5  # matrices have variance SMALL / width, arXiv 1910.05895; with 0.02 narrow models begin mute
ADDED = ("out.weight", "down.weight")  # what adds to the residual stream starts 1 / sqrt(2 L) smaller, as in GPT-2


class Heads(nn.Module):
    """Attention of one layer: projections around a recipe."""

    def __init__(self, shape: LayerShape, recipe: Attention):
        super().__init__()
        self.heads, self.groups, self.dropout = shape.heads, shape.groups, shape.dropout
        self.dimension = shape.width // shape.heads
        self.qkv = nn.Linear(shape.width, (self.heads + 2 * self.groups) * self.dimension, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.recipe = recipe

    def project(self, x: Tensor, frame: Frame, angles: Angles | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return turned queries (B, H, T, D), turned keys and values (B, G, T, D) of x (B, T, width)."""
        each = self.qkv(x).unflatten(-1, (-1, self.dimension))  # (B, T, H + 2 G, D)
        parts = each.split((self.heads, self.groups, self.groups), 2)  # before transposing: gradients meet in one copy
        q, k, v = (part.transpose(1, 2) for part in parts)  # (B, H or G, T, D)
        return self.recipe.rotate(q, frame.queries, angles), self.recipe.rotate(k, frame.queries, angles), v

    def forward(self, x: Tensor, frame: Frame, cache: Cache | None, layer: int, angles: Angles | None = None) -> Tensor:
        """Return the update of x (B, T, width)."""
        q, k, v = self.project(x, frame, angles)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        mixed = attend(q, k, v, frame, self.recipe, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """The two-layer network of each position: SwiGLU or GELU."""

    def __init__(self, shape: LayerShape):
        super().__init__()
        # a layer of its own: halves of one output are strided, and their gradients would be joined by a copy
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False) if shape.feed == "swiglu" else None
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of x (B, T, width)."""
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One layer: attention, then the network of each position, each added to what was there.

    Args:
        shape: its sizes.
        recipe: of its attention.
        norm: whether attention and network read x normalised.
    """

    def __init__(self, shape: LayerShape, recipe: Attention, *, norm: bool = True):
        super().__init__()
        feeds = shape.feed != "none"
        self.norm_heads = Norm(shape.width, eps=EPS) if norm else nn.Identity()
        self.norm_feed = Norm(shape.width, eps=EPS) if norm and feeds else nn.Identity()
        self.heads, self.feed = Heads(shape, recipe), Feed(shape) if feeds else None
        self.dropout = shape.dropout

    def forward(
        self,
        x: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        layer: int = 0,
        angles: Angles | None = None,
    ) -> Tensor:
        """Return x (B, T, width) after the layer; angles of its rotary stage are computed if None."""
        x = x + self._drop(self.heads(self.norm_heads(x), frame, cache, layer, angles))
        return x if self.feed is None else x + self._drop(self.feed(self.norm_feed(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """A language model.

    Args:
        shape: sizes and the names of the stages; see `DecoderShape`.
        recipe: returns the attention of a layer from its number; None builds what the shape names.

    Raises:
        UsageError: a stage that the shape names wrongly, a validity that lets tokens see later ones, or a recipe that
            is no function from a layer to an `Attention`.

    >>> import torch
    >>> model = Decoder(DecoderShape(vocabulary=256, layers=2, width=32, heads=4, position="kerple", refine="dape(3)"))
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 256])
    """

    def __init__(self, shape: DecoderShape, recipe: Callable[[int], Attention] | None = None):
        super().__init__()
        check_kind("shape", shape, DecoderShape, "is a DecoderShape")
        check_recipe(recipe)
        self.shape, self.passes = shape, shape.passes  # read once: a compiler would have to parse the name
        recipe = recipe or (lambda layer: named(shape, layer))
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape, _causal(recipe(layer))) for layer in range(shape.layers))
        self.norm = Norm(shape.width, eps=EPS)
        self.head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)
        self._begin()

    def _begin(self) -> None:
        """Draw the weights; those of a recipe's stages stay as the stages drew them."""
        draw_layers(self.blocks, self.shape.width, self.shape.depth)
        for module in (self.embedding, self.head):
            if module is not None:
                nn.init.normal_(module.weight, std=STD)

    def frame(self, tokens: Tensor, present: Tensor | None = None) -> Frame:
        """Return the frame of a full pass."""
        return Frame.full(tokens.shape[1], tokens=tokens, present=present, device=tokens.device)

    def forward(
        self,
        tokens: Tensor,
        *,
        present: Tensor | None = None,
        cache: Cache | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Return the logits of the next token at each position.

        Args:
            tokens: (B, T) int64, below the vocabulary's size.
            present: (B, T) bool, False at padding, left or right; None: there is none.
            cache: holds what was read before and gets these tokens; `self.cache()` makes one.
            last: only of so many last positions, which saves the rest of (B, T, V).

        Returns:
            (B, T or last, V), in the dtype that the weights or autocast give.

        Raises:
            UsageError: tokens or present of another shape or dtype, tokens outside the vocabulary (on the CPU; a GPU
                would have to be waited for), or last below 1.
        """
        check_columns("tokens", tokens, torch.long)
        if last is not None:
            check_whole("last", last)
        if cache is not None:
            check_kind("cache", cache, (GrowingCache, SeparatorCache), "is such as model.cache()")
        x = self._embedded(tokens)  # (B, T, width)
        frame = self.frame(tokens, present) if cache is None else cache.begin(tokens, present)
        made: dict[tuple[float, int], Angles] = {}
        first = None
        for layer, (block, injects) in enumerate(self._runs()):
            if injects:
                first = x if first is None else first
                x = x + first
            x = block(x, frame, cache, layer, layer_angles(block.heads, frame, x.dtype, made))
        x = self.norm(x if last is None else x[:, -last:])
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    def _embedded(self, tokens: Tensor) -> Tensor:
        try:
            return self.embedding(tokens)
        except IndexError as error:
            there = f"{int(tokens.min())} to {int(tokens.max())}"
            legal = f"legal are 0 to {self.shape.vocabulary - 1}"
            raise UsageError(f"the tokens reach from {there}; {legal}") from error

    @property
    def recipes(self) -> list[Attention]:
        """The attention of each layer, those of a loop each time."""
        return [block.heads.recipe for block, _ in self._runs()]

    def stages(self, tokens: Tensor, present: Tensor | None = None) -> Iterator[Stages]:
        """Give what each stage of each layer's attention makes of tokens (B, T), layer by layer.

        Raises:
            UsageError: as a call does.
        """
        check_columns("tokens", tokens, torch.long)
        frame, x, first = self.frame(tokens, present), self._embedded(tokens), None
        for block, injects in self._runs():
            if injects:
                first = x if first is None else first
                x = x + first
            q, k, _ = block.heads.project(block.norm_heads(x), frame)
            yield stages(q, k, frame, block.heads.recipe)
            x = block(x, frame)

    def _runs(self) -> list[tuple[Block, bool]]:
        """Return the blocks in the order in which they run, and whether the state before the loop is added first."""
        return [(self.blocks[one.block], one.inject) for one in self.passes]  # type: ignore[misc]

    def cache(self) -> GrowingCache:
        """Return an empty cache for this model."""
        return GrowingCache(len(self.passes))

    def separator_cache(self, ids: Iterable[int] | Validity, **sizes: Any) -> SeparatorCache:
        """Return an empty cache that keeps first tokens, separators and neighbours; sizes as of `SeparatorCache`."""
        rotary = [recipe.rotary for recipe in self.recipes]
        return SeparatorCache(len(self.passes), ids, rotary=rotary, **sizes)


def layer_angles(
    heads: Heads, frame: Frame, dtype: torch.dtype, made: dict[tuple[float, int], Angles]
) -> Angles | None:
    """Return the angles of a layer's rotary stage, made once for all layers that turn alike."""
    rotary = heads.recipe.rotary
    if type(rotary) is not Rotary:  # a stage of a user computes its own
        return None
    turn = rotary.base, rotary.dimension
    if turn not in made:
        made[turn] = rotary.angles(frame.queries, dtype, heads.heads)
    return made[turn]


def draw_layers(blocks: nn.Module, width: int, depth: float) -> None:
    """Draw the matrices of blocks through which a text passes `depth` times; recipes keep what their stages drew.

    With a depth of infinity what adds to the residual stream is zero.
    """
    std = math.sqrt(SMALL / width)
    for name, weight in blocks.named_parameters():
        if weight.ndim == 2 and ".recipe." not in name:
            nn.init.normal_(weight, std=std / math.sqrt(2 * depth) if name.endswith(ADDED) else std)


def named(shape: DecoderShape, layer: int = 0) -> Attention:
    """Return the attention that a shape names for a layer.

    Raises:
        UsageError: a stage that it names wrongly, or a validity that lets tokens see later ones.
    """
    recipe = attention(
        shape.heads,
        shape.width // shape.heads,
        position=shape.position,
        refine=shape.refine,
        normalize=shape.normalize,
        validity=by_layer(shape.validity, shape.layers)[layer].name,
        length=shape.length,
    )
    return _causal(recipe)


def check_recipe(recipe: object) -> None:
    """Refuse what is neither None nor a function from a layer to its attention.

    Raises:
        UsageError: it is such.
    """
    if recipe is not None:
        check_function("recipe", recipe, "is a function layer -> Attention, or None")


def _causal(recipe: Attention) -> Attention:
    check_kind("what the recipe gives for a layer", recipe, Attention, "is an Attention")
    if not recipe.validity.causal:
        raise UsageError(
            f"validity '{recipe.validity.name}' lets a token see later ones, which a decoder has to predict; "
            f"legal is such as 'causal & {recipe.validity.name}'"
        )
    return recipe
