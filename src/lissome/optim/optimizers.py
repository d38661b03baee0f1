"""Optimizers by name: a table, and the step from a method to torch optimizers.

References: Adam, Kingma and Ba, arXiv:1412.6980; L-BFGS with strong Wolfe line search, Nocedal and Wright,
Numerical Optimization (2006), algorithms 7.5, 3.5 and 3.6, as torch has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lissome._errors import UsageError, unknown
from lissome.optim.method import FROZEN, Group, Method


@dataclass(frozen=True)
class Kind:
    """One row of the table: a torch optimizer, our defaults, and whether it evaluates the loss itself."""

    make: Callable[..., torch.optim.Optimizer]
    lr: float
    closure: bool = False
    fused: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, Kind] = {
    "adam": Kind(torch.optim.Adam, 1e-3, fused=True),
    "adamw": Kind(torch.optim.AdamW, 1e-3, fused=True),
    "nadam": Kind(torch.optim.NAdam, 2e-3),
    "radam": Kind(torch.optim.RAdam, 1e-3),
    "rmsprop": Kind(torch.optim.RMSprop, 1e-3),
    "adagrad": Kind(torch.optim.Adagrad, 1e-2, fused=True),
    "sgd": Kind(torch.optim.SGD, 1e-2, fused=True),
    # 20 iterations per step; tolerances far below torch's, which stop PDE losses early in float64
    "lbfgs": Kind(
        torch.optim.LBFGS,
        1.0,
        closure=True,
        options={
            "max_iter": 20,
            "history_size": 50,
            "tolerance_grad": 0.0,
            "tolerance_change": 0.0,
            "line_search_fn": "strong_wolfe",
        },
    ),
}


@dataclass(frozen=True)
class Mover:
    """A torch optimizer, its learning rate before the schedule, and the parameters it moves."""

    optimizer: torch.optim.Optimizer
    pattern: str
    lr: float
    closure: bool
    parameters: tuple[nn.Parameter, ...]

    def scale(self, factor: float) -> None:
        """Set the learning rate to its start times the factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor


def assign(method: Method, names: Mapping[str, Any]) -> list[list[str]]:
    """Return for each group the names that it has; the first match wins.

    Raises:
        UsageError: a group without a name, or a name without a group.

    >>> assign(Method((Group("*.bias", "sgd"), Group("*"))), {"0.weight": 1, "0.bias": 2})
    [['0.bias'], ['0.weight']]
    """
    taken: list[list[str]] = [[] for _ in method.groups]
    for name in names:
        for group, held in zip(method.groups, taken, strict=True):
            if fnmatchcase(name, group.pattern):
                held.append(name)
                break
        else:
            raise UsageError(
                f"the trained parameter '{name}' matches none of the patterns "
                f"{[group.pattern for group in method.groups]}; add Group('{name}', 'none') to leave it where it is"
            )
    for group, held in zip(method.groups, taken, strict=True):
        if not held:
            raise UsageError(
                f"the pattern '{group.pattern}' has no trained parameter left to match; there are: {', '.join(names)}"
            )
    return taken


def build(method: Method, parameters: Mapping[str, nn.Parameter], *, fused: bool = True) -> list[Mover]:
    """Return one torch optimizer per group of the method.

    Raises:
        UsageError: an unknown optimizer, an option it does not have, a group without parameters,
            or nothing that moves.
    """
    movers = []
    for group, names in zip(method.groups, assign(method, parameters), strict=True):
        if group.optimizer == FROZEN:
            continue
        if group.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", group.optimizer, [*OPTIMIZERS, FROZEN])
        movers.append(_mover(group, OPTIMIZERS[group.optimizer], tuple(parameters[name] for name in names), fused))
    if not movers:
        raise UsageError("every group of the method has the optimizer 'none'; one at least must move something")
    return movers


def _mover(group: Group, kind: Kind, parameters: tuple[nn.Parameter, ...], fused: bool) -> Mover:
    legal = [name for name in inspect.signature(kind.make).parameters if name not in ("params", "lr")]
    for name in group.options:
        if name not in legal:
            raise unknown(f"option of {group.optimizer}", name, legal)
    lr = kind.lr if group.lr is None else group.lr
    options = {**kind.options, **group.options}
    if kind.fused and fused and not {"foreach", "fused"} & set(options):
        # one kernel for all parameters: a third of the time of the plain loop on small networks
        options["fused"] = all(
            p.dtype in (torch.float32, torch.float64) and p.device.type in ("cpu", "cuda") for p in parameters
        )
    try:
        optimizer = kind.make(list(parameters), lr=lr, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{group.optimizer} refuses the options {dict(group.options)} and lr {lr}: {error}") from error
    return Mover(optimizer, group.pattern, lr, kind.closure, parameters)
