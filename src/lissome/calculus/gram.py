r"""The two products of a Jacobian with its transpose: J^T J of Gauss-Newton, and J J^T, the tangent kernel.

For L(x) = 1/2 r^T W r with r: R^p -> R^M, the Gauss-Newton matrix J^T W J is the Hessian without the curvature of r,
and under gradient flow r moves by dr/dt = -K r with K = J J^T (A. Jacot et al., arXiv 1806.07572). A mean square
|r|^2 / M has scale = 2 / M.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus.operators import DENSE_NUMBERS, Operator, Product
from lissome.calculus.ways import Function, Point, Way, Ways, ways


def gauss_newton(
    r: Function,
    x: Point,
    *,
    weight: Tensor | None = None,
    scale: float = 1.0,
    mode: str = "auto",
    chunk: int | None = None,
) -> Operator:
    """Return scale J^T W J (p, p) of a vector function as a symmetric operator.

    Args:
        r: from a point to a vector (M,).
        x: (p,), or name -> tensor.
        weight: the diagonal of W (M,), or W (M, M) itself, which has to be symmetric; None is the identity.
        scale: 2 / M for a mean square.
        mode: as in `expand`.
        chunk: as in `expand`.

    Raises:
        UsageError, RunError: as in `expand`; a weight of another shape, dtype or device.

    >>> G = gauss_newton(lambda x: x**2, Tensor([1, 2]), weight=Tensor([3, 1]))
    >>> G.dense()
    tensor([[12.,  0.],
            [ 0., 16.]])
    """
    found = ways(r, x, mode, (None,))
    weigh, p = _weigh(weight, found.recorded.value.detach()), found.size[1]

    def one(way: Way) -> Product:
        return lambda v: scale * way.pull(weigh(way.push(v)))

    def whole() -> Tensor:
        J = found.jacobian(chunk).dense()  # (M, p)
        return scale * (J.mT @ weigh(J))

    forth = found.columns(one, (p, p), chunk)
    return Operator(forth, None, found.like, whole=whole if _fits(found) else None)


def gram(r: Function, x: Point, *, scale: float = 1.0, mode: str = "auto", chunk: int | None = None) -> Operator:
    """Return scale J J^T (M, M) of a vector function as a symmetric operator: its tangent kernel.

    See `gauss_newton` for the arguments.

    >>> gram(lambda x: x.cumsum(0), Tensor([1, 2])).dense()
    tensor([[1., 1.],
            [1., 2.]])
    """
    found = ways(r, x, mode, (None,))
    M = found.size[0]

    def one(way: Way) -> Product:
        return lambda u: scale * way.push(way.pull(u))

    def whole() -> Tensor:
        J = found.jacobian(chunk).dense()  # (M, p)
        return scale * (J @ J.mT)

    forth = found.columns(one, (M, M), chunk)
    return Operator(forth, None, found.like, whole=whole if _fits(found) else None)


def _weigh(weight: Tensor | None, value: Tensor) -> Callable[[Tensor], Tensor]:
    """Return u -> W u for a vector (M,) or columns (M, k)."""
    if weight is None:
        return lambda u: u
    M = len(value)
    if weight.shape not in ((M,), (M, M)):
        raise UsageError(f"weight has shape {tuple(weight.shape)}; legal is ({M},), or ({M}, {M})")
    if weight.dtype != value.dtype or weight.device != value.device:
        raise UsageError(
            f"weight is {weight.dtype} on {weight.device} and the function {value.dtype} on {value.device}; "
            "legal is the same"
        )
    fixed = weight.detach().clone()
    return (lambda u: (u.mT * fixed).mT if u.ndim == 2 else u * fixed) if fixed.ndim == 1 else lambda u: fixed @ u


def _fits(found: Ways) -> bool:
    """Whether J itself may be made: half of the passes that products with both sides take."""
    return found.size[0] * found.size[1] <= DENSE_NUMBERS
