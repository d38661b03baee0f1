"""What a run of a language model left on disk beside its settings and metrics; each file may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lissome._errors import UsageError
from lissome._parsed import json_of
from lissome.report.read import read_arrays, read_json, read_metrics, read_settings, read_text

TEXT, SHAPE, START = "text.json", "shape.json", "start.json"
GRADIENTS, LENGTHS, SEPARATORS = "gradients.jsonl", "lengths.json", "separators.json"
MAPS, SENTENCE = "maps.safetensors", "sentence.json"
OWN = {"held", "scored", "vocabulary"}  # settings that runs of other kinds have not
FLAT = ("scores", "bias", "correction", "refined", "weights")  # maps of a layer: (h, T, T)


@dataclass(frozen=True)
class Lengths:
    """Perplexity by length.

    Attributes:
        trained: the training length, in tokens.
        data: what was read.
        steps: after which it was measured, where that is known.
        length: (N,), ascending.
        perplexity: (N,).
        low: (N,), two standard errors below; of one window as the perplexity itself.
        high: (N,), two above.
    """

    trained: int | None
    data: str
    steps: int | None
    length: np.ndarray
    perplexity: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Maps:
    """Attention of one sentence of T tokens.

    Attributes:
        told: sentence.json.
        pieces: text of each token.
        layers: kept layer, from 0 -> name -> (h, T, T), `valid` (T, T), `decay` (h, n), `near` (h, m).
        heads: kept heads, from 0.
        distance: (n,).
    """

    told: dict[str, Any]
    pieces: list[str]
    layers: dict[int, dict[str, np.ndarray]]
    heads: list[int]
    distance: np.ndarray


@dataclass(frozen=True)
class Shares:
    """Where attention falls.

    Attributes:
        told: separators.json.
        attention: class of keys -> (L, H).
        keys: class of keys -> its share of them.
        sums: mean sum of a row, (L, H).
    """

    told: dict[str, Any]
    attention: dict[str, np.ndarray]
    keys: dict[str, float]
    sums: np.ndarray


def is_language(path: Path) -> bool:
    """Whether a directory holds a run of `lissome lm train`."""
    return (path / TEXT).is_file() and (path / SHAPE).is_file()


def check_begun(path: Path) -> None:
    """Refuse a run of `lissome lm train` that was killed so early that nothing of it can be told.

    Raises:
        UsageError: it is one.
    """
    kept = path / "settings.yaml"
    if is_language(path) or not kept.is_file() or not read_settings(kept, read_text(kept)).keys() >= OWN:
        return
    raise UsageError(
        f"'{path}' was stopped before its text was read and its model made: `lissome lm train --resume --out {path}` "
        "goes on"
    )


def kept_step(path: Path) -> int | None:
    """Return after how many steps the last checkpoint of a run was written; None if there is none that tells it."""
    try:
        told = dict(json_of((path / "checkpoint" / "state.json").read_bytes())["dict"])
        return int(told["step"])
    except (OSError, KeyError, TypeError, ValueError):
        return None


def read_lengths(path: Path) -> Lengths | None:
    """Read lengths.json of a run directory.

    Raises:
        UsageError: it is broken.
    """
    told = read_json(path / LENGTHS)
    if not told:
        return None
    with _whole(path / LENGTHS, "lissome lm evaluate writes it anew"):
        rows = sorted(told["rows"], key=lambda row: row["length"])
        length, nats = (np.array([float(row[key]) for row in rows]) for key in ("length", "nats"))
        error = np.array([float(row["error"] or 0) for row in rows])
        _demand(len(rows) > 0 and (length >= 1).all() and np.isfinite(nats).all() and (error >= 0).all())
        low, middle, high = (np.exp(np.minimum(nats + times * error, 200)) for times in (-2, 0, 2))
        trained, steps = (None if told.get(key) is None else int(told[key]) for key in ("trained", "steps"))
        return Lengths(trained, str(told.get("data")), steps, length, middle, low, high)


def read_maps(path: Path) -> Maps | None:
    """Read maps.safetensors and sentence.json of a run directory; None if either is missing.

    Raises:
        UsageError: one is broken, or they do not fit each other.
    """
    told, arrays = read_json(path / SENTENCE), read_arrays(path / MAPS)
    if not told or not arrays:
        return None
    with _whole(path / MAPS, f"or does not fit {SENTENCE}"):
        pieces, heads = [str(piece) for piece in told["pieces"]], [int(head) for head in told["heads"]]
        found, size, distance = dict[int, dict[str, np.ndarray]](), len(pieces), arrays["distance"]
        for layer in map(int, told["layers"]):
            start = f"layers/{layer}/"
            own = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
            _demand(own["valid"].shape == (size, size) and {"scores", "refined", "weights"} <= own.keys())
            _demand(all(own[name].shape == (len(heads), size, size) for name in FLAT if name in own))
            decays = [own[name] for name in ("decay", "near") if name in own]
            _demand(all(len(one) == len(heads) and one.shape[1] <= len(distance) for one in decays))
            found[layer] = own
        _demand(bool(found) and size > 0 and len(heads) > 0)
        told |= {key: int(told.get(key) or 0) for key in ("cut", "depth", "width", "length")}
        return Maps(told, pieces, found, heads, distance)


def read_shares(path: Path) -> Shares | None:
    """Read separators.json of a run directory.

    Raises:
        UsageError: it is broken.
    """
    told = read_json(path / SEPARATORS)
    if not told:
        return None
    with _whole(path / SEPARATORS, "train or observe the run anew"):
        attention = {str(name): np.array(values, dtype=np.float64) for name, values in told["attention"].items()}
        keys = {str(name): float(value) for name, value in told["keys"].items()}
        sums = np.array(told["row_sum"], dtype=np.float64)
        _demand(bool(keys) and keys.keys() == attention.keys() and sums.ndim == 2)
        _demand(all(values.shape == sums.shape and np.isfinite(values).all() for values in attention.values()))
        _demand({"separators", "rest"} <= keys.keys())
        return Shares(told, attention, keys, sums)


def read_gradients(path: Path) -> dict[str, np.ndarray]:
    """Read gradients.jsonl of a run directory; of N rows: step (N,), embedding (N,), layers (N, L), stages (N, L).

    What is missing is NaN; without rows there is nothing.

    Raises:
        UsageError: it is broken.
    """
    rows = read_metrics(path / GRADIENTS, finished=False)
    if not rows:
        return {}
    with _whole(path / GRADIENTS, "delete it, or train anew"):
        found = {key: np.array([row[key] for row in rows], float) for key in ("step", "embedding", "layers", "stages")}
        _demand(found["layers"].ndim == 2 and found["layers"].shape == found["stages"].shape)
        return found


@contextmanager
def _whole(path: Path, cure: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"'{path}' does not hold what it should; it is broken ({cure})") from error


def _demand(holds: object) -> None:
    if not holds:
        raise ValueError
