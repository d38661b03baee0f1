"""A table from wherever it lies: text, numpy's files, images in idx form, or the digits that scikit-learn brings."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from lissome._errors import UsageError
from lissome.recipes.table.arrays import joined, read_numpy
from lissome.recipes.table.frame import Frame
from lissome.recipes.table.idx import is_idx, read_images
from lissome.recipes.table.text import SUFFIXES, read_text_table

DIGITS = "digits"
LEGAL = ".csv, .tsv, .npy, .npz, images in idx form (...idx3-ubyte, also .gz) or their folder, and the word digits"


def read_table(data: str | Path) -> Frame:
    """Return the table of a file or folder, or scikit-learn's digits: 1,797 images of 8 x 8 pixels.

    Raises:
        UsageError: there is nothing of that name, or what there is cannot be read; the sentence says where.
    """
    path = Path(data)
    if str(data) == DIGITS and not path.exists():
        return digits()
    if not path.exists():
        raise UsageError(f"there is no data file '{path}'; legal are {LEGAL}")
    if path.is_dir() or is_idx(path):
        return read_images(path)
    if path.suffix.lower() in SUFFIXES:
        return read_text_table(path)
    if path.suffix.lower() in (".npy", ".npz"):
        return read_numpy(path)
    raise UsageError(f"'{path}' ends in '{path.suffix}'; legal are {LEGAL}")


def lasting(data: str) -> str:
    """Return the whole path of data, which holds wherever one stands; the word digits stays."""
    return data if data == DIGITS and not Path(data).exists() else os.path.realpath(data)


def digits() -> Frame:
    """Return scikit-learn's digits, (1797, 64) and the label.

    Raises:
        UsageError: scikit-learn is not installed or cannot be loaded.
    """
    try:
        loaded: Any = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise UsageError(
            f"the digits come with scikit-learn, which cannot be loaded ({error}); install it with: "
            "pip install 'lissome[sklearn]', or name a file"
        ) from error
    return joined(DIGITS, loaded.data, loaded.target, "the target of the digits is their y")
