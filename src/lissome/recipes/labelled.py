"""Rows with two labels, for the papers that classify: made from a seed, or scikit-learn's where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError

SPREAD = 2.0  # decades between the scales of the synthetic columns


@dataclass(frozen=True)
class Labelled:
    """Rows A (N, p), a tensor or a matrix of scipy.sparse, in float64, and labels b (N,) in {0, 1}."""

    name: str
    A: Any
    b: Tensor

    def first(self, rows: int) -> Labelled:
        """Return the first rows; all columns stay."""
        return Labelled(self.name, self.A[:rows], self.b[:rows])


def synthetic(seed: int = 0, rows: int = 2000, columns: int = 50) -> Labelled:
    """Return normal rows, columns scaled over two decades, labels drawn from a logistic model.

    >>> synthetic(rows=6, columns=2).A.shape
    torch.Size([6, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    scales = torch.logspace(-SPREAD / 2, SPREAD / 2, columns, dtype=torch.float64)
    A = torch.randn(rows, columns, **draw) * scales  # (N, p)
    x = torch.randn(columns, **draw) / scales
    b = (torch.rand(rows, **draw) < torch.sigmoid(A @ x)).double()
    return Labelled("synthetic", A, b)


def has_breast_cancer() -> bool:
    """Say whether scikit-learn, which brings the table, is installed."""
    return importlib.util.find_spec("sklearn") is not None


def breast_cancer() -> Labelled:
    """Return scikit-learn's breast-cancer table (569, 30), columns of mean 0 and variance 1.

    Raises:
        RunError: scikit-learn is not installed or cannot be loaded; ask `has_breast_cancer` before.
    """
    try:
        loaded: Any = importlib.import_module("sklearn.datasets").load_breast_cancer()
    except ImportError as error:
        raise RunError(f"scikit-learn cannot be loaded ({error}); mend or remove it, or name files of data") from error
    A = torch.from_numpy(loaded.data).double()  # (569, 30)
    A = (A - A.mean(0)) / A.std(0)
    return Labelled("breast-cancer", A, torch.from_numpy(loaded.target).double())
