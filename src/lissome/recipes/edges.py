"""Which functions of a KAN a run keeps for its page: those of the most important nodes, few enough to be looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lissome.models import KAN, EdgeFunctions, edge_functions
from lissome.pde import Problem
from lissome.pde.constraint import Constrained, Periodic

NODES = 8  # of a layer that are drawn
EDGES = 25  # between two layers that are drawn: five by five
LEAST = 0.01  # importance, of the greatest in its layer, below which an edge is left out
POINTS = 2000  # on which importance is measured


def learned(model: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """Return the functions to draw of the KAN in a model, as tensors for `curves.safetensors`.

    They are looked at while the model runs on z, when features are before the KAN and adapted weights in it.

    Args:
        model: a KAN, adapted or under a constraint or neither.
        z: (N, D), points of the model.

    Returns:
        For each layer l, with E functions of n points: edges/l/size (inputs, outputs), edges/l/inputs and
        edges/l/outputs, the nodes that are drawn, edges/l/from and edges/l/to (E,), edges/l/importance (E,), edges/l/x
        and edges/l/y (E, n), edges/l/ends (E, 2). Nothing for a model without a KAN.
    """
    seen = list[list[EdgeFunctions]]()
    handles = [
        module.register_forward_pre_hook(lambda kan, given: seen.append(edge_functions(kan, given[0])))  # type: ignore[arg-type]
        for module in model.modules()
        if isinstance(module, KAN)
    ]
    try:
        if handles:
            with torch.no_grad():
                model(z)
    finally:
        for handle in handles:
            handle.remove()
    return chosen(seen[0]) if seen else {}


def chosen(layers: list[EdgeFunctions]) -> dict[str, Tensor]:
    """Return what is drawn of each layer, as `learned` does."""
    nodes = [layer.importance.sum(0) for layer in layers] + [layers[-1].importance.sum(1)]
    kept = [_greatest(importance, NODES) for importance in nodes]
    out = dict[str, Tensor]()
    for number, layer in enumerate(layers):
        before, after = kept[number], kept[number + 1]
        p, q = (grid.flatten() for grid in torch.meshgrid(before, after, indexing="ij"))
        importance = layer.importance[q, p]
        own = _greatest(importance + _firsts(importance.view(len(before), len(after))), EDGES)
        own = own[importance[own] >= LEAST * importance.max()]
        p, q = p[own], q[own]
        size = torch.tensor([layer.importance.shape[1], layer.importance.shape[0]])
        told = {"size": size, "inputs": before, "outputs": after, "from": p, "to": q, "importance": importance[own]}
        told |= {"x": layer.x[p], "y": layer.values[q, p], "ends": layer.ends[p]}
        out |= {f"edges/{number}/{name}": value.cpu().clone() for name, value in told.items()}
    return out


def pictured(problem: Problem, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a run of an equation keeps of its KAN, and the names of its inputs and outputs for the summary."""
    network = next((module for module in model.modules() if isinstance(module, KAN)), None)
    if network is None:
        return {}, {}
    generator = torch.Generator().manual_seed(problem.seed)
    parameter = next(model.parameters())
    z = problem.domain.interior(POINTS, generator, problem.sampling).to(parameter)
    tensors = learned(model, z)
    for name in ("x", "ends"):  # in the units of what is read
        scaled = tensors[f"edges/0/{name}"]
        p = tensors["edges/0/from"]
        tensors[f"edges/0/{name}"] = (
            scaled * network.scale.extent.to(scaled)[p, None] + network.shift.offset.to(scaled)[p, None]
        )
    return tensors, {"inputs": _inputs(problem, model), "outputs": [_output(model)]}


def _inputs(problem: Problem, model: nn.Module) -> list[str]:
    """Name what the network reads: the coordinates, or what features make of them."""
    d = problem.family.dimension
    time = ["t"] * problem.timed
    names, features = [*time, *(f"x{i + 1}" if d > 1 else "x" for i in range(d))], None
    if isinstance(model, Constrained):
        features = model.features
    if isinstance(features, Periodic):
        names = [*time, "cosine", "sine"]
    elif features is not None:
        names = [f"feature {i + 1}" for i in range(problem.inputs)]
    return names


def _greatest(importance: Tensor, most: int) -> Tensor:
    """Return where the greatest few are, in their order of place."""
    return importance.argsort(descending=True, stable=True)[:most].sort().values


def _firsts(table: Tensor) -> Tensor:
    """Return 1 at the greatest of each row and column of (P, Q), else 0, flat: no node stands without an edge."""
    rows, columns = table == table.amax(1, keepdim=True), table == table.amax(0)
    return (rows | columns).flatten().to(table)


def _output(model: nn.Module) -> str:
    """Name what the last layer gives."""
    if not isinstance(model, Constrained):
        return "u"
    rest = "u" if model.lift is None else "u − lift"
    return rest if model.free else f"{rest} / factor" if model.lift is None else f"({rest}) / factor"
