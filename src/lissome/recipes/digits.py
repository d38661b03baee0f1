"""Pictures of digits with their names: scikit-learn's, where it is installed, or files in MNIST's own form."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome.recipes.table.idx import read_idx

HELD = 6  # one picture of so many is held out for the choice of the rate, and where there is no test set for the test


@dataclass(frozen=True)
class Part:
    """Pictures x (N, pixels) in [-1, 1], float32, and labels (N,)."""

    x: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Tensor) -> Part:
        """Return some of them."""
        return Part(self.x[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Digits:
    """What is trained on, what the rate is chosen by, and what is told."""

    name: str
    train: Part
    choose: Part
    test: Part


def digits(files: Sequence[str | Path], seed: int) -> Digits:
    """Return the digits of idx files or, without any, scikit-learn's (1,797 of 8 x 8); parts are drawn by the seed.

    Raises:
        UsageError: files that are no pictures with their labels.
        RunError: scikit-learn cannot be loaded; ask `labelled.has_breast_cancer` before.
    """
    known = read_pairs(files) if files else [_small()]
    rest, test = (known[0], known[1]) if len(known) == 2 else _split(known[0], 2_000 + seed)
    train, choose = _split(rest, seed)
    return Digits("MNIST" if files else "digits", train, choose, test)


def read_pairs(files: Sequence[str | Path]) -> list[Part]:
    """Return pictures with their labels, the larger set first.

    Raises:
        UsageError: a file that cannot be read, pictures without labels of the same number, or more than two sets.
    """
    read = {str(path): torch.from_numpy(read_idx(Path(path)).copy()) for path in files}
    pictures = {path: data for path, data in read.items() if data.dim() == 3}
    labels = {path: data for path, data in read.items() if data.dim() == 1}
    if not 1 <= len(pictures) <= 2 or len(labels) != len(pictures):
        raise UsageError(
            f"{len(pictures)} files of pictures and {len(labels)} of labels were given; legal are one of each, or two "
            "of each: to train and to test"
        )
    found = []
    for path, data in pictures.items():
        same = [each for each in labels.values() if len(each) == len(data)]
        if not same:
            raise UsageError(f"'{path}' has {len(data):,} pictures, and no file of so many labels was given")
        x = data.flatten(1).float() / 127.5 - 1
        found.append(Part(x, same[0].long()))
    if len({part.x.shape[1] for part in found}) > 1 or max(int(part.labels.max()) for part in found) > 9:
        raise UsageError("the two sets have pictures of different sizes, or labels above 9; legal are digits, 0 to 9")
    return sorted(found, key=len, reverse=True)


def _split(part: Part, seed: int) -> tuple[Part, Part]:
    """Return most and the rest."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    held = len(part) // HELD
    return part.rows(order[held:]), part.rows(order[:held])


def _small() -> Part:
    try:
        loaded: Any = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise RunError(f"scikit-learn cannot be loaded ({error}); mend or remove it, or name files of data") from error
    return Part(torch.from_numpy(loaded.data).float() / 8 - 1, torch.from_numpy(loaded.target).long())
