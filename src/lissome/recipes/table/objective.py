"""What a network is to do with a table: come near to numbers, or give the class of each row a high probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome._types import Batch

ROWS = 2048  # evaluated at once


@dataclass(frozen=True)
class Rows:
    """Inputs x (N, d) on the grid, and y: targets (N, k), standardised, or places of classes (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def draw(self, generator: torch.Generator, n: int) -> Batch:
        """Return n different rows, or all of them in their order."""
        if n >= len(self):
            return {"x": self.x, "y": self.y}
        chosen = torch.randperm(len(self), generator=generator)[:n].to(self.x.device)
        return {"x": self.x[chosen], "y": self.y[chosen]}


class Regression:
    """The mean square of the residual network(x) - y; an `Objective`, with rows that stand alone.

    `error` is the root of the mean square of the residual on the test, in deviations of the target; `r2` is the mean
    over targets of 1 - (squared residual) / (squared distance from the test's own mean); `fresh` is the test's loss.

    Args:
        train: rows that the loss is of.
        test: rows that the figures are of.
        deviation: (k,), by which targets were divided.
    """

    def __init__(self, train: Rows, test: Rows, deviation: Tensor):
        self.train, self.test, self.deviation = train, test, deviation

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw n rows."""
        return self.train.draw(generator, n)

    def rows(self, model: nn.Module, part: Batch) -> Tensor:
        """Return the residual (N, k)."""
        return model(part["x"]) - part["y"]

    def parts(self, batch: Batch) -> list[tuple[Batch, float | Tensor]]:
        """Return the batch: all its rows count alike."""
        return [(batch, 1.0)]

    def residual(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the residual (N k,)."""
        return self.rows(model, batch).reshape(-1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean square of the residual."""
        return self.rows(model, batch).square().mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return `error`, `r2` and `fresh` on the test, and `rmse` in the target's own unit if there is one."""
        y = self.test.y.cpu().double()
        squares = (forward(model, self.test.x) - y).square()  # (N, k)
        spread = (y - y.mean(0)).square().sum(0)
        r2 = torch.where(spread > 0, 1 - squares.sum(0) / spread, torch.nan).mean()
        fresh = float(squares.mean())
        found = {"error": fresh**0.5, "r2": float(r2), "fresh": fresh}
        return found | ({"rmse": fresh**0.5 * float(self.deviation[0])} if len(self.deviation) == 1 else {})


class Classification:
    """The cross entropy of softmax(network(x)) and the class; an `Objective`.

    `error` is the part of the test's rows whose class is not the most probable one, `accuracy` the others', `fresh` the
    test's loss.

    Args:
        train: rows that the loss is of.
        test: rows that the figures are of.
    """

    def __init__(self, train: Rows, test: Rows):
        self.train, self.test = train, test

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw n rows."""
        return self.train.draw(generator, n)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy."""
        return F.cross_entropy(model(batch["x"]), batch["y"])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return `error`, `accuracy` and `fresh` on the test."""
        scores, y = forward(model, self.test.x), self.test.y.cpu()  # (N, C)
        right = float((scores.argmax(1) == y).double().mean())
        return {"error": 1 - right, "accuracy": right, "fresh": float(F.cross_entropy(scores, y))}


def forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a network's outputs (N, k), in float64 on the CPU and without graph, some rows at once."""
    with torch.no_grad():
        return torch.cat([model(part).cpu().double() for part in x.split(ROWS)])
