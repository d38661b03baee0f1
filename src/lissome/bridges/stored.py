"""A model with stages in a folder that `save_pretrained` or a Trainer wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lissome._checks import check_path
from lissome._errors import UsageError
from lissome.bridges.asked import OWN, Recipe
from lissome.bridges.attached import CHILD, attach
from lissome.bridges.families import parts

try:
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as error:
    raise UsageError(
        "lissome.bridges.transformers needs transformers; install it with: pip install 'lissome[language]'"
    ) from error

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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
    named = _names(folder, options)
    position = named.get("position")
    if named.get("recipe") == OWN:
        if recipe is None:
            raise UsageError(
                f"the stages in '{folder}' were given by a function, which a folder cannot keep; "
                "give it again by recipe="
            )
        named = {"recipe": recipe, "position": position}
    elif recipe is not None:
        raise UsageError(f"the stages in '{folder}' were given by names, which are {named}; leave recipe= out")
    with _quiet_of_ours():
        found = kind.from_pretrained(folder, **options)
    delattr(found.config, CHILD)  # it speaks of stages that are not there yet
    try:
        attach(found, **named)
    except TypeError as error:
        raise UsageError(f"config.json in '{folder}' names stages wrongly: {error}") from error
    _fill(found, folder)
    return found.eval()


def _names(folder: Path, options: Any) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UsageError(f"'{folder}' holds no config.json; legal is a folder that save_pretrained wrote")
    config = options.get("config") or AutoConfig.from_pretrained(folder)
    named = getattr(config, CHILD, None)
    if not isinstance(named, dict) or not named:
        raise UsageError(f"config.json in '{folder}' names no stages of Lissome; read the model by from_pretrained")
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


def _fill(model: Any, folder: Path) -> None:
    """Put the numbers of stages into a model, after a check that none is missing."""
    there = _read(folder)
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


def _read(folder: Path) -> dict[str, Tensor]:
    """Return the numbers of stages in a folder, by their short names."""
    try:
        files = [WHOLE]
        if (folder / INDEX).is_file():
            places = json.loads((folder / INDEX).read_text())["weight_map"]
            files = sorted({file for name, file in places.items() if f".{CHILD}." in name})
        found = {}
        for file in files:
            with safe_open(folder / file, "pt") as weights:
                found |= {
                    _short(name): weights.get_tensor(name) for name in list(weights.keys()) if f".{CHILD}." in name
                }
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"the weights in '{folder}' cannot be read ({error}); legal are {WHOLE} and {INDEX}"
        ) from error
    return found


def _short(name: str) -> str:
    return name[name.index(TOP) :]
