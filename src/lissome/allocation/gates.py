"""A model's loss as a function of one gate on each term, and the state in which it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lissome._errors import UsageError
from lissome.adapt.basis import Rotation
from lissome.allocation.terms import Terms

Loss = Callable[[nn.Module, Any], Tensor]

# products of the Hessian done at once: fixed, since sizes differ in rounding, and the same seed gives the same ranks
CHUNK = 8


class Gates:
    """A model's loss as a function of one gate on each term of a basis.

    Args:
        terms: the model.
        loss: (model, batch) -> scalar.
        batches: over which the loss is averaged.
        rotations: layer -> basis.
    """

    def __init__(self, terms: Terms, loss: Loss, batches: Sequence[Any], rotations: Mapping[str, Rotation]):
        self.batches, self.model = batches, terms.model
        self.inner = terms.function(loss)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}  # X (r, r), X^-1 A (r, in), float64
        self.like: dict[str, Tensor] = {}
        sizes: list[Tensor] = []
        for layer, (B, A) in terms.halves().items():
            X = rotations[layer]
            left, right = B.double() @ X.forth, X.back @ A.double()
            self.parts[layer], self.like[layer] = (X.forth, right), A
            sizes.append(left.norm(dim=0) * right.norm(dim=1))
        self.magnitude = torch.cat(sizes)  # (n,)
        self.layers = {layer: len(right) for layer, (_, right) in self.parts.items()}

    def ones(self) -> dict[str, Tensor]:
        """Return the gates as trained: layer -> (r,), in the model's dtype."""
        return {layer: A.new_ones(len(A)) for layer, A in self.like.items()}

    def at(self, gates: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Return the loss of a batch."""
        right = {}
        for layer, (X, A) in self.parts.items():
            # in float64: at gates of 1 this is A to rounding, however skew X is
            right[layer] = (X @ (gates[layer].double()[:, None] * A)).to(self.like[layer])
        return self.inner(right, batch)

    def mean(self, gates: Tensor, batches: Sequence[Any] | None = None) -> float:
        """Return the mean loss at gates (n,), over its own batches or others."""
        named = dict(zip(self.layers, gates.split(list(self.layers.values())), strict=True))
        batches = self.batches if batches is None else batches
        with torch.no_grad():
            return math.fsum(float(self.at(named, batch)) for batch in batches) / len(batches)

    def check(self) -> None:
        """Raise UsageError for a batch whose loss is not finite."""
        ones = self.ones()
        for number, batch in enumerate(self.batches):
            with torch.no_grad():
                value = self.at(ones, batch)
            if isinstance(value, Tensor) and value.numel() == 1 and not bool(value.isfinite()):
                raise UsageError(
                    f"the loss of batch {number} is {float(value)}; legal is a finite number: look at the batch, its "
                    "labels and the model's dtype"
                )


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation, and its attention on a kernel that has second derivatives, for the time."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
