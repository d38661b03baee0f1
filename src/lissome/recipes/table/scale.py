"""Inputs on the grid [-1, 1] of a KAN, targets of mean 0 and variance 1, from the rows of training alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1e-300  # a range below it is none
ROWS = 8192  # done at once


@dataclass(frozen=True)
class Scale:
    """Ranges of the inputs, means and deviations of the targets; float64.

    Attributes:
        low: (d,), of the rows of training.
        high: (d,).
        mean: (k,), of the targets; none where they are classes.
        deviation: (k,); 1 for a target that does not vary.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor

    def inside(self, X: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Return inputs (N, d) on the grid; a column that did not vary is 0, whatever it is now."""
        half = self.high / 2 - self.low / 2
        gain = torch.where(half > SMALL, 1 / half.clamp_min(SMALL), 0.0)
        centre = self.low + half
        out = torch.zeros(X.shape, dtype=dtype)
        for start in range(0, len(X), ROWS):
            part = torch.from_numpy(X[start : start + ROWS].astype(np.float64))
            out[start : start + ROWS] = ((part - centre) * gain).to(dtype)
        return out

    def outside(self, X: np.ndarray) -> np.ndarray:
        """Say which rows (N,) lie outside the range of training in one input or more."""
        low, high = self.low.numpy(), self.high.numpy()
        return np.any((low > X) | (high < X), axis=1)

    def down(self, y: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Return targets (N, k), standardised."""
        return ((torch.from_numpy(y) - self.mean) / self.deviation).to(dtype)

    def up(self, values: Tensor) -> Tensor:
        """Undo `down`, in float64."""
        return values.double() * self.deviation + self.mean

    def plain(self) -> dict[str, Any]:
        """Return it as lists of numbers, which JSON keeps to the last bit."""
        return {name: getattr(self, name).tolist() for name in ("low", "high", "mean", "deviation")}


def scale_of(X: np.ndarray, y: np.ndarray | None) -> Scale:
    """Return the scale of rows of training: inputs (N, d), and targets (N, k) or None for classes."""
    low, high = (torch.from_numpy(np.asarray(each, np.float64).copy()) for each in (X.min(0), X.max(0)))
    targets = torch.from_numpy(np.array(y, np.float64)) if y is not None else torch.zeros(1, 0, dtype=torch.float64)
    mean = targets.mean(0)
    deviation = (targets - mean).square().mean(0).sqrt()
    return Scale(low, high, mean, torch.where(deviation > SMALL, deviation, 1.0))


def scale_from(kept: dict[str, Any]) -> Scale:
    """Undo `Scale.plain`.

    >>> scale_from(scale_of(np.eye(2), None).plain()).inside(np.eye(2), torch.float64)
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    return Scale(**{name: torch.tensor(kept[name], dtype=torch.float64) for name in kept})
