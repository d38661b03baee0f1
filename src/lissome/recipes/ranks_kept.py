"""What `lissome lm ranks` has measured, kept on disk piece by piece, and known again by the files it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lissome._errors import UsageError
from lissome._files import write
from lissome.adapt.basis import Rotation
from lissome.allocation import Gates
from lissome.allocation.gates import CHUNK
from lissome.calculus import Quadratic, quadratic
from lissome.recipes.ranks_settings import RanksSettings
from lissome.report.read import read_json

READ = (".json", ".safetensors")  # of a folder
LARGE = 100_000_000  # bytes of a file that is not read to know it again


def inputs(settings: RanksSettings, place: Path) -> dict[str, str]:
    """Return digests of what is measured, after a check against those that are kept in a file.

    Raises:
        UsageError: the adapter, the data, the tokenizer or the model is another one by now.
    """
    asked = {name: getattr(settings, name) for name in ("model", "adapter", "data", "tokenizer")}
    now = {name: _digest(Path(place)) for name, place in asked.items() if place is not None}
    before = read_json(place) if place.is_file() else now
    if changed := [name for name in asked if now.get(name) != before.get(name)]:
        said = f"{changed[0]} '{asked[changed[0]]}'"
        raise UsageError(f"{said} has changed since its terms were weighed; name another directory by --out")
    return now


def turned(place: Path, make: Callable[[], dict[str, Rotation]]) -> dict[str, Rotation]:
    """Return layer -> change of basis, from a file if it is there; else make it and write it."""
    if place.is_file():
        state = _read(place)
        layers = [name.removeprefix("forth.") for name in state if name.startswith("forth.")]
        return {layer: Rotation(state[f"forth.{layer}"], state[f"back.{layer}"]) for layer in layers}
    found = make()
    parts = {f"{way}.{layer}": getattr(X, way) for layer, X in found.items() for way in X._fields}
    write(place, save({name: tensor.cpu().clone() for name, tensor in parts.items()}))  # X may be its own inverse
    return found


def expansion(place: Path, gates: Gates, batch: Any, limit: int) -> Quadratic:
    """Return the loss of a batch to second order, on the CPU, from a file if it is there; else make it and write it."""
    if place.is_file():
        state = _read(place)
        blocks = tuple(state[f"block.{k}"] for k in range(len(state) - 2))
        return Quadratic(state["values"], state["gradients"], blocks, tuple(map(torch.zeros_like, blocks)))
    found = quadratic([lambda g: gates.at(g, batch)], gates.ones(), limit=limit, chunk=CHUNK)
    found = Quadratic(*(_cpu(getattr(found, name)) for name in ("values", "gradients", "blocks", "deviations")))
    state = {"values": found.values, "gradients": found.gradients}
    write(place, save(state | {f"block.{k}": block.contiguous() for k, block in enumerate(found.blocks)}))
    return found


def _digest(place: Path) -> str:
    """Return a digest of a file, or of the settings and weights of a folder; large ones by size and time."""
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix in READ)
    for path in files:
        told = path.stat()
        digest.update(path.name.encode())
        small = told.st_size < LARGE
        digest.update(path.read_bytes() if small else f"{told.st_size} {told.st_mtime_ns}".encode())
    return digest.hexdigest()


def _read(place: Path) -> dict[str, Tensor]:
    try:
        return load_file(place)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"'{place}' is damaged ({error}); remove it to have it measured again") from error


def _cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else tuple(each.cpu() for each in value)
