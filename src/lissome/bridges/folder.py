"""A folder as `save_pretrained` writes it: JSON, and safetensors in one file or in several beside an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lissome._errors import UsageError
from lissome._files import reason
from lissome._parsed import json_of

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_object(path: Path) -> dict[str, Any]:
    """Return what a file of JSON holds.

    Raises:
        UsageError: it cannot be read, is no JSON, or holds no names and values.
    """
    try:
        told = json_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({reason(error)})") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is no JSON ({error}); save the model again") from error
    if not isinstance(told, dict):
        raise UsageError(f"'{path}' holds a {type(told).__name__}; legal is an object of names and values")
    return told


def read_weights(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Return the weights of a folder whose names are wanted, from the files that hold any of them.

    Raises:
        UsageError: a file is missing, damaged, not in the folder itself, or none of safetensors.
    """
    found = dict[str, Tensor]()
    for file in _files(folder, wanted):
        try:
            with safe_open(folder / file, "pt") as weights:
                found |= {name: weights.get_tensor(name) for name in list(weights.keys()) if wanted(name)}
        except FileNotFoundError as error:
            raise UsageError(f"the weights '{folder / file}' are missing; copy the whole folder") from error
        except OSError as error:
            raise UsageError(f"the weights '{folder / file}' cannot be read ({reason(error)})") from error
        except (SafetensorError, ValueError, KeyError) as error:
            raise UsageError(f"the weights '{folder / file}' are damaged ({error}); save the model again") from error
    return found


def _files(folder: Path, wanted: Callable[[str], bool]) -> list[str]:
    if (folder / WHOLE).is_file():
        return [WHOLE]
    if (folder / INDEX).is_file():
        places = read_object(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(_beside(file) for file in places.values()):
            raise UsageError(f"'{folder / INDEX}' names no files of weights beside it; save the model again")
        return sorted({file for name, file in places.items() if wanted(name)})
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    held = f" but {pickled[0]}, which could run code" if pickled else ""
    raise UsageError(f"'{folder}' holds no {WHOLE}{held}; save the model by save_pretrained again")


def _beside(name: object) -> bool:
    """Whether a name is that of a file in the same folder."""
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
