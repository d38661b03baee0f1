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
        self.batched = True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.flat), len(self.flat)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (p,) or to the columns of (p, k)."""
        return self._product(other) if other.ndim == 1 else self._products(other.mT).mT

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
        rows = torch.eye(p, dtype=self.gradient.dtype, device=self.gradient.device)
        B = torch.cat([self._products(chunk) for chunk in rows.split(ROWS)])  # (p, p)
        return (B + B.mT) / 2

    def is_cheap(self) -> bool:
        """Say, by the clock, whether `dense` costs less than about 20 products."""
        p = len(self.flat)
        if p <= SMALL or p > LARGEST:
            return p <= SMALL
        rows = torch.eye(min(ROWS, p), p, dtype=self.gradient.dtype, device=self.gradient.device)
        self._product(rows[0])  # the first walk is slow
        one, chunk = _seconds(lambda: self._product(rows[0])), _seconds(lambda: self._products(rows))
        return chunk * -(-p // ROWS) < WORTH * one

    def _product(self, v: Tensor) -> Tensor:
        if not self.gradient.requires_grad:  # a linear loss
            return torch.zeros_like(v)
        return self.flat.join(self._walk(v, batched=False)).detach()

    def _products(self, V: Tensor) -> Tensor:
        """Apply to the rows of V (k, p)."""
        if self.batched and self.gradient.requires_grad:
            try:
                parts = self._walk(V, batched=True)
            except RuntimeError:  # an operation without a rule for vmap
                self.batched = False
            else:
                pairs = zip(parts, self.flat.parameters, strict=True)
                rows = [V.new_zeros(len(V), p.numel()) if t is None else t.reshape(len(V), -1) for t, p in pairs]
                return torch.cat(rows, 1).detach()
        return torch.stack([self._product(v) for v in V])

    def _walk(self, v: Tensor, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            self.gradient,
            self.flat.parameters,
            v.to(self.gradient),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )


def _seconds(call: Callable[[], Tensor]) -> float:
    """Return the least of three times: what disturbs only adds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        float(call().sum())  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)
