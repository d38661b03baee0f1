"""A network with all that it needs to tell the targets of new rows: columns, scale, names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lissome.recipes.network import network_of
from lissome.recipes.settings import NetworkSettings
from lissome.recipes.table.objective import forward
from lissome.recipes.table.roles import Roles
from lissome.recipes.table.scale import Scale, scale_from
from lissome.recipes.training import DTYPES


@dataclass(frozen=True)
class TableModel:
    """A network, the roles of the columns and the scale that it was trained with.

    Attributes:
        network: from inputs on the grid to standardised targets, or to one score for each class.
        roles: of the columns.
        scale: of inputs and targets.
    """

    network: nn.Module
    roles: Roles
    scale: Scale

    def __call__(self, X: np.ndarray) -> Tensor:
        """Return targets (N, k) in their own units, or the probabilities (N, C) of the classes; float64, on the CPU."""
        first = next(self.network.parameters())
        found = forward(self.network, self.scale.inside(X, first.dtype).to(first.device))
        return found.softmax(1) if self.roles.task == "classification" else self.scale.up(found)


def new_model(known: Roles, scale: Scale, settings: NetworkSettings, dtype: str, seed: int) -> TableModel:
    """Return a model with a new network, on the CPU."""
    generator, outputs = torch.Generator().manual_seed(seed), len(known.classes or known.targets)
    network = network_of(len(known.inputs), settings, generator, outputs=outputs)
    return TableModel(network.to(DTYPES[dtype]), known, scale)


def kept(model: TableModel, settings: NetworkSettings, dtype: str) -> dict[str, Any]:
    """Return all of a model but its weights as JSON values."""
    known = model.roles
    return {
        "inputs": list(known.inputs),
        "targets": list(known.targets),
        "task": known.task,
        "why": known.why,
        "classes": list(known.classes),
        "scale": model.scale.plain(),
        "network": settings.model_dump(mode="json"),
        "dtype": dtype,
    }


def rebuilt(found: Mapping[str, Any]) -> TableModel:
    """Return the model of which `kept` tells, with a new network; its weights are to be loaded."""
    names = {name: tuple(found[name]) for name in ("inputs", "targets", "classes")}
    known = Roles(task=found["task"], why=found["why"], **names)
    network = NetworkSettings.model_validate(found["network"])
    return new_model(known, scale_from(found["scale"]), network, found["dtype"], seed=0)
