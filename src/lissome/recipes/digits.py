"""Pictures of digits with their names: scikit-learn's, where it is installed, or files in MNIST's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome.recipes.table.idx import labels_of, plain, read_idx
from lissome.recipes.table.reading import digits as handwritten

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

    Labels belong to the pictures whose file is named alike, as `table.idx` pairs them, else to those of their number.

    Raises:
        UsageError: a file that cannot be read, pictures without labels of the same number or with several of them, or
            more than two sets.
    """
    read = {str(path): torch.from_numpy(read_idx(Path(path)).copy()) for path in files}
    pictures = {path: data for path, data in read.items() if data.dim() == 3}
    labels = {path: data for path, data in read.items() if data.dim() == 1}
    if not 1 <= len(pictures) <= 2 or len(labels) != len(pictures):
        raise UsageError(
            f"{len(pictures)} files of pictures and {len(labels)} of labels were given; legal are one of each, or two "
            "of each: to train and to test"
        )
    pairs = _pairs(pictures, labels)
    found = [Part(data.flatten(1).float() / 127.5 - 1, labels[pairs[path]].long()) for path, data in pictures.items()]
    if len({part.x.shape[1] for part in found}) > 1 or max(int(part.labels.max()) for part in found) > 9:
        raise UsageError("the two sets have pictures of different sizes, or labels above 9; legal are digits, 0 to 9")
    return sorted(found, key=len, reverse=True)


def _pairs(pictures: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the labels' path of each pictures' path: by their names, and for what is left by their number."""
    named = {plain(Path(path)): path for path in labels}
    pairs = {path: named[own] for path in pictures if (own := plain(labels_of(Path(path)))) in named}
    for path, data in pictures.items():
        size = f"'{path}' has {len(data):,} pictures"
        if path in pairs:
            if len(labels[pairs[path]]) != len(data):
                raise UsageError(
                    f"{size} and '{pairs[path]}' {len(labels[pairs[path]]):,} labels; legal is one of each"
                )
            continue
        same = [each for each in labels if each not in pairs.values() and len(labels[each]) == len(data)]
        if not same:
            raise UsageError(f"{size}, and no file of so many labels was given")
        if len(same) > 1:
            raise UsageError(
                f"{size}, and so many labels are in '{same[0]}' and in '{same[1]}'; name files that belong together "
                "alike, such as train-images-idx3-ubyte and train-labels-idx1-ubyte"
            )
        pairs[path] = same[0]
    return pairs


def _split(part: Part, seed: int) -> tuple[Part, Part]:
    """Return most and the rest."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    held = len(part) // HELD
    return part.rows(order[held:]), part.rows(order[:held])


def _small() -> Part:
    try:
        known = torch.from_numpy(handwritten().values)  # (1797, 64 + 1)
    except UsageError as error:
        raise RunError(str(error)) from error
    return Part(known[:, :-1].float() / 8 - 1, known[:, -1].long())
