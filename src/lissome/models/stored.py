"""A decoder in a directory: `shape.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from lissome._errors import UsageError
from lissome._files import write, write_json
from lissome.attention import Attention
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape

SHAPE, WEIGHTS = "shape.json", "model.safetensors"


def save(model: Decoder, directory: str | Path) -> None:
    """Write shape and weights, each under a temporary name first.

    Stages of your own are kept by their weights alone: `read` then needs the recipe again.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write(directory / WEIGHTS, safetensors.torch.save(weights))
    write_json(directory / SHAPE, model.shape.told())


def read(directory: str | Path, recipe: Callable[[int], Attention] | None = None) -> Decoder:
    """Return the decoder of a directory, ready to evaluate.

    Raises:
        UsageError: a file is missing, damaged, or of another model.
    """
    directory = Path(directory)
    try:
        model = Decoder(DecoderShape(**json.loads((directory / SHAPE).read_text())), recipe)
        weights = safetensors.torch.load((directory / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"'{error.filename}' is missing; a decoder is {SHAPE} and {WEIGHTS} in a directory") from error
    except (ValueError, TypeError, SafetensorError) as error:
        raise UsageError(f"the decoder in '{directory}' is damaged: {error}") from error
    return filled(model, weights, str(directory))


def filled(model: Decoder, weights: dict[str, torch.Tensor], source: str) -> Decoder:
    """Put weights into a model, after a check of names and shapes; return it, ready to evaluate.

    Raises:
        UsageError: they are of another model; the first difference is named.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        there, here = ("has no", "has") if name in own else ("has", "has no")
        raise UsageError(f"{source} is of another model: it {there} '{name}', and the model {here} it")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} there and {tuple(value.shape)} in the model"
            raise UsageError(f"{source} is of another model: '{name}' has shape {shapes}")
    model.load_state_dict(weights)
    return model.eval()
