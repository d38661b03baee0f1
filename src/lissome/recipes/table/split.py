"""Which rows are held out: drawn by a seed, from each class alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def split(rows: int, share: float, seed: int, y: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Return the rows of training and of the test, ascending: at least one of each if the share is above 0.

    Args:
        rows: N.
        share: of the test.
        seed: of the draw.
        y: places of the classes (N,); each class gives its share, and keeps a row for training.

    >>> train, test = split(10, 0.2, 0)
    >>> len(train), len(test), sorted(train.tolist() + test.tolist()) == list(range(10))
    (8, 2, True)
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(rows, generator=generator)
    if not share:
        return torch.arange(rows), torch.arange(0)
    if y is None:
        count = min(max(round(share * rows), 1), rows - 1)
        return drawn[count:].sort().values, drawn[:count].sort().values
    test = torch.zeros(rows, dtype=torch.bool)
    labels = torch.from_numpy(y)[drawn]
    sizes = torch.bincount(labels)
    for label, size in enumerate(sizes.tolist()):
        test[drawn[labels == label][: min(round(share * size), max(size - 1, 0))]] = True
    if not test.any():  # every class is small: the largest gives one row
        test[drawn[labels == int(sizes.argmax())][0]] = True
    return (~test).nonzero()[:, 0], test.nonzero()[:, 0]
