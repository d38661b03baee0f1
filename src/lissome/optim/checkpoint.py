"""Checkpoints: safetensors and JSON, complete or not there at all, never pickle.

A checkpoint is a directory of three files: `model.safetensors` (the model's state dict),
`state.safetensors` and `state.json` (whatever else continues the run exactly). It is written under
another name and renamed, so a process killed at any moment leaves the old or the new one, whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lissome._errors import RunError, UsageError
from lissome._files import place, reason
from lissome._parsed import json_of
from lissome._weights import check_weights
from lissome.optim.sharding import like

MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors by name, and a tree of dicts, lists, tensors and numbers."""

    model: dict[str, Tensor]
    state: dict[str, Any]


def encode(tree: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Return the tree as JSON values; its tensors go to `tensors` under their path.

    Raises:
        TypeError: something in the tree is neither a container, a tensor, a number, a text nor None.

    >>> encode({"step": 3, "betas": (0.9, 0.99)}, {})
    {'dict': [['step', 3], ['betas', {'tuple': [0.9, 0.99]}]]}
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {"dict": [[key, encode(value, tensors, f"{path}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [encode(value, tensors, f"{path}.{index}") for index, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path} is a {type(tree).__name__}, which a checkpoint cannot hold")


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `encode`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: decode(item, tensors) for key, item in value}
    return {"list": list, "tuple": tuple}[kind](decode(item, tensors) for item in value)


def write(directory: Path, model: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put a checkpoint in place of the one that may be there; all of it or nothing.

    Raises:
        RunError: the disk is full or refuses; the earlier checkpoint is intact.
    """
    directory = Path(directory)
    new, old = _beside(directory)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(state, tensors))
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        place(new / MODEL, safetensors.torch.save(_own(model)))
        place(new / TENSORS, safetensors.torch.save(_own(tensors)))
        place(new / STATE, text)  # last: a directory that has it is whole
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            os.replace(directory, old)
        os.replace(new, directory)
    except OSError as error:
        with contextlib.suppress(OSError):  # if even this fails, the next reader mends it
            if old.exists() and not directory.exists():
                os.replace(old, directory)
            shutil.rmtree(new, ignore_errors=True)
        kept = "the checkpoint before it is intact" if directory.exists() else "there was none before it"
        raise RunError(
            f"the checkpoint {directory} could not be written ({reason(error)}); {kept}: make room, then resume"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def exists(directory: Path) -> bool:
    """Say whether there is a checkpoint, also one whose writer was killed while renaming it."""
    _recover(Path(directory))
    return Path(directory).is_dir()


def read(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Return the checkpoint.

    Raises:
        UsageError: there is none, or a file of it is missing or damaged.
    """
    directory = Path(directory)
    if not exists(directory):
        raise UsageError(f"there is no checkpoint at {directory}; start without resume")
    model = _tensors(directory / MODEL, device)
    tensors = _tensors(directory / TENSORS, "cpu")
    text = _read_file(directory / STATE)
    try:
        state = dict(decode(json_of(text), tensors).items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the checkpoint file {directory / STATE} is damaged; start again without it") from error
    return Checkpoint(model, state)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str = "the checkpoint") -> None:
    """Copy the tensors into the model, after a check of every name, shape and dtype.

    Raises:
        UsageError: they belong to another network; the first difference is named.
    """
    own = model.state_dict()
    check_weights(own, tensors, source)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(like(tensors[name].to(value.device), value))


def difference(before: Any, now: Any, path: str = "") -> str:
    """Name the first place where two trees of settings differ, or return nothing.

    >>> difference({"seed": 3, "betas": [0.9, 0.99]}, {"seed": 3, "betas": [0.9, 0.95]})
    'betas[1] was 0.99 and is 0.95 now'
    """
    if isinstance(before, dict) and isinstance(now, dict) and list(before) == list(now):
        pairs = [(f"{path}.{key}" if path else str(key), before[key], now[key]) for key in now]
    elif isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        pairs = [(f"{path}[{index}]", a, b) for index, (a, b) in enumerate(zip(before, now, strict=True))]
    else:
        return "" if before == now else f"{path} was {before!r} and is {now!r} now"
    return next(filter(None, (difference(a, b, name) for name, a, b in pairs)), "")


def _beside(directory: Path) -> tuple[Path, Path]:
    return directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")


def _recover(directory: Path) -> None:
    """Finish a rename that was cut off: the new directory if it is whole, else the old one."""
    new, old = _beside(directory)
    if not directory.exists():
        with contextlib.suppress(OSError):  # another process of the run has just done it
            if (new / STATE).exists():
                os.replace(new, directory)
            elif old.exists():
                os.replace(old, directory)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy to the CPU: safetensors refuses shared and strided memory."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"the checkpoint file {path} is missing; start again without resume") from None


def _tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    content = _read_file(path)
    try:
        # copies: in memory that is aligned otherwise, some kernels round otherwise
        return {name: value.to(device, copy=True) for name, value in safetensors.torch.load(content).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(
            f"the checkpoint file {path} is damaged or cut off ({error}); restore it or start again"
        ) from None
