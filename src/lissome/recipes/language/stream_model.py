"""What reads a stream: a model with its cache, from a run of `lissome lm train`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome.attention import SeparatorCache, every_kth
from lissome.attention.notation import brief
from lissome.bridges.separators import separator_ids
from lissome.language import Vocabulary
from lissome.language.score import scoring
from lissome.models import Decoder
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.stream_settings import StreamSettings

COUNTED = "every_kth"  # in the name of a validity that asks for a position itself
SEEN = 1024  # numbers of each tensor that a print of a model is made of


@dataclass(frozen=True)
class Opened:
    """A model with an empty cache.

    Attributes:
        forward: tokens (1, T) -> logits (1, T, V); they are held then.
        count: how many entries are held now.
        cache: with `state` and `restore`.
        vocabulary: of the model.
        begin: the token that begins a text, or None.
        separators: ids that end a segment; none where no cache asks for them and the vocabulary has none.
        size: V.
        length: in tokens, that the model was trained for, where that is known.
        bytes: of one entry of the cache, over all layers.
        print: of the weights; others have another.
    """

    forward: Callable[[Tensor], Tensor]
    count: Callable[[], int]
    cache: Any
    vocabulary: Vocabulary
    begin: int | None
    separators: tuple[int, ...]
    size: int
    length: int | None
    bytes: int
    print: str

    def read(self, tokens: Tensor) -> Tensor:
        """Return logits (1, T, V) of what follows each of the tokens (1, T), which are then held."""
        return self.forward(tokens)

    @property
    def held(self) -> int:
        """How many entries the cache holds."""
        return self.count()


@contextlib.contextmanager
def open_run(settings: StreamSettings, device: torch.device) -> Iterator[Opened]:
    """Give the model of a run with the cache that is asked for.

    Raises:
        UsageError: no such run or no checkpoint, ids that are none, no separators in its vocabulary, or positions in
            the cache for a model that sees each k-th token.
    """
    trained = load_trained(settings.model, device)
    model, shape = trained.model, trained.model.shape
    ids = ids_of(settings, trained.vocabulary, shape.vocabulary)
    _check_counted(model, settings)
    if settings.cache == "full":
        cache = model.cache()
    else:
        rule = every_kth(settings.every) if settings.cache == "fixed" else ids if settings.kept else ()
        cache = model.separator_cache(
            rule,
            initial=settings.initial,
            separators_kept=settings.kept,
            local=settings.local,
            capacity=settings.capacity,
            positions=settings.placed,
        )
    weight = model.embedding.weight
    with scoring(model):
        yield Opened(
            lambda tokens: model(tokens, cache=cache),
            lambda: int(cache.held[0]) if isinstance(cache, SeparatorCache) else cache.length,
            cache,
            trained.vocabulary,
            trained.vocabulary.end,
            ids,
            shape.vocabulary,
            shape.length,
            2 * shape.depth * shape.groups * (shape.width // shape.heads) * weight.element_size(),
            print_of(model),
        )


def _check_counted(model: Decoder, settings: StreamSettings) -> None:
    """Refuse to move the positions of a model that counts them: it would see others of the tokens that are kept."""
    named = next((recipe.validity.name for recipe in model.recipes if COUNTED in recipe.validity.name), None)
    if named is not None and settings.placed == "cache":
        raise UsageError(
            f"the model sees '{brief(named)}', tokens by their number in the text, and positions cache number them "
            "anew; legal for it is --positions text"
        )


def ids_of(settings: StreamSettings, vocabulary: Vocabulary, size: int) -> tuple[int, ...]:
    """Return the ids that end a segment: those of the settings, or those of the vocabulary.

    Raises:
        UsageError: an id that the model has not, or none at all where a cache is to keep them.
    """
    if settings.separators is not None:
        for each in settings.separators:
            if not 0 <= each < size:
                raise UsageError(f"separator {each} is no id of the model's vocabulary; legal are 0 to {size - 1:,}")
        if settings.separators or settings.cache != "separators":
            return tuple(settings.separators)
        raise UsageError("there are no ids in separators; legal is cache sinks, or at least one id")
    try:
        return separator_ids(vocabulary)
    except UsageError as error:
        if settings.cache != "separators":
            return ()
        raise UsageError(f"{error}, as by --set separators=[13,198], or take cache sinks or fixed") from error


def print_of(model: nn.Module) -> str:
    """Return a checksum of the names, shapes and first numbers of all weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        part = value.detach().flatten()[:SEEN].cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + part.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
