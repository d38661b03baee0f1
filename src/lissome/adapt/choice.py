"""What a choice of ranks says: the terms that stay, their gates, and the change of the loss, predicted and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lissome._errors import RunError

Loss = Callable[[Tensor], float | Tensor]


@dataclass(frozen=True, eq=False)
class RankChoice:
    """Which of n gated terms stay.

    Attributes:
        rule: by which they were chosen.
        budget: as it was asked.
        layers: name -> how many terms the layer had, in the order of the gates.
        kept: name -> the terms that stay, numbered within their layer.
        gates: (n,) 0 where a term is cut, else 1 or its compensated value; dtype and device of the gradient.
        predicted: the change of the loss by the quadratic model at these gates.
        certificate: what is known of the set beside the best one, in words.
        damping: added to the diagonal of the kept terms' curvature for the compensation; 0 without.
        seconds: that the choice took, and `measure` after it.
        crossed: whether the curvature between layers was known.
        measured: the change of the loss itself; None before `measure`.
        before: the loss with all gates 1; None before `measure`.
    """

    rule: str
    budget: int
    layers: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]
    gates: Tensor
    predicted: float
    certificate: str
    damping: float
    seconds: float
    crossed: bool
    measured: float | None = None
    before: float | None = None

    @property
    def ranks(self) -> dict[str, int]:
        """Name -> how many terms stay."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @property
    def values(self) -> dict[str, Tensor]:
        """Name -> the gates (rank,) of the terms that stay."""
        parts = self.gates.split(list(self.layers.values()))
        return {
            name: part[torch.tensor(self.kept[name], dtype=torch.long, device=part.device)]
            for name, part in zip(self.layers, parts, strict=True)
        }

    def measure(self, loss: Loss) -> RankChoice:
        """Return the choice with `before` and `measured` by two evaluations.

        Args:
            loss: from gates (n,) to the loss, on the batch that the choice is judged by.

        Raises:
            RunError: the loss is not finite.
        """
        start = time.perf_counter()
        before = evaluate(loss, torch.ones_like(self.gates))
        after = evaluate(loss, self.gates)
        for value, where in ((before, "with all gates 1"), (after, f"at the gates that '{self.rule}' chose")):
            if not math.isfinite(value):
                raise RunError(f"the loss is {value} {where}; legal is a finite number: try another batch or rule")
        seconds = self.seconds + time.perf_counter() - start
        return replace(self, before=before, measured=after - before, seconds=seconds)

    def __str__(self) -> str:
        """Say it in a few lines."""
        ranks, total = self.ranks, sum(self.layers.values())
        shown = ", ".join(f"{name} {rank} of {self.layers[name]}" for name, rank in list(ranks.items())[:8])
        more = f" and {len(ranks) - 8} more layers" if len(ranks) > 8 else ""
        measured = "" if self.measured is None else f", measured {self.measured:.3g} from {self.before:.3g}"
        fewer = (
            f" (a budget of {self.budget} is more than the layers may keep)"
            if sum(ranks.values()) < self.budget
            else ""
        )
        return (
            f"{self.rule} keeps {sum(ranks.values())} of {total} terms{fewer}: {shown}{more}\n"
            f"change of the loss: predicted {self.predicted:.3g}{measured}\n"
            f"{self.certificate}"
        )


def evaluate(loss: Loss, gates: Tensor) -> float:
    """Return the loss at some gates as a number."""
    value = loss(gates)
    return float(value.detach() if isinstance(value, Tensor) else value)
