"""A model in a directory: `shape.json` and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from lissome._checks import check_kind, check_path, refuse
from lissome._errors import UsageError, unknown
from lissome._files import reason, write, write_json
from lissome._parsed import json_of
from lissome._weights import check_weights
from lissome.attention import Attention
from lissome.models.decoder import Decoder, check_recipe
from lissome.models.in_context import Continuation, Regressor
from lissome.models.looped import Looped
from lissome.models.looped_shape import LoopedShape
from lissome.models.shape import DecoderShape

SHAPE, WEIGHTS = "shape.json", "model.safetensors"
Model = TypeVar("Model", bound=nn.Module)
Shape = TypeVar("Shape", DecoderShape, LoopedShape)


def save_decoder(model: Decoder, directory: str | Path) -> None:
    """Write shape and weights, each under a temporary name first.

    Stages of your own are kept by their weights alone: `read_decoder` then needs the recipe again.

    Raises:
        RunError: the system refused; each file that stood there before is kept.
        UsageError: a model that is no decoder, or a directory that is no path.
    """
    if not isinstance(getattr(model, "shape", None), DecoderShape):
        raise refuse("model", model, "is a Decoder")
    _save(model, model.shape.told(), directory)


def save_reader(model: Regressor | Continuation, directory: str | Path) -> None:
    """Write a reader, what it reads and what its body is; as `save_decoder` otherwise.

    Raises:
        RunError: the system refused; each file that stood there before is kept.
        UsageError: a model that is no reader, or a directory that is no path.
    """
    check_kind("model", model, (Regressor, Continuation), "is a Regressor or a Continuation")
    _save(model, model.told(), directory)


def _save(model: nn.Module, told: dict[str, Any], directory: str | Path) -> None:
    directory = check_path("directory", directory)
    # copies: safetensors takes no two weights in one memory, and layers may share a stage
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    write(directory / WEIGHTS, safetensors.torch.save(weights))
    write_json(directory / SHAPE, told)


def read_decoder(directory: str | Path, recipe: Callable[[int], Attention] | None = None) -> Decoder:
    """Return the decoder of a directory that `save_decoder` wrote, ready to evaluate.

    Raises:
        UsageError: a file is missing, damaged, or of another model; or an argument is of another kind.
    """
    return _read(directory, recipe, "decoder", lambda told: Decoder(_shape(DecoderShape, told), recipe))


def read_reader(directory: str | Path, recipe: Callable[[int], Attention] | None = None) -> Regressor | Continuation:
    """Return the reader of a directory that `save_reader` wrote, ready to evaluate.

    Raises:
        UsageError: a file is missing, damaged, or of another model; or an argument is of another kind.
    """
    return _read(directory, recipe, "reader", lambda told: _reader(told, recipe))


def _reader(told: Any, recipe: Callable[[int], Attention] | None) -> Regressor | Continuation:
    names = ("dimension", "body", "tokens")  # a Continuation has no tokens
    if not isinstance(told, dict):
        raise refuse(SHAPE, told, f"is an object with {', '.join(names)}")
    for name in told:
        if name not in names:
            raise unknown("size", name, names)
    if lacking := [name for name in names[:2] if name not in told]:
        raise UsageError(f"{SHAPE} lacks {', '.join(lacking)}")
    body = Looped(_shape(LoopedShape, told["body"]), recipe)
    if "tokens" in told:
        return Regressor(body, told["dimension"], tokens=told["tokens"])
    return Continuation(body, told["dimension"])


def _read(
    directory: str | Path, recipe: Callable[[int], Attention] | None, kind: str, made: Callable[[Any], Model]
) -> Model:
    directory = check_path("directory", directory)
    check_recipe(recipe)
    try:
        model = made(json_of((directory / SHAPE).read_text()))
        weights = safetensors.torch.load((directory / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"'{error.filename}' is missing; a {kind} is {SHAPE} and {WEIGHTS} in a directory") from error
    except OSError as error:
        raise UsageError(f"'{error.filename}' cannot be read ({reason(error)})") from error
    except (ValueError, SafetensorError) as error:
        raise UsageError(f"the {kind} in '{directory}' is damaged: {error}") from error
    return filled(model, weights, str(directory))


def _shape(kind: type[Shape], told: Any) -> Shape:
    sizes = {field.name: field.default is MISSING for field in fields(kind)}
    if not isinstance(told, dict):
        raise refuse(SHAPE, told, f"is an object with {', '.join(sizes)}")
    for name in told:
        if name not in sizes:
            raise unknown("size", name, sizes)
    if lacking := [name for name, needed in sizes.items() if needed and name not in told]:
        raise UsageError(f"{SHAPE} lacks {', '.join(lacking)}")
    return kind(**told)


def filled(model: Model, weights: dict[str, torch.Tensor], source: str) -> Model:
    """Put weights into a model, after a check of names and shapes; return it, in their dtypes, ready to evaluate.

    Raises:
        UsageError: they are of another model; the first difference is named.
    """
    own = model.state_dict()
    check_weights(own, weights, source, dtypes=False)
    model.to(weights[next(iter(own))].dtype)  # buffers that are not kept follow the weights
    copies = {name: weights[name].to(value.device, copy=True) for name, value in own.items()}
    model.load_state_dict(copies, assign=True)  # each in the dtype that it was kept in
    return model.eval()
