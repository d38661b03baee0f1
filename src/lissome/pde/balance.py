r"""The weight at which boundary and interior pull alike at a network's parameters (arXiv 2410.08041).

The tangent kernel K = J J^T of the unweighted mismatches has in its diagonal how far each of them moves under a step of
gradient descent. For L = 1/2 sum_i w_in r_i^2 + 1/2 sum_j w_bd r_j^2 take

    w_bd / w_in = mean_i K_ii / mean_j K_jj

A `Problem` takes means, mean(r_i^2) + weight mean(r_j^2), so its weight is that ratio times N_bd / N_in. (Traces in the
place of means overweight few boundary points.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lissome._types import Batch
from lissome._vector import functional
from lissome.calculus import balance
from lissome.calculus.rowwise import rowwise

SEEN = 64  # points of each kind whose gradients are looked at


def balanced_weight(rows: Callable[[nn.Module, Batch], Tensor], model: nn.Module, parts: Sequence[Batch]) -> float:
    """Return the balanced weight of the mismatches outside; 1 where they, or those inside, move nothing.

    Args:
        rows: (model, part) -> mismatches (N, c), row by row.
        model: what requires gradients in it is trained.
        parts: of a batch, the interior first, and one more at least.
    """
    function, tensors = functional(rows, model)
    pulls, counts = [], []
    for part in parts:
        size = len(next(iter(part.values())))
        # the seed of random directions is no row of its own; without it derivatives are exact
        few = {name: value[:: -(-size // SEEN)] for name, value in part.items() if len(value) == size}
        values, jacobian = rowwise(function, tensors, few)  # (n, c), (n c, p)
        pulls.append(jacobian.square().sum(1).mean())
        counts.append(size * values.shape[1])
    weight = weight_of(pulls, counts)
    return weight if math.isfinite(weight) and weight > 0 else 1.0


def weight_of(means: Sequence[Tensor], counts: Sequence[int]) -> float:
    """Return the balanced weight from the diagonal of K of unweighted rows; infinite where nothing outside moves.

    Args:
        means: of the diagonal, a scalar for each part, the interior first, and one more at least.
        counts: rows of each part.

    >>> weight_of([torch.tensor(6.0), torch.tensor(1.0), torch.tensor(3.0)], [10, 4, 4])
    2.4
    """
    (inside, many), *outside = zip(means, counts, strict=True)
    total = sum(count for _, count in outside)
    mean = sum((count / total * each for each, count in outside), torch.zeros_like(inside))
    return balance(inside[None], mean[None]) * total / many
