"""Protocols that hold the storeys together."""

from __future__ import annotations

from collections.abc import Sequence
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


@runtime_checkable
class Residual(Protocol):
    """An objective whose loss is the mean square of a vector."""

    def residual(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the vector (M,), with its graph."""
        ...


@runtime_checkable
class Rowwise(Protocol):
    """An objective whose residual falls into rows that stand alone, so that all rows of its Jacobian come at once."""

    def parts(self, batch: Batch) -> list[tuple[Batch, float | Tensor]]:
        """Cut a batch into parts, each with the factor that its rows have in the residual."""
        ...

    def rows(self, model: nn.Module, part: Batch) -> Tensor:
        """Return (N, c); row n depends on row n of each tensor of the part alone."""
        ...


@runtime_checkable
class Balanced(Protocol):
    """An objective that may weigh its parts by what the model is now."""

    def weigh(self, model: nn.Module, batch: Batch) -> Batch:
        """Return what is to be added to batches until it is asked again; nothing where weights stay as they are."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """An objective whose loss is a weighted mean over rows, so that parts of a batch can be computed apart."""

    def divide(self, batch: Batch, count: int) -> list[tuple[Batch, float]]:
        """Cut a batch into `count` parts, each with its weight; the batch's loss is the weighted sum of theirs.

        The weights sum to 1: for a mean over rows they are the parts of the rows, for a mean over scored places the
        parts of the places. The loss of a part has to be finite also where its weight is 0. The same on each process.
        """
        ...


@runtime_checkable
class Adaptive(Protocol):
    """An objective that can draw where a model is wrong."""

    def sample_by_residual(self, model: nn.Module, generator: torch.Generator, n: int) -> Batch:
        """Draw a batch of about n points, denser where the residual is large."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """A callback of the training loop that looks at the optimizers too."""

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Be told of the optimizers, before the first step, at a resume, and when a phase begins."""
        ...

    def __call__(self, step: int, model: nn.Module) -> bool | None:
        """Look at the model after a step; True ends the run."""
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
