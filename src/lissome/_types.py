"""Protocols that hold the storeys together."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """What `optim.fit` minimises; it knows nothing else of a problem.

    An objective may also offer `residual(model, batch) -> Tensor` of shape (M,), whose mean
    square is the loss: second-order methods use it.
    """

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw a batch of about n points; all randomness comes from the generator."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss, a scalar with its graph."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return named figures of quality, the same numbers each time for the same model."""
        ...


class LinearOperator(Protocol):
    """A matrix known by its products."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (n,) or to the columns of (n, k)."""
        ...

    def dense(self) -> Tensor:
        """Return the matrix itself; refused above a stated size."""
        ...
