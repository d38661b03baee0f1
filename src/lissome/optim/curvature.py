"""The Hessian of a loss whose gradient still has its graph: products, rows in chunks, and which of the two is cheaper.

A product is a second walk back through the graph, B v = grad(g^T v). Rows of the dense Hessian are many such walks at
once, by vmap in chunks of 32: a chunk costs little more than a product, where one vmap over all p rows runs out of the
cache and a loop pays p times (123 numbers, 32,560 points: 207 ms in chunks, 1,669 ms at once, 3,094 ms in a loop).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus.operators import Columns
from lissome.optim.flat import Flat

ROWS = 32  # of a chunk
SMALL = 2 * ROWS  # numbers: fewer never need a Krylov space
LARGEST = 5000  # numbers whose Hessian is held, 200 MB in float64
WORTH = 20  # products that a dense Hessian may cost


class Curvature:
    """The Hessian at the point that the parameters hold.

    Args:
        flat: the parameters; they must not change as long as this is used.
        gradients: of the loss, in the parameters' shapes, with their graph; None counts as zeros.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradients = torch.autograd.grad((x[0] * x[1]).square(), [x], create_graph=True)
    >>> Curvature(Flat([x]), gradients) @ torch.tensor([1.0, 0.0])
    tensor([8., 8.])
    """

    def __init__(self, flat: Flat, gradients: Sequence[Tensor | None]):
        self.flat = flat
        self.gradient = flat.join(gradients)  # (p,)
        p = len(flat)
        # the size of a chunk changes rounding: one that is chosen by the clock would change what is resumed
        self.columns = Columns(self._product, (p, p), chunk=ROWS)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.columns.size

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (p,) or to the columns of (p, k)."""
        return self.columns(other.to(self.gradient))

    def dense(self) -> Tensor:
        """Return the matrix (p, p).

        Raises:
            UsageError: it has more than 5000 rows.
        """
        p = len(self.flat)
        if p > LARGEST:
            raise UsageError(
                f"a Hessian of {p} numbers is too large to hold (at most {LARGEST}); take subproblem='krylov'"
            )
        B = self @ torch.eye(p, dtype=self.gradient.dtype, device=self.gradient.device)  # (p, p)
        return (B + B.mT) / 2

    def is_cheap(self) -> bool:
        """Say, by the clock, whether `dense` costs less than about 20 products."""
        p = len(self.flat)
        if p <= SMALL or p > LARGEST:
            return p <= SMALL
        columns = torch.eye(p, min(ROWS, p), dtype=self.gradient.dtype, device=self.gradient.device)
        _ = self @ columns[:, 0]  # the first walk is slow
        one, chunk = _seconds(lambda: self @ columns[:, 0]), _seconds(lambda: self @ columns)
        return chunk * -(-p // ROWS) < WORTH * one

    def _product(self, v: Tensor) -> Tensor:
        if not self.gradient.requires_grad:  # a linear loss
            return torch.zeros_like(v)
        parts = torch.autograd.grad(self.gradient, self.flat.parameters, v, retain_graph=True, allow_unused=True)
        return self.flat.join(parts).detach()


def _seconds(call: Callable[[], Tensor]) -> float:
    """Return the least of three times: what disturbs only adds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        float(call().sum())  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)
