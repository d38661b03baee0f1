"""A run directory: claimed once, written file by file, each under a temporary name first."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome._files import reason, write, write_json
from lissome._version import __version__
from lissome.recipes.settings import dump


def claim(out: Path, settings: BaseModel, *, resume: bool = False) -> None:
    """Make a directory for a run and write its settings and environment.

    Raises:
        UsageError: it exists and holds something; or it is to be resumed and holds no run, or one of other settings.
        RunError: it cannot be written.
    """
    text = dump(settings)
    if resume:
        kept = out / "settings.yaml"
        if not kept.is_file():
            raise UsageError(f"'{out}' cannot be resumed: it holds no settings.yaml")
        if kept.read_text(encoding="utf-8") != text:
            raise UsageError(f"'{out}' was started with other settings; resume it with --settings {kept} alone")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists; name another directory by --out, or go on with it by --resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"'{out}' cannot be made: {reason(error)}") from error
    write(out / "settings.yaml", text)
    write_json(out / "environment.json", environment())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors whole or not at all."""
    write(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def environment() -> dict[str, Any]:
    """Return versions, machine, command and commit."""
    packages = ("torch", "numpy", "scipy", "accelerate", "safetensors")
    return {
        "lissome": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["lissome", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    """Return the commit of the source tree this runs from, or None for an installed package."""
    here = Path(__file__).resolve().parent
    asked = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
