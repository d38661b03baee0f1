"""Gradients of each layer in the course of training, on rows held out, before any clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lissome._types import Batch
from lissome.models.decoder import Block, Decoder, Heads
from lissome.optim import Result
from lissome.recipes.known import ERROR
from lissome.recipes.language_contest import Judged

LOOKS = 20  # times that gradients are looked at
LOOKED = 32  # rows held out that they are taken on


@dataclass(frozen=True)
class Watched:
    """An objective judged by rows held out, on which the gradient of a decoder's layers is looked at too."""

    judged: Judged

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw rows to train on."""
        return self.judged.sample(generator, n)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the objective's loss."""
        return self.judged.loss(model, batch)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the loss on the rows held out, and `norms`."""
        rows = {key: value[:LOOKED] for key, value in self.judged.held.items()}
        return self.judged.evaluate(model) | norms(cast(Decoder, model), self.loss(model, rows))


def norms(model: Decoder, loss: Tensor) -> dict[str, float]:
    """Return the norm of a loss's gradient in each layer: in what makes queries and keys, and in all weights.

    The keys are `scores/L` and `layer/L`, L the layer's number.
    """
    weights = list[Tensor](model.parameters())
    found = dict(zip(weights, torch.autograd.grad(loss, weights), strict=True))
    told = dict[str, float]()
    for layer, (block, own) in enumerate(zip(model.blocks, heads(model), strict=True)):
        told[f"scores/{layer}"] = float(found[own.qkv.weight][: turned_rows(own)].norm())
        told[f"layer/{layer}"] = float(torch.stack([found[p].norm() for p in block.parameters()]).norm())
    return told


def heads(model: Decoder) -> list[Heads]:
    """Return what holds the projections of each layer's attention."""
    return [cast(Block, block).heads for block in model.blocks]


def turned_rows(own: Heads) -> int:
    """Return how many rows of the projection `qkv` make queries and keys; they come first.

    >>> from lissome.models import DecoderShape
    >>> turned_rows(heads(Decoder(DecoderShape(vocabulary=8, layers=1, width=16, heads=4, key_heads=2)))[0])
    24
    """
    return (own.heads + own.groups) * own.dimension


def curves(result: Result) -> dict[str, list[float]]:
    """Return steps, the loss on rows held out, and the gradients' norms on the way."""
    keys = [key for key in result.history[0] if key in ("step", ERROR) or key.startswith(("scores/", "layer/"))]
    return {key: [float(f"{row[key]:.4g}") for row in result.history] for key in keys}
