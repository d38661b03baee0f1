"""An adapter's file: one safetensors file with a JSON header, and the fingerprint of what it was made for."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lissome import _files
from lissome._errors import UsageError
from lissome._parsed import json_of

FORMAT = "lissome adapter 1"


def write(path: str | os.PathLike[str], tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and header to one file, whole or not at all.

    Raises:
        RunError: the system refused; what stood there before still stands.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _files.write(path, save(tensors, {"format": FORMAT, "adapter": json.dumps(header)}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no adapter file '{path}'")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"'{path}' is no whole safetensors file ({error}): it was cut short or is another kind"
        ) from error
    if metadata.get("format") != FORMAT:
        raise UsageError(f"'{path}' is no adapter file: its format is {metadata.get('format')!r}, not '{FORMAT}'")
    try:
        return tensors, json_of(metadata["adapter"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"'{path}' has a damaged header ({error})") from error


def fingerprint(module: nn.Module) -> dict[str, Any]:
    """Return names, shapes and dtypes of a module's tensors, and a checksum of their values."""
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    layout = {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in tensors.items()}
    return {"layout": layout, "sha256": digest.hexdigest()}


def check_fingerprint(path: str | os.PathLike[str], then: dict[str, Any], module: nn.Module) -> None:
    """Hold a module against the fingerprint in an adapter's file.

    Raises:
        UsageError: names, shapes, dtypes or values differ; the first difference is named.
    """
    now = fingerprint(module)
    made = f"the adapter '{path}' was made for another network:"
    for name, layout in then["layout"].items():
        if name not in now["layout"]:
            raise UsageError(f"{made} it expects '{name}', this one has {', '.join(now['layout']) or 'nothing'}")
        if layout != now["layout"][name]:
            raise UsageError(f"{made} '{name}' is {_say(layout)} there and {_say(now['layout'][name])} here")
    for name in now["layout"]:
        if name not in then["layout"]:
            raise UsageError(f"{made} this one has '{name}', which it does not know")
    if then["sha256"] != now["sha256"]:
        raise UsageError(f"{made} names and shapes agree but the weights do not; load the base it was trained on")


def _say(layout: list[Any]) -> str:
    shape, dtype = layout
    return f"{tuple(shape)} {dtype}"
