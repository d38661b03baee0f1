"""A model with stages in a folder that `save_pretrained` or a Trainer wrote."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissome._checks import check_path, refuse
from lissome._errors import UsageError
from lissome.bridges.asked import OWN, USUAL, Recipe
from lissome.bridges.attached import CHILD, attach
from lissome.bridges.families import parts
from lissome.bridges.folder import CONFIG, read_object, read_weights
from lissome.bridges.installed import AutoConfig, AutoModelForCausalLM

TOP = "layers."  # names of weights are alike from there, whatever head the model has


def load(folder: str | Path, *, kind: Any = AutoModelForCausalLM, recipe: Recipe | None = None, **options: Any) -> Any:
    """Return a model with its stages, ready to evaluate.

    `from_pretrained` alone would drop them: it knows the classes of transformers and no more.

    Args:
        folder: that `model.save_pretrained` or a Trainer wrote.
        kind: what reads the rest, such as `AutoModelForSequenceClassification` or `LlamaForCausalLM`.
        recipe: layer -> `Attention`, for a model whose stages were given so.
        options: of `from_pretrained`, such as dtype and device_map.

    Raises:
        UsageError: the folder is none, names no stages or lacks numbers of theirs; its stages were given by a function
            and `recipe` is None.
    """
    folder = check_path("folder", folder)
    if not callable(getattr(kind, "from_pretrained", None)):
        raise refuse("kind", kind, "are classes with from_pretrained, such as AutoModelForCausalLM")
    stages = Stored.read(folder, options, recipe)  # first: transformers opens any file of an index
    with _quiet_of_ours():
        found = kind.from_pretrained(folder, **options)
    return stages.put(found).eval()


@dataclass(frozen=True)
class Stored:
    """The stages in a folder: their names, as `attach` takes them, and their weights."""

    folder: Path
    named: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path, options: Any, recipe: Recipe | None = None) -> Stored:
        """Return what a folder holds; arguments and errors as of `load`."""
        named = _names(folder, options)
        if named.get("recipe") == OWN:
            if recipe is None:
                raise UsageError(
                    f"the stages in '{folder}' were given by a function, which a folder cannot keep; "
                    "give it again by recipe="
                )
            named = {"recipe": recipe, "position": named.get("position")}
        elif recipe is not None:
            raise UsageError(f"the stages in '{folder}' were given by names, which are {named}; leave recipe= out")
        return cls(folder, named, read_weights(folder, lambda name: f".{CHILD}." in name))

    def put(self, model: Any) -> Any:
        """Give a model that `from_pretrained` read from the folder its stages, in place, and return it."""
        delattr(model.config, CHILD)  # it speaks of stages that are not there yet
        attach(model, **self.named)
        _fill(model, {_short(name): value for name, value in self.weights.items()}, self.folder)
        return model


def _names(folder: Path, options: Any) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise UsageError(f"'{folder}' holds no {CONFIG}; legal is a folder that save_pretrained wrote")
    read_object(folder / CONFIG)  # in a sentence, before transformers reads it
    config = options.get("config") or AutoConfig.from_pretrained(folder)
    named = getattr(config, CHILD, None)
    if not isinstance(named, dict) or not named:
        raise UsageError(f"{CONFIG} in '{folder}' names no stages of Lissome; read the model by from_pretrained")
    legal = ("recipe", "position") if named.get("recipe") == OWN else ("position", *USUAL)
    if strange := sorted(named.keys() - {*legal}):
        raise UsageError(
            f"{CONFIG} in '{folder}' names stages wrongly: '{strange[0]}' is none; legal are {', '.join(legal)}"
        )
    return dict(named)


@contextmanager
def _quiet_of_ours() -> Iterator[None]:
    """Keep back the report of weights that transformers did not expect, where it is of stages alone."""

    def other(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        rows = [line for line in text.splitlines() if "|" in line][1:]  # below their heading
        return "LOAD REPORT" not in text or not rows or any(f".{CHILD}." not in row for row in rows)

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _fill(model: Any, there: dict[str, Tensor], folder: Path) -> None:
    """Put the numbers of stages, by their short names, into a model, after a check that none is missing."""
    own = {_short(name): value for name, value in parts(model).model.state_dict().items() if f".{CHILD}." in name}
    if missing := sorted(own.keys() - there.keys()):
        raise UsageError(
            f"'{folder}' lacks {len(missing)} of the {len(own)} tensors of its stages, the first is '{missing[0]}'; "
            "was it saved by a model that had been read by from_pretrained?"
        )
    if more := sorted(there.keys() - own.keys()):
        raise UsageError(f"'{folder}' holds '{more[0]}', which is none of the stages that its config names")
    for name, value in own.items():
        if there[name].shape != value.shape:
            raise UsageError(
                f"'{name}' has shape {tuple(there[name].shape)} in '{folder}', and the stages that its config names "
                f"have {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(there[name])


def _short(name: str) -> str:
    return name[name.index(TOP) :]
