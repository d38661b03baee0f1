"""From settings to a decoder and to what moves its weights."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch

from lissome.models import PRESETS, Decoder, DecoderShape
from lissome.models.decoder import named
from lissome.optim import Group, Method
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.visible import resolved

UNDECAYED = ("*.recipe.*", "*norm*", "*.bias")  # weight decay acts on matrices alone
SIZES = ("layers", "width", "heads")


def shape_of(settings: LanguageSettings, vocabulary: int, ids: Iterable[int] | None = None) -> DecoderShape:
    """Return the shape that settings ask for, after a check of the names of its stages.

    Args:
        settings: with `model` and `length`.
        vocabulary: V.
        ids: of the separators, where they are to be seen; None: not known yet, so that 0 stands for them.

    Raises:
        UsageError: sizes that do not go together, or an unknown stage.

    >>> from lissome.recipes.settings import load
    >>> shape = shape_of(load(LanguageSettings, given={"model.refine": "dape(3)"}), 256)
    >>> shape.layers, shape.width, shape.refine, shape.length
    (4, 128, 'dape(3)', 128)
    """
    said = settings.model.model_dump(exclude={"preset", "visible"})
    sizes: dict[str, Any] = {name: PRESETS[settings.model.preset][name] for name in SIZES if said[name] is None}
    said |= sizes
    layers, seen = said["layers"], (0,) if ids is None else ids
    said["validity"] = resolved(
        settings.model.visible, said["validity"], layers=layers, length=settings.length, ids=seen
    )
    shape = DecoderShape(vocabulary=vocabulary, length=settings.length, **said)
    named(shape)
    return shape


def new_model(shape: DecoderShape, seed: int) -> Decoder:
    """Return a decoder whose weights are drawn by a seed; what is drawn elsewhere stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Decoder(shape)


def method_of(settings: LanguageSettings, names: Iterable[str]) -> Method:
    """Return how settings ask to train.

    Args:
        settings: with `training` and `batch`.
        names: of the trained parameters.

    >>> from lissome.recipes.settings import load
    >>> method = method_of(load(LanguageSettings, given={}), ["embedding.weight", "norm.weight"])
    >>> [(group.pattern, group.options["weight_decay"]) for group in method.groups]
    [('*norm*', 0.0), ('*', 0.1)]
    """
    training, left, decays = settings.training, list(names), dict[str, float]()
    for pattern in (*UNDECAYED, "*"):  # a group has to have a parameter
        rest = [name for name in left if not fnmatchcase(name, pattern)]
        decays |= {pattern: 0.0 if pattern in UNDECAYED else training.decay} if len(rest) < len(left) else {}
        left = rest
    betas = tuple(training.betas)
    return Method(
        groups=tuple(
            Group(pattern, "adamw", settings.rate, {"betas": betas, "weight_decay": decay})
            for pattern, decay in decays.items()
        ),
        schedule=training.schedule,
        final=training.final,
        resample_every=1,
        points=settings.batch,
        accumulate=training.accumulate,
        clip=training.clip,
        warmup=training.warmup,
    )
