"""What a change of basis does beside turning terms: the optimizer begins anew. That alone, on the same schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lissome.allocation import Schedule


class Anew:
    """A callback for `optim.fit(..., on_step=)`: optimizers forget all they hold wherever ranks would be chosen."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.optimizers: list[torch.optim.Optimizer] = []

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take note of the optimizers."""
        self.optimizers = list(optimizers)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Forget, if it is time."""
        if self.schedule.due(step):
            for optimizer in self.optimizers:
                optimizer.state.clear()
