r"""A quadratic model of a loss in gates, taken where all are 1.

    L(g) - L(1)  ~  q(d) = b^T d + d^T A d / 2,   d = g - 1   (n,)

Cutting the set C of terms is d = -1_C, and A is dense or has one block per layer. Moving the kept gates S as well is
the optimal brain surgeon (B. Hassibi and D. Stork, 1993) for terms instead of weights: b_S + A_SS d_S - A_SC 1 = 0, so

    d_S = -A_SS^-1 (b_S - A_SC 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lissome._errors import UsageError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

DAMPING = 1e-6  # of the mean absolute diagonal: below what a float32 Hessian knows of itself


@dataclass(frozen=True, eq=False)
class Quadratic:
    """Gradient b (n,) and curvature A, symmetric, as the blocks on its diagonal; a dense A is one block; float64."""

    b: Array
    blocks: tuple[Array, ...]

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Which gates each block is about."""
        ends = np.cumsum([len(block) for block in self.blocks]).tolist()
        return tuple(slice(stop - len(block), stop) for stop, block in zip(ends, self.blocks, strict=True))

    @cached_property
    def _rows(self) -> list[tuple[slice, Array]]:
        return [(span, row) for span, block in zip(self.spans, self.blocks, strict=True) for row in block]

    @cached_property
    def diagonal(self) -> Array:
        """A_jj (n,)."""
        return np.concatenate([block.diagonal() for block in self.blocks])

    def add_row(self, j: int, out: Array, sign: int = 1) -> None:
        """Add row j of A, times the sign, to `out` (n,), in place."""
        span, row = self._rows[j]
        out[span] += sign * row if sign != 1 else row

    def product(self, d: Array) -> Array:
        """Return A d (n,)."""
        return np.concatenate([block @ d[span] for span, block in zip(self.spans, self.blocks, strict=True)])

    def value(self, d: Array) -> float:
        """Return q(d), the change of the loss."""
        return float(self.b @ d + d @ self.product(d) / 2)

    def projected(self) -> Quadratic:
        """Return the nearest model, in Frobenius norm, whose A has no negative entry off its diagonal.

        Its set function is submodular, see `bound`. A need not stay positive semidefinite.
        """
        blocks = tuple(np.maximum(block, 0.0) for block in self.blocks)
        for new, old in zip(blocks, self.blocks, strict=True):
            np.fill_diagonal(new, old.diagonal())
        return Quadratic(self.b, blocks)

    def compensated(self, kept: Mask, least: float = DAMPING) -> tuple[Array, float]:
        """Return d (n,), -1 where a term is cut and the best move where it is kept, and the damping it took.

        The damping is added to the diagonal of A_SS: a part of its mean absolute diagonal, times 10 until A_SS is
        positive definite with half of it: with all of it, a negative A_jj may meet a damping of its own size, and the
        move has no bound. The model falls with any damping.

        Raises:
            UsageError: the kept terms have a gradient, and no curvature on their diagonal.
        """
        d = np.where(kept, 0.0, -1.0)
        slope = (self.b + self.product(d))[kept]
        if not slope.any():
            return d, 0.0
        damping = least * float(np.abs(self.diagonal[kept]).mean())
        if damping == 0.0:
            raise UsageError(
                "compensate=True has no answer where the kept terms have a gradient and no curvature;"
                " legal is a diagonal of the hessian that is not 0 for all of them, else compensate=False"
            )
        while not self._solve(kept, slope, damping, d):
            damping *= 10
        return d, damping

    def _solve(self, kept: Mask, slope: Array, damping: float, d: Array) -> bool:
        """Write the move into d; False if a block of A_SS with half this damping is not positive definite."""
        moves = []
        for span, block in zip(self.spans, self.blocks, strict=True):
            inside = np.flatnonzero(kept[span])
            if not len(inside):
                continue
            damped, corner = block[np.ix_(inside, inside)], np.diag_indices(len(inside))
            here, slope = slope[: len(inside)], slope[len(inside) :]
            try:
                damped[corner] += damping / 2
                np.linalg.cholesky(damped)
                damped[corner] += damping / 2
                moves.append(cho_solve(cho_factor(damped, lower=True, check_finite=False), -here))
            except np.linalg.LinAlgError:
                return False
        d[kept] = np.concatenate(moves)
        return True
