r"""First and second derivatives of a function: operators, and single products.

With f: R^p -> R and r: R^p -> R^M at a point x, g = grad f (p,), H = its Hessian (p, p), J = dr/dx (M, p). How the
products are made stands in `ways`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import RunError
from lissome.calculus.operators import Operator
from lissome.calculus.ways import Function, Point, Recorded, ways


@dataclass(frozen=True)
class Expansion:
    """What a function is near a point, to second order: value (), gradient (p,) and Hessian (p, p)."""

    value: Tensor
    gradient: Tensor
    hessian: Operator


def expand(f: Function, x: Point, *, mode: str = "auto", chunk: int | None = None) -> Expansion:
    """Return value, gradient and Hessian of a scalar function from one evaluation.

    Args:
        f: from a point to a scalar (); what is random in it has to be the same at each call.
        x: (p,), or name -> tensor with p numbers in all: vectors then hold them in that order.
        mode: `auto`, `double-backward` or `forward-over-reverse`.
        chunk: columns of a product done at once; None chooses by a trial.

    Raises:
        UsageError: an unknown mode; x complex, empty, or of several dtypes; f no scalar, complex, or no function of x.
        RunError: f or its gradient is not finite.

    >>> found = expand(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    >>> found.value, found.gradient, found.hessian.dense()
    (tensor(9.), tensor([ 3., 12.]), tensor([[ 6.,  0.],
            [ 0., 12.]]))
    """
    found = ways(f, x, mode, ())
    recorded = found.recorded
    keeps = found.first is recorded  # else the gradient needs no graph
    slope = recorded.gradient.detach() if keeps else recorded.pull(torch.ones_like(recorded.value))
    if not bool(slope.isfinite().all()):
        raise RunError("the gradient of the function is not finite at x, though its value is; start from another point")
    p = len(slope)
    forth = found.columns(lambda way: way.bend, (p, p), chunk)
    return Expansion(recorded.value.detach(), slope, Operator(forth, None, slope))


def hessian(f: Function, x: Point, *, mode: str = "auto", chunk: int | None = None) -> Operator:
    """Return the Hessian of a scalar function at x as a symmetric operator (p, p); see `expand` for all else.

    >>> H = hessian(lambda x: x[0] ** 2 * x[1], torch.tensor([1.0, 2.0]))
    >>> H @ torch.tensor([1.0, 0.0]), H.products
    (tensor([4., 2.]), 1)
    """
    return expand(f, x, mode=mode, chunk=chunk).hessian


def linearize(r: Function, x: Point, *, mode: str = "auto", chunk: int | None = None) -> tuple[Tensor, Operator]:
    """Return r(x) (M,) and the Jacobian (M, p) of a vector function, from one evaluation.

    Args:
        r: from a point to a vector (M,); what is random in it has to be the same at each call.
        x: (p,), or name -> tensor.
        mode: as in `expand`.
        chunk: as in `expand`.

    Raises:
        UsageError, RunError: as in `expand`.
    """
    found = ways(r, x, mode, (None,))
    return found.recorded.value.detach(), found.jacobian(chunk)


def jacobian(r: Function, x: Point, *, mode: str = "auto", chunk: int | None = None) -> Operator:
    """Return the Jacobian of a vector function at x as an operator (M, p), and (p, M) as `.T`; see `linearize`.

    >>> J = jacobian(lambda x: torch.stack([x[0] * x[1], x[0]]), torch.tensor([2.0, 3.0]))
    >>> J @ torch.tensor([1.0, 0.0]), J.T @ torch.tensor([0.0, 1.0])
    (tensor([3., 1.]), tensor([1., 0.]))
    """
    return linearize(r, x, mode=mode, chunk=chunk)[1]


def gradient(f: Function, x: Point) -> tuple[Tensor, Tensor]:
    """Return the value () and the gradient (p,) of a scalar function, without graph.

    >>> gradient(lambda x: (x["w"] ** 2).sum(), {"w": torch.tensor([1.0, 2.0])})
    (tensor(5.), tensor([2., 4.]))
    """
    recorded = Recorded(f, x, ())
    return recorded.value.detach(), recorded.pull(torch.ones_like(recorded.value))


def hvp(f: Function, x: Point, v: Tensor, *, mode: str = "auto") -> tuple[Tensor, Tensor]:
    """Return the value () of a scalar function, and its Hessian times v (p,)."""
    found = expand(f, x, mode=mode)
    return found.value, found.hessian @ v


def jvp(r: Function, x: Point, v: Tensor, *, mode: str = "auto") -> tuple[Tensor, Tensor]:
    """Return the value (M,) of a vector function, and its Jacobian times v (p,)."""
    value, J = linearize(r, x, mode=mode)
    return value, J @ v


def vjp(r: Function, x: Point, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value (M,) of a vector function, and its transposed Jacobian times u (M,)."""
    value, J = linearize(r, x)
    return value, J.T @ u
