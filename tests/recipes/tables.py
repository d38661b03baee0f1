"""Small tables for tests, and the shortest way to fit one."""

import gzip
import math

import numpy as np

from lissome.recipes import fit_table
from lissome.recipes.settings import load
from lissome.recipes.table.settings import TableSettings

FEW = {"training.steps": 10, "training.evaluate": 5, "training.compile": False, "network.width": 3}


def settings(data, **given):
    """Return settings of a few steps; keys are dotted, with `__` for a dot."""
    given = {key.replace("__", "."): value for key, value in given.items()}
    return load(TableSettings, given=FEW | {"data": str(data)} | given)


def fitted(data, out, **given):
    """Fit in few steps; return the summary."""
    return fit_table(settings(data, **given), out, progress=False)


def write(path, text):
    path.write_text(text)
    return path


def product(path, rows=200, seed=0):
    """Write y = sin(3 x1) x2 on [-1, 1]^2 as .csv."""
    X = np.random.default_rng(seed).uniform(-1, 1, (rows, 2))
    lines = [f"{a!r},{b!r},{math.sin(3 * a) * b!r}" for a, b in X.tolist()]
    return write(path, "\n".join(["x1,x2,y", *lines]) + "\n")


def blobs(path, rows=90, seed=0):
    """Write three clouds of points with their colours as .csv."""
    draw = np.random.default_rng(seed)
    names, centres = ["red", "green", "blue"], np.array([[0, 0], [4, 0], [0, 4]])
    lines = []
    for row in range(rows):
        a, b = (centres[row % 3] + draw.normal(size=2)).tolist()
        lines.append(f"{a!r},{b!r},{names[row % 3]}")
    return write(path, "\n".join(["width,height,colour", *lines]) + "\n")


def idx(path, array, kind=8):
    """Write an array of bytes in idx form, packed if the name ends in .gz."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = bytes([0, 0, kind, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def images(folder, rows=40, test=0, ending="", seed=0):
    """Write images of 3 x 4 pixels in two classes, bright on the left or on the right, as MNIST is written."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for name, count in (("train", rows), ("t10k", test)):
        if count:
            labels = np.arange(count) % 2
            pixels = draw.integers(0, 60, (count, 3, 4))
            pixels[:, :, :2] += 150 * (labels == 0)[:, None, None]
            pixels[:, :, 2:] += 150 * (labels == 1)[:, None, None]
            idx(folder / f"{name}-images-idx3-ubyte{ending}", pixels)
            idx(folder / f"{name}-labels-idx1-ubyte{ending}", labels)
    return folder
