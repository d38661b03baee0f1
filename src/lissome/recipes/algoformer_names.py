"""Names and sizes of the replication of AlgoFormer: who is compared at what, as `lissome icl train` names settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lissome.recipes.incontext.settings import IncontextSettings
from lissome.recipes.language_contest import Sizes
from lissome.recipes.language_contest_seeds import SECONDS
from lissome.recipes.settings import load

REPRESENTATION, LINEAR, BYTES = "representation", "linear", "bytes"  # parts
PLAIN, LOOPED, ALGO = "plain", "looped", "AlgoFormer"
ADDED, NONE = "AlgoFormer, injection", "AlgoFormer, no injection"
NORMED, CUT = "AlgoFormer, norm in the loop", "AlgoFormer, cut gradient"
DEEP = "plain, as many layers"
AS_LONG = f"{PLAIN}{SECONDS}{ALGO}"  # of a task: with injection

Given = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A task, how models are trained at it, and who they are.

    Attributes:
        settings: of `lissome icl train`, for all.
        steps: of training.
        sizes: of a large look, in their place.
        contestants: label -> what is its own.
    """

    settings: Given
    steps: int
    sizes: Given
    contestants: Mapping[str, Given]


def _kind(kind: str, **more: Any) -> Given:
    return {"model.kind": kind} | {f"model.{name}": value for name, value in more.items()}


TRIALS: dict[str, Trial] = {
    REPRESENTATION: Trial(
        settings={"task": "representation", "dimension": 8, "pairs": 20, "model.iterations": 8},
        steps=500,
        sizes={"dimension": 20, "pairs": 41, "model.iterations": 20},
        contestants={
            PLAIN: _kind("plain"),
            AS_LONG: _kind("plain"),
            DEEP: _kind("plain"),
            LOOPED: _kind("looped"),
            ADDED: _kind("algoformer", inject="add"),
            NONE: _kind("algoformer", inject="none"),
            NORMED: _kind("algoformer", inject="add", norm_in_loop=True),
        },
    ),
    LINEAR: Trial(
        settings={"task": "linear", "dimension": 5, "pairs": 11, "model.tokens": "interleaved", "model.iterations": 6,
                  "training.window": 3, "training.rate": 2e-3, "training.clip": 1.0, "curriculum.loops": None,
                  "curriculum.dimension": {"first": 2}, "curriculum.pairs": {"first": 5, "by": 2}},
        steps=1000,
        sizes={"dimension": 20, "pairs": 41, "model.iterations": 20, "training.window": 10,
               "curriculum.dimension": {"first": 5}, "curriculum.pairs": {"first": 11, "by": 2}},
        contestants={
            PLAIN: _kind("plain"),
            DEEP: _kind("plain"),
            LOOPED: _kind("looped"),
            ADDED: _kind("algoformer", inject="add"),
            NONE: _kind("algoformer", inject="none"),
            NORMED: _kind("algoformer", inject="add", norm_in_loop=True),
            CUT: _kind("algoformer", inject="add") | {"training.cut": True},
        },
    ),
}  # fmt: skip
LARGE: Given = {"model.width": 256, "model.heads": 8, "training.rate": 1e-4, "training.schedule": "constant"}
LARGE_STEPS = 20_000
QUICK: Given = {"batch": 8, "prompts": 32, "model.width": 8, "model.heads": 1, "training.steps": 4}
UNLOOPED = ("training.window",)  # what a plain model has no use for


@dataclass(frozen=True)
class Reading:
    """Decoders that read bytes.

    Attributes:
        sizes: of all, but for the layers of `DEEP`.
        iterations: T of AlgoFormer.
    """

    sizes: Sizes
    iterations: int

    @property
    def runs(self) -> int:
        """Layers that AlgoFormer runs: the first, T times the one between, the last."""
        return self.iterations + 2


READING = Reading(Sizes(layers=3, width=48, steps=600, rates=(6e-3,), rows=16), 4)
LARGE_READING = Reading(Sizes(layers=3, width=256, steps=6000, rates=(1e-3,), heads=8), 20)
READERS = (PLAIN, AS_LONG, DEEP, ALGO)


def settings_of(part: str, label: str, seed: int, *, quick: bool, scale: bool) -> IncontextSettings:
    """Return how a contestant is trained at a task.

    >>> settings_of("representation", DEEP, 0, quick=False, scale=False).model.pre
    10
    """
    trial = TRIALS[part]
    given: dict[str, Any] = {**trial.settings, "training.steps": trial.steps, "seed": seed, "device": "cpu"}
    given |= {**LARGE, **trial.sizes, "training.steps": LARGE_STEPS} if scale else {}
    given |= QUICK if quick else {}
    given |= trial.contestants[label]
    if given["model.kind"] == "plain":
        given = {name: value for name, value in given.items() if name not in UNLOOPED}
        given |= {"model.pre": given["model.iterations"] + 2} if label == DEEP else {}
    return load(IncontextSettings, given=given)
