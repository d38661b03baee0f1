"""Images and labels in idx form, as MNIST comes: unsigned bytes behind a header of sizes, plain or packed as .gz.

Reference: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, "File formats": two zero bytes, the
type (8 is unsigned bytes), the number of dimensions, and each size as a big-endian number of four bytes.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from lissome._errors import UsageError
from lissome._files import reason
from lissome.recipes.table.arrays import numbered
from lissome.recipes.table.frame import Frame

BYTES = 8  # the type
TRAIN, TEST = "train-", "t10k-"  # how MNIST's files begin


def is_idx(path: Path) -> bool:
    """Say whether a file is named as images in idx form are: `...idx3-ubyte`, perhaps with .gz."""
    return path.name.removesuffix(".gz").endswith(("idx3-ubyte", "idx1-ubyte"))


def read_images(path: Path) -> Frame:
    """Return the images of a file, or of a folder with its training images, each pixel a column, and their labels.

    The labels lie beside the images, `labels` and `idx1` in the place of `images` and `idx3`; MNIST's t10k files are
    the test where they lie beside the training images.

    Raises:
        UsageError: no images or labels there, a file that is cut or of another kind, or labels of another count.
    """
    images = _images_of(path) if path.is_dir() else path
    if "images" not in images.name or "idx3" not in images.name:
        raise UsageError(f"'{images}' holds labels; name the images, whose file says images and idx3")
    frame = _pair(images)
    beside = _beside(images, images.name.replace(TRAIN, TEST, 1)) if images.name.startswith(TRAIN) else None
    if beside is None:
        return frame
    test = _pair(beside)
    if test.columns != frame.columns:
        raise UsageError(f"'{beside}' has images of {test.values.shape[1] - 1} pixels, '{images}' of others")
    return Frame(frame.source, frame.columns, False, frame.values, targets=frame.targets, fixed=frame.fixed, test=test)


def read_idx(path: Path) -> np.ndarray:
    """Return the bytes of a file as an array of its own shape.

    Raises:
        UsageError: it cannot be read or unpacked, is of another kind, or is longer or shorter than its header says.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"'{path}' cannot be unpacked ({error}); it is cut or broken: fetch it again") from error
    except OSError as error:
        raise UsageError(f"data file '{path}' cannot be read: {reason(error)}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise UsageError(f"'{path}' is no idx file: it does not begin with two zero bytes")
    kind, dimensions = content[2], content[3]
    if kind != BYTES:
        raise UsageError(f"'{path}' is of type {kind}; legal is {BYTES}, unsigned bytes")
    head = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, head, 4))
    if len(content) != head + math.prod(shape) or not dimensions:
        said = " x ".join(map(str, shape))
        raise UsageError(f"'{path}' holds {max(len(content) - head, 0):,} bytes behind its header, which says {said}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def labels_of(images: Path) -> Path:
    """Return where the labels of images lie, if they lie beside them.

    >>> labels_of(Path("train-images-idx3-ubyte.gz")).name
    'train-labels-idx1-ubyte.gz'
    """
    return images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))


def plain(path: Path) -> Path:
    """Return a path as it is when the file is unpacked."""
    return path.with_name(path.name.removesuffix(".gz"))


def _pair(images: Path) -> Frame:
    """Return the images of one file with the labels beside it, if they are there."""
    pixels = read_idx(images)
    if pixels.ndim < 2 or not pixels.size:
        raise UsageError(f"'{images}' has shape {pixels.shape}; legal is (N, height, width)")
    pixels = pixels.reshape(len(pixels), -1)  # (N, d)
    columns = numbered(pixels.shape[1])
    place = _beside(images, labels_of(images).name)
    if place is None:
        return Frame(str(images), columns, False, pixels)
    labels = read_idx(place)
    if labels.shape != (len(pixels),):
        raise UsageError(f"'{place}' has {labels.size:,} labels and '{images}' {len(pixels):,} images")
    values = np.concatenate([pixels, labels[:, None]], 1)
    return Frame(str(images), (*columns, "label"), False, values, targets=("label",), fixed="images have one label")


def _beside(images: Path, name: str) -> Path | None:
    """Return a file of that name, plain or packed, if there is one."""
    bare = name.removesuffix(".gz")
    places = (images.with_name(each) for each in (name, bare, f"{bare}.gz"))
    return next((place for place in places if place.is_file() and place != images), None)


def _images_of(folder: Path) -> Path:
    """Return the training images of a folder, or its only images."""
    found = sorted(path for path in folder.iterdir() if is_idx(path) and "images" in path.name)
    train = [path for path in found if path.name.startswith(TRAIN)]
    first = train or found
    if not first or len({path.name.removesuffix(".gz") for path in first}) > 1:
        said = f"{len(found)} files of images" if found else "no images in idx form, such as train-images-idx3-ubyte.gz"
        raise UsageError(f"the folder '{folder}' holds {said}; name a file")
    return first[0]
