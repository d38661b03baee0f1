"""From settings to a new network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lissome.models import KAN, MLP
from lissome.recipes.settings import NetworkSettings


def network_of(
    inputs: int,
    settings: NetworkSettings,
    generator: torch.Generator,
    *,
    outputs: int = 1,
    offset: Sequence[float] | None = None,
    extent: Sequence[float] | None = None,
) -> nn.Module:
    """Return a new network, drawn from the generator.

    Args:
        inputs: numbers of a point.
        settings: kind and sizes.
        generator: draws the start.
        outputs: numbers of a value.
        offset: subtracted from the points.
        extent: how far they then reach on either side of 0, which a KAN brings onto its grid.
    """
    same: dict[str, Any] = {"width": settings.width, "depth": settings.depth, "outputs": outputs}
    same |= {"offset": offset, "generator": generator}
    if settings.kind == "mlp":
        return MLP(inputs, activation=settings.activation, **same)
    ranks = settings.ranks if settings.kind == "slim-kan" else None
    same |= {"name": settings.basis, "intervals": settings.intervals, "order": settings.order}
    return KAN(inputs, ranks=ranks, extent=extent, **same)
