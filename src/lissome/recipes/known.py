"""Functions known at points, as what is minimised: the mean square of the mismatch, and errors on points held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissome._errors import RunError
from lissome.optim import Budget, Group, Method, Result, fit, keep_memory
from lissome.recipes.paper import Tick

LOOKS = 12  # evaluations of a run, about
SEEN, ERROR = "chosen by", "error"  # points held out: by which a rate is chosen, and of which the error is told
ALL_DIVERGED = "no rate ends at a finite loss"


@dataclass(frozen=True)
class Known:
    """Points x (N, D) with values y (N, outputs).

    Attributes:
        x: where values are known.
        y: the values.
        held: name -> points and values that are not trained on.
        tick: called at each step, which may end the run.
        batch: points of a step, drawn anew; None is all of them.
    """

    x: Tensor
    y: Tensor
    held: Mapping[str, tuple[Tensor, Tensor]]
    tick: Tick
    batch: int | None = None
    begun: float = field(default_factory=time.process_time)

    def sample(self, generator: torch.Generator, n: int | None = None) -> dict[str, Tensor]:
        """Return all points, or so many of them by chance."""
        if self.batch is None or self.batch >= len(self.x):
            return {"x": self.x, "y": self.y}
        chosen = torch.randint(len(self.x), (self.batch,), generator=generator)
        return {"x": self.x[chosen], "y": self.y[chosen]}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean square of the mismatch."""
        return (model(batch["x"]) - batch["y"]).square().mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the relative error in L2 on each set held out, and the seconds of this process."""
        return {name: relative(model, *pair) for name, pair in self.held.items()} | {"cpu": self.since()}

    def since(self) -> float:
        """Return the seconds that this process has computed since the objective was made."""
        return time.process_time() - self.begun


def relative(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return |model(x) - y| / |y|."""
    with torch.no_grad():
        return float((model(x) - y).norm() / y.norm())


def train(
    model: nn.Module,
    objective: Any,
    steps: int,
    groups: Sequence[Group],
    *,
    seed: int,
    fresh: bool = False,
    looks: int = LOOKS,
) -> Result:
    """Train by the one loop with rates that fall as a cosine; new points in each step if `fresh`."""
    keep_memory()

    def on_step(step: int, model: nn.Module) -> None:
        objective.tick()

    method = Method(tuple(groups), schedule="cosine", resample_every=1 if fresh else None)
    every = max(1, steps // looks)
    return fit(model, objective, method, Budget(steps=steps), seed=seed, progress=False, evaluate_every=every,
               on_step=on_step)  # fmt: skip


class Best(NamedTuple):
    """The run that did best: its rate, what came of it, and what was trained."""

    rate: float
    result: Result
    model: Any


def best_of(
    rates: Sequence[float], attempt: Callable[[float], tuple[Result, Any]], *, by: str
) -> tuple[Best | None, dict[str, float]]:
    """Train at each rate; one that diverges counts as none.

    Args:
        rates: learning rates.
        attempt: rate -> what came of a run, and what was trained.
        by: the figure of the last evaluation that is to be least.

    Returns:
        The best run, None where all diverged, and the figure `error` of each rate.
    """
    best, errors = None, dict[str, float]()
    for rate in rates:
        try:
            result, model = attempt(rate)
        except RunError:
            continue
        errors[f"{rate:g}"] = result.metrics[ERROR]
        if best is None or result.metrics[by] < best.result.metrics[by]:
            best = Best(rate, result, model)
    return best, errors
