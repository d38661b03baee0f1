"""A decoder in a directory: `shape.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from lissome._errors import UsageError
from lissome._files import reason, write, write_json
from lissome._weights import check_weights
from lissome.attention import Attention
from lissome.models.decoder import Decoder
from lissome.models.shape import DecoderShape

SHAPE, WEIGHTS = "shape.json", "model.safetensors"


def save_decoder(model: Decoder, directory: str | Path) -> None:
    """Write shape and weights, each under a temporary name first.

    Stages of your own are kept by their weights alone: `read_decoder` then needs the recipe again.

    Raises:
        RunError: the system refused; each file that stood there before is kept.
    """
    # copies: safetensors takes no two weights in one memory, and layers may share a stage
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    write(Path(directory) / WEIGHTS, safetensors.torch.save(weights))
    write_json(Path(directory) / SHAPE, model.shape.told())


def read_decoder(directory: str | Path, recipe: Callable[[int], Attention] | None = None) -> Decoder:
    """Return the decoder of a directory that `save_decoder` wrote, ready to evaluate.

    Raises:
        UsageError: a file is missing, damaged, or of another model.
    """
    directory = Path(directory)
    try:
        model = Decoder(DecoderShape(**json.loads((directory / SHAPE).read_text())), recipe)
        weights = safetensors.torch.load((directory / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"'{error.filename}' is missing; a decoder is {SHAPE} and {WEIGHTS} in a directory") from error
    except OSError as error:
        raise UsageError(f"'{error.filename}' cannot be read ({reason(error)})") from error
    except (ValueError, TypeError, SafetensorError) as error:
        raise UsageError(f"the decoder in '{directory}' is damaged: {error}") from error
    return filled(model, weights, str(directory))


def filled(model: Decoder, weights: dict[str, torch.Tensor], source: str) -> Decoder:
    """Put weights into a model, after a check of names and shapes; return it, in their dtypes, ready to evaluate.

    Raises:
        UsageError: they are of another model; the first difference is named.
    """
    own = model.state_dict()
    check_weights(own, weights, source, dtypes=False)
    model.to(weights["embedding.weight"].dtype)  # buffers that are not kept follow the weights
    copies = {name: weights[name].to(value.device, copy=True) for name, value in own.items()}
    model.load_state_dict(copies, assign=True)  # each in the dtype that it was kept in
    return model.eval()
