"""Norms of the gradient in the course of training, for the page: `gradients.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from lissome._errors import UsageError
from lissome.optim.journal import Journal
from lissome.optim.sharding import whole
from lissome.report.language_files import GRADIENTS

EVERY = 20  # steps


class Gradients:
    """A callback of `fit` that writes the gradient's norm in each layer, the embedding and the stages' parameters.

    It reads `p.grad` after a step, which is what the optimizer was given: a gradient that was clipped counts as it was
    after clipping. Every `every` steps the norms come from the device in one piece; in between nothing is done. A run
    that goes on from a checkpoint drops the rows behind it. Of several processes the first one writes.

    A row is {"step", "embedding", "layers": L numbers, "stages": L numbers, "rest"}: `layers` are the blocks without
    what is in their attention recipe, which `stages` have; null where there is no gradient.

    Args:
        out: the run's directory, of gradients.jsonl.
        every: steps from row to row.

    Raises:
        UsageError: every is below 1.
        RunError: the file cannot be written.
    """

    def __init__(self, out: str | Path, every: int = EVERY):
        if every < 1:
            raise UsageError(f"every is {every}; legal are whole numbers of at least 1")
        self.every, self.journal = every, Journal(Path(out) / GRADIENTS)

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Keep the rows up to a step, and note who is who: FSDP has made new parameters by now."""
        alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
        self.journal.writes = alone or torch.distributed.get_rank() == 0
        self.journal.start(upto=step)
        self.parts = _parts(model)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Write a row if it is time."""
        if step % self.every:
            return
        there = {key: [p.grad for p in part if p.grad is not None] for key, part in self.parts.items()}
        norms = {key: whole(get_total_norm(part).float(), keep=True) for key, part in there.items() if part}
        told = dict.fromkeys(there, math.nan)
        if norms:
            told |= zip(norms, torch.stack(list(norms.values())).tolist(), strict=True)
        layers = 1 + max((layer for _, layer in told if layer is not None), default=-1)
        row: dict[str, Any] = {"step": step, "embedding": told["embedding", None]}
        row |= {name: [told[name, layer] for layer in range(layers)] for name in ("layers", "stages")}
        self.journal.append(row | {"rest": told["rest", None]})


def _parts(model: nn.Module) -> dict[tuple[str, int | None], list[nn.Parameter]]:
    """Return the parameters of a decoder by what they are of, and in which layer."""
    blocks = 1 + max((int(name.split(".")[1]) for name, _ in model.named_parameters() if _in_block(name)), default=-1)
    found: dict[tuple[str, int | None], list[nn.Parameter]] = {("embedding", None): [], ("rest", None): []}
    found |= {(name, layer): [] for name in ("layers", "stages") for layer in range(blocks)}
    for name, p in model.named_parameters():
        if _in_block(name):
            found["stages" if ".recipe." in name else "layers", int(name.split(".")[1])].append(p)
        else:
            found["embedding" if name.startswith("embedding.") else "rest", None].append(p)
    return found


def _in_block(name: str) -> bool:
    return name.startswith("blocks.")
