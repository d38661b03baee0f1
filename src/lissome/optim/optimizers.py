"""Optimizers by name: a table, and the step from a method to torch optimizers.

References: Adam, Kingma and Ba, arXiv:1412.6980; L-BFGS with strong Wolfe line search, Nocedal and Wright,
Numerical Optimization (2006), algorithms 7.5, 3.5 and 3.6, as torch has them; the others' are in their own files.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from lissome._errors import UsageError, unknown
from lissome.optim.arc import ARC
from lissome.optim.least_squares import GaussNewton
from lissome.optim.method import FROZEN, Group, Method
from lissome.optim.quasi_newton import QuasiNewton

GIVEN = ("params", "lr", "linearize", "hessian")  # by the loop, not as options
REPORTED = ("gradient_norm", "damping", "rho", "sigma", "beta", "products")  # of those that report
Reads = Literal["gradient", "search", "graph", "residual"]


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        make: a torch optimizer.
        lr: our learning rate; None where there is none.
        reads: what it is given: the `gradient` in the parameters before its step, or a closure, which puts it there and
            returns the loss (`search`), or returns the loss with its `graph`, or the `residual` vector.
        fused: whether torch has one kernel for all parameters.
        keeps: whether what it has learnt stays true on other points.
        options: our defaults, where they are not torch's.
    """

    make: Callable[..., torch.optim.Optimizer]
    lr: float | None
    reads: Reads = "gradient"
    fused: bool = False
    keeps: bool = True
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
        reads="search",
        keeps=False,
        options={
            "max_iter": 20,
            "history_size": 50,
            "tolerance_grad": 0.0,
            "tolerance_change": 0.0,
            "line_search_fn": "strong_wolfe",
        },
    ),
    "bfgs": Kind(QuasiNewton, None, reads="search", options={"rule": "bfgs"}),
    "ssbfgs": Kind(QuasiNewton, None, reads="search", options={"rule": "ssbfgs"}),
    "ssbroyden": Kind(QuasiNewton, None, reads="search", options={"rule": "ssbroyden"}),
    "gauss-newton": Kind(GaussNewton, None, reads="residual"),
    "arc": Kind(ARC, None, reads="graph", options={"preset": "arc"}),
    "arcm": Kind(ARC, None, reads="graph", options={"preset": "default"}),
}


@dataclass(frozen=True)
class Mover:
    """A torch optimizer, its row of the table, its learning rate before the schedule, and the parameters it moves."""

    optimizer: torch.optim.Optimizer
    kind: Kind
    name: str
    pattern: str
    lr: float | None
    parameters: tuple[nn.Parameter, ...]

    def scale(self, factor: float) -> None:
        """Set the learning rate, if there is one, to its start times the factor."""
        if self.lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * factor

    def figures(self) -> dict[str, float]:
        """Return the learning rate and what the optimizer reports of its last step."""
        rate = {} if self.lr is None else {"lr": float(self.optimizer.param_groups[0]["lr"])}
        report = getattr(self.optimizer, "report", None)
        told = {key: getattr(report, key, None) for key in REPORTED}
        return rate | {key: float(value) for key, value in told.items() if value is not None}


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
    legal = [name for name in inspect.signature(kind.make).parameters if name not in GIVEN]
    for name in group.options:
        if name not in legal:
            raise unknown(f"option of {group.optimizer}", name, legal)
    if kind.lr is None and group.lr is not None:
        raise UsageError(
            f"{group.optimizer} has no learning rate, and {group.lr} was given: leave it out, or take adam"
        )
    lr = kind.lr if group.lr is None else group.lr
    options = {**kind.options, **group.options} | ({} if lr is None else {"lr": lr})
    if kind.fused and fused and not {"foreach", "fused"} & set(options):
        # one kernel for all parameters: a third of the time of the plain loop on small networks
        options["fused"] = all(
            p.dtype in (torch.float32, torch.float64) and p.device.type in ("cpu", "cuda") for p in parameters
        )
    try:
        optimizer = kind.make(list(parameters), **options)
    except UsageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{group.optimizer} refuses the options {options}: {error}") from error
    return Mover(optimizer, kind, group.optimizer, group.pattern, lr, parameters)
