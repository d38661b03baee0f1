"""From settings to a task, a model, and what moves its weights."""

from __future__ import annotations

from typing import Any

import torch

from lissome._errors import UsageError
from lissome.language.incontext import Prompts, prompts
from lissome.models import BODIES, Continuation, Looped, LoopedShape, Regressor
from lissome.optim import Group, Method
from lissome.recipes.incontext.settings import SEQUENCES, IncontextSettings

CHOSEN = ("pre", "loop", "post", "inject", "norm", "norm_in_loop", "position", "normalize")
SET = {
    "normalize": "linear(mean=true)",
    "norm": "none",
    "norm_in_loop": False,
    "position": "none",
    "validity": "but_last",
}
ROW = {"position": "rotary", "validity": "causal"}


def task_of(settings: IncontextSettings) -> Prompts:
    """Return the task that settings ask for.

    Raises:
        UsageError: a detail that the task does not have.

    >>> task_of(IncontextSettings(task="sparse", details={"nonzero": 2})).power
    2
    """
    own = {"dimension": settings.dimension, "pairs": settings.pairs, "noise": settings.noise}
    if twice := sorted(own.keys() & settings.details.keys()):
        raise UsageError(f"setting 'details.{twice[0]}' is said outside of details; legal is '{twice[0]}'")
    given = {name: value for name, value in own.items() if value is not None}  # noise: null is the task's own
    return prompts(settings.task, **given, **settings.details)


def shape_of(settings: IncontextSettings) -> LoopedShape:
    """Return the shape of the body.

    One token per pair is a set, for which linear attention without norms and positions is an algorithm's step; tokens
    in a row get softmax, norms, rotary positions. Injection is that of the kind of model.

    Raises:
        UsageError: sizes that do not go together, or an unknown stage.

    >>> shape = shape_of(IncontextSettings())
    >>> shape.normalize, shape.validity, shape.iterations, shape.layers
    ('linear(mean=true)', 'but_last', 8, 3)
    """
    own = settings.model
    pairs = own.tokens == "pairs" and settings.task not in SEQUENCES
    said = {name: value for name in CHOSEN if (value := getattr(own, name)) is not None}
    usual = {**BODIES[own.kind], **(SET if pairs else ROW)}
    sizes: dict[str, Any] = {"width": own.width, "heads": own.heads, "feed": own.feed}
    loops = {} if own.kind == "plain" else {"iterations": own.iterations}
    return LoopedShape(**{**usual, **sizes, **loops, **said})


def new_model(settings: IncontextSettings) -> Regressor | Continuation:
    """Return a model whose weights are drawn by the seed; what is drawn elsewhere stays as it was.

    Raises:
        UsageError: as `shape_of`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        body = Looped(shape_of(settings), checkpoint=settings.model.checkpointing)
        if settings.task in SEQUENCES:
            return Continuation(body, settings.dimension)
        return Regressor(body, settings.dimension, tokens=settings.model.tokens)


def method_of(settings: IncontextSettings) -> Method:
    """Return how settings ask to train."""
    training = settings.training
    return Method(
        groups=(Group("*", "adam", training.rate),),
        schedule=training.schedule,
        resample_every=1,
        points=settings.batch,
        clip=training.clip,
        skip=True,
    )
