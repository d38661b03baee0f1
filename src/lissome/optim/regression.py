r"""Oracles of generalised linear models, with the Hessian in closed form.

    f(x) = 1/N sum_i loss(a_i^T x, b_i) + sum_j penalty(x_j),   Hess f = 1/N A^T diag(loss'') A + diag(penalty'')

For a sparse A of 32,560 rows, 14 entries in each and 123 columns the Hessian costs some 4 ms, where automatic
differentiation in chunks needs fifty times that.

Reference: P. McCullagh, J. Nelder, Generalized Linear Models (1989), section 2.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lissome._errors import UsageError, unknown
from lissome.optim.design import design
from lissome.optim.oracle import Oracle

FAR = 40.0  # beyond it log(1 + e^z) is z, to rounding
KEPT = 16  # points whose margins are kept: those of two searches


class Curve(NamedTuple):
    """A function and its first two derivatives, each entry by itself."""

    value: Callable[..., Tensor]
    first: Callable[..., Tensor]
    second: Callable[..., Tensor]


@dataclass
class _Known:
    """The margins z = A x (N,) of a point, and f there once it is asked for."""

    z: Tensor
    f: Tensor | None = None


def _key(x: Tensor) -> bytes:
    return x.detach().cpu().numpy().tobytes()


def _bell(z: Tensor, b: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    return p * (1 - p)


def _bowl(z: Tensor, b: Tensor) -> Tensor:
    half = (z - b).square() / 2
    return (1 - half) / (1 + half).square()


def _saturated(x: Tensor) -> Tensor:
    u = 1 + x.square()
    return (8 - 6 * u) / u**3


# of z and b: log(1 + e^z) - b z for b in {0, 1}; log((b - z)^2 / 2 + 1); (b - z)^2 / 2
LOSSES: dict[str, Curve] = {
    "logistic": Curve(lambda z, b: softplus(z, threshold=FAR) - b * z, lambda z, b: torch.sigmoid(z) - b, _bell),
    "robust": Curve(
        lambda z, b: ((z - b).square() / 2).log1p(), lambda z, b: (z - b) / (1 + (z - b).square() / 2), _bowl
    ),
    "squares": Curve(lambda z, b: (z - b).square() / 2, lambda z, b: z - b, lambda z, b: torch.ones_like(z)),
}
# of x: x^2 / 2; x^2 / (1 + x^2), which is not convex
PENALTIES: dict[str, Curve] = {
    "ridge": Curve(lambda x: x.square() / 2, lambda x: x, torch.ones_like),
    "saturating": Curve(lambda x: 1 - 1 / (1 + x.square()), lambda x: 2 * x / (1 + x.square()).square(), _saturated),
}


def regression(A: Any, b: Tensor, loss: str = "logistic", *, penalty: str = "ridge", weight: float = 0.0) -> Oracle:
    """Return the oracle of a generalised linear model.

    Args:
        A: rows a_i, (N, p): a dense tensor, a sparse one on the CPU, or a matrix of scipy.sparse.
        b: labels or right-hand sides (N,), of A's dtype; 0 and 1 for logistic.
        loss: a name in `LOSSES`.
        penalty: a name in `PENALTIES`.
        weight: what the penalty is multiplied by.

    Raises:
        UsageError: an unknown name, or shapes or dtypes that do not fit.

    >>> A, b = torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([1.0, 3.0])
    >>> regression(A, b, "squares").gradient(torch.zeros(2))
    (2.5, tensor([-2., -3.]))
    """
    for kind, name, legal in (("loss", loss, LOSSES), ("penalty", penalty, PENALTIES)):
        if name not in legal:
            raise unknown(kind, name, legal)
    rows_of = design(A)
    if not isinstance(b, Tensor):
        raise UsageError(f"b is a {type(b).__name__}; legal is a tensor (N,), of A's dtype")
    rows = rows_of.shape[0]
    if tuple(b.shape) != (rows,) or rows_of.dtype != b.dtype:
        raise UsageError(
            f"A is {rows_of.dtype} of shape {tuple(rows_of.shape)} and b {b.dtype} of shape {tuple(b.shape)}; legal is "
            "(N, p) beside (N,) of one floating dtype"
        )
    if not rows:
        raise UsageError("A has no rows, and the loss is a mean over them")
    if loss == "logistic" and not bool(((b >= 0) & (b <= 1)).all()):
        raise UsageError(
            f"b lies in [{float(b.min()):g}, {float(b.max()):g}]; legal for logistic is [0, 1]: (b + 1) / 2"
        )
    if not (math.isfinite(weight) and weight >= 0):
        raise UsageError(f"weight is {weight}; legal is a finite number of at least 0")
    curve, price = LOSSES[loss], PENALTIES[penalty]
    known: dict[bytes, _Known] = {}

    def keep(x: Tensor, z: Tensor) -> _Known:
        if len(known) == KEPT:
            del known[next(iter(known))]  # the oldest
        return known.setdefault(_key(x), _Known(z))

    def at(x: Tensor) -> _Known:
        x = x.detach()
        if tuple(x.shape) != (rows_of.shape[1],) or x.dtype != b.dtype:
            raise UsageError(f"x is {x.dtype} of shape {tuple(x.shape)}; legal is {b.dtype} of ({rows_of.shape[1]},)")
        return known.get(_key(x)) or keep(x, rows_of.times(x))

    def margins(x: Tensor) -> Tensor:
        return at(x).z

    def value(x: Tensor) -> Tensor:
        place = at(x)
        if place.f is None:
            place.f = curve.value(place.z, b).mean() + weight * price.value(x).sum()
        return place.f

    def line(x: Tensor, y: Tensor) -> Callable[[float], tuple[Tensor, Tensor]]:
        z, along = margins(y), margins(y) - margins(x)

        def go(beta: float) -> tuple[Tensor, Tensor]:
            v = y + beta * (y - x)
            keep(v, z + beta * along)  # no product with A
            return v, value(v)

        return go

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        slope = rows_of.back(curve.first(margins(x), b)) / rows
        return value(x), slope + weight * price.first(x)

    def hessian(x: Tensor) -> Tensor:
        B = rows_of.sandwich(curve.second(margins(x), b)) / rows  # (p, p)
        B.diagonal().add_(weight * price.second(x))
        return B

    return Oracle(value, gradient, hessian, line)
