"""What a method of second order asks of a function, and what it has cost so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.optim.cubic import Product
from lissome.optim.curvature import Curvature
from lissome.optim.flat import Flat


@dataclass(frozen=True)
class Counts:
    """Evaluations of f alone, of f with its gradient, Hessians formed, and products with one not formed."""

    evaluations: int = 0
    gradients: int = 0
    hessians: int = 0
    products: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.evaluations - other.evaluations,
            self.gradients - other.gradients,
            self.hessians - other.hessians,
            self.products - other.products,
        )


class Oracle:
    """A function of a vector x (p,), its gradient and its Hessian; every question is counted.

    Args:
        value: x -> f, a scalar tensor or a number; it may be infinite or NaN.
        gradient: x -> f and its gradient (p,).
        hessian: x -> the symmetric (p, p), as a tensor or as something with `shape` and `@`; one that also has
            `dense()` can be solved exactly.
        line: (x, y) -> (beta -> v = y + beta (y - x) and f(v)), where that is cheaper than `value`.

    >>> oracle = Oracle(lambda x: x @ x, lambda x: (x @ x, 2 * x), lambda x: 2 * torch.eye(len(x)))
    >>> oracle.value(torch.ones(3)), oracle.counts
    (3.0, Counts(evaluations=1, gradients=0, hessians=0, products=0))
    """

    def __init__(
        self,
        value: Callable[[Tensor], Tensor | float],
        gradient: Callable[[Tensor], tuple[Tensor | float, Tensor]],
        hessian: Callable[[Tensor], Any],
        line: Callable[[Tensor, Tensor], Callable[[float], tuple[Tensor, Tensor | float]]] | None = None,
    ):
        self._value, self._gradient, self._hessian, self._line = value, gradient, hessian, line
        self._spent: dict[str, int] = asdict(Counts())

    @property
    def counts(self) -> Counts:
        """What has been asked so far."""
        return Counts(**self._spent)

    def value(self, x: Tensor) -> float:
        """Return f(x)."""
        self._spent["evaluations"] += 1
        return float(self._value(x))

    def line(self, x: Tensor, y: Tensor) -> Callable[[float], tuple[Tensor, float]]:
        """Return a function that goes from y on by beta (y - x): beta -> the point (p,) and f there."""
        known = None if self._line is None else self._line(x, y)

        def go(beta: float) -> tuple[Tensor, float]:
            if known is None:
                v = y + beta * (y - x)
                return v, self.value(v)
            self._spent["evaluations"] += 1
            v, f = known(beta)
            return v, float(f)

        return go

    def gradient(self, x: Tensor) -> tuple[float, Tensor]:
        """Return f(x) and its gradient (p,)."""
        self._spent["gradients"] += 1
        f, g = self._gradient(x)
        return float(f), g

    def hessian(self, x: Tensor) -> Tensor | Counted:
        """Return the Hessian (p, p) at x: a tensor, or an operator whose products are counted."""
        B = self._hessian(x)
        if isinstance(B, Tensor):
            self._spent["hessians"] += 1
            return B
        return Counted(B, self._spent)


@runtime_checkable
class Formed(Protocol):
    """An operator that can give its matrix."""

    def dense(self) -> Tensor:
        """Return the matrix itself."""
        ...


class Counted:
    """An operator whose products, and whose dense form, are counted."""

    def __init__(self, operator: Any, spent: dict[str, int]):
        self.operator, self.spent = operator, spent

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return tuple(self.operator.shape)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (p,) or to the columns of (p, k)."""
        self.spent["products"] += 1 if other.ndim == 1 else other.shape[1]
        return self.operator @ other

    def dense(self) -> Tensor:
        """Return the matrix itself.

        Raises:
            UsageError: the operator knows products only.
        """
        if not isinstance(self.operator, Formed):
            raise UsageError(
                f"a Hessian of type {type(self.operator).__name__} has no dense(), which subproblem 'exact' "
                "needs; take 'krylov' or 'auto'"
            )
        self.spent["hessians"] += 1
        return self.operator.dense()


class Recorded:
    """A closure as value, gradient and Hessian of the vector of its parameters, by automatic differentiation.

    A point that was asked for last is not computed again: its graph is kept.

    Args:
        closure: returns the loss, a scalar with its graph; it must not call `backward`.
        flat: the parameters that the closure reads; they are left at the point asked for last.
        hessian: () -> the Hessian at the parameters as they are, in place of automatic differentiation.
        dense: whether the Hessian is formed; None measures, at the first one, which way is cheaper.
    """

    def __init__(
        self,
        closure: Callable[[], Tensor],
        flat: Flat,
        hessian: Callable[[], Tensor | Product] | None = None,
        dense: bool | None = None,
    ):
        self.closure, self.flat, self.own, self.dense = closure, flat, hessian, dense
        self.x: Tensor | None = None
        self.loss: Tensor | None = None
        self.gradients: tuple[Tensor | None, ...] | None = None

    def oracle(self) -> Oracle:
        """Return it as an oracle."""
        return Oracle(lambda x: self._look(x).detach(), self._differentiate, self._curve)

    def _look(self, x: Tensor) -> Tensor:
        if self.loss is None or self.x is None or not torch.equal(x, self.x):
            self.x = self.loss = self.gradients = None  # the graph before is freed first
            self.flat.put(x)
            with torch.enable_grad():
                self.loss = _scalar(self.closure())
            self.x = x.clone()
        return self.loss

    def _differentiate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loss = self._look(x)
        if self.gradients is None:
            if not loss.requires_grad:
                raise UsageError(
                    "the closure returns a loss without a graph; compute it from the parameters, without no_grad or "
                    "detach"
                )
            try:
                self.gradients = torch.autograd.grad(
                    loss, self.flat.parameters, create_graph=self.own is None, retain_graph=True, allow_unused=True
                )
            except RuntimeError as error:
                if "second time" not in str(error):
                    raise
                raise UsageError(
                    "the closure has freed its graph; return the loss without calling backward() on it"
                ) from error
        return loss.detach(), self.flat.join(self.gradients).detach()

    def _curve(self, x: Tensor) -> Tensor | Product:
        if self.own is not None:
            self._look(x)
            return self.own()
        self._differentiate(x)
        assert self.gradients is not None
        curvature = Curvature(self.flat, self.gradients)
        if self.dense is None:
            self.dense = curvature.is_cheap()
        return curvature.dense() if self.dense else curvature


def differentiable(f: Callable[[Tensor], Tensor], like: Tensor, *, dense: bool | None = None) -> Oracle:
    """Return the oracle of a function f of x, a vector (p,), to a scalar, by automatic differentiation.

    Args:
        f: made of operations that torch differentiates twice.
        like: a vector of the size, dtype and device of x.
        dense: whether Hessians are formed; None measures which way is cheaper.

    >>> oracle = differentiable(lambda x: (x**3).sum(), torch.zeros(2))
    >>> oracle.hessian(torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    x = like.detach().clone().requires_grad_()
    return Recorded(lambda: f(x), Flat([x]), dense=dense).oracle()


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise UsageError(f"the closure returns a {type(loss).__name__}; legal is the loss, a scalar tensor with graph")
    if loss.numel() != 1:
        raise UsageError(f"the closure returns a tensor of shape {tuple(loss.shape)}; legal is a scalar: take a mean")
    return loss.reshape(())
