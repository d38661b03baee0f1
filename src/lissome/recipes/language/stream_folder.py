"""What reads a stream: a model of transformers from a local folder, with `SepCache`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lissome._errors import UsageError
from lissome.bridges import causal
from lissome.bridges.folder import read_object
from lissome.bridges.marks import Every
from lissome.bridges.sepcache import SepCache
from lissome.recipes.language.convert import TOKENIZER, TOKENIZING, vocabulary_of
from lissome.recipes.language.stream_model import Opened, ids_of, print_of
from lissome.recipes.language.stream_settings import StreamSettings

BIASED = ("bloom", "mpt")  # ALiBi that transformers computes from the number of keys


@contextlib.contextmanager
def open_folder(settings: StreamSettings, device: torch.device) -> Iterator[Opened]:
    """Give the model of a folder with the cache that is asked for.

    Raises:
        UsageError: the folder holds no model or tokenizer that can be read, no separators in its vocabulary, positions
            in the cache for a model whose keys cannot be moved, or positions that it has not.
    """
    folder = Path(settings.model)
    model = causal.load(folder)
    config = model.config.get_text_config(decoder=True)
    place = folder if settings.tokenizer in (None, "bytes") else Path(str(settings.tokenizer))
    vocabulary = vocabulary_of(folder, settings.tokenizer, config.vocab_size)
    ids = ids_of(settings, vocabulary, config.vocab_size)
    full, kept = settings.cache == "full", settings.kept
    cache = SepCache(
        model.config,
        Every(settings.every) if settings.cache == "fixed" else ids if kept else (),
        settings.initial,
        kept,
        settings.local,
        settings.capacity,
        settings.placed,
        full="all" if full else "none",
        chunk=None if full else settings.chunk,
    )
    _check_positions(config, settings)
    model.to(device)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with cache.attach(model):
        yield Opened(
            lambda tokens: model(tokens, past_key_values=cache, use_cache=True).logits,
            lambda: cache.stored,
            cache,
            vocabulary,
            _begin(place),
            ids,
            config.vocab_size,
            getattr(config, "max_position_embeddings", None),
            2 * config.num_hidden_layers * heads * wide * model.dtype.itemsize,
            print_of(model),
        )


def _check_positions(config: Any, settings: StreamSettings) -> None:
    """Refuse positions that a model has not: beyond those that it learned, or other than its ALiBi counts them."""
    if config.model_type in BIASED and settings.cache != "full" and settings.placed == "text":
        raise UsageError(
            f"a model of type {config.model_type} counts distances among the tokens that are held; legal is "
            "--positions cache"
        )
    most = getattr(config, "max_position_embeddings", None)
    turns = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    if most is None or turns or settings.placed == "cache":  # the cache says itself which keys it cannot move
        return
    if settings.tokens is None or settings.tokens > most:
        raise UsageError(
            f"this model of type {config.model_type} has learned {most:,} positions, and more are asked for; legal are "
            f"--tokens up to {most}"
        )


def _begin(place: Path) -> int | None:
    """Return the id that begins a text, as the tokenizer names it; None: it names none."""
    folder = place if place.is_dir() else place.parent
    if not (folder / TOKENIZING).is_file():
        return None
    name = read_object(folder / TOKENIZING).get("bos_token")
    name = name.get("content") if isinstance(name, dict) else name
    added = read_object(place / TOKENIZER if place.is_dir() else place).get("added_tokens") or []
    return next((token["id"] for token in added if name is not None and token["content"] == name), None)
