r"""How many terms each layer keeps, when the total is limited: SubLoRA (arXiv 2507.01841) and other rules.

Each adapted layer is a sum of terms, g_i s_i p_i q_i^T with gates g_i = 1 when trained. Of the loss in the gates of all
layers, b = dL/dg (n,) and A = d2L/dg2 (n, n) at g = 1 are all that is asked; no model is known here. To second order,
cutting the set C of terms changes the loss by

    q(C) = -sum_{i in C} b_i + 1/2 sum_{i, j in C} A_ij

The least q over sets of a given size is NP-hard in general. The rules stand in `rules`, what is known of them in
`bound`, the compensation of cut terms by the kept ones in `quadratic`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.adapt.bound import certificate
from lissome.adapt.choice import Loss, RankChoice, evaluate
from lissome.adapt.quadratic import DAMPING, Array, Quadratic
from lissome.adapt.quota import Count, shares, sizes_of
from lissome.adapt.rules import RULES, Terms, check_rule


def select_ranks(
    gradient: Tensor,
    hessian: Tensor | Sequence[Tensor],
    budget: int,
    *,
    rule: str = "reverse",
    layers: Mapping[str, int] | None = None,
    least: Count = 0,
    most: Count | None = None,
    compensate: bool = False,
    magnitude: Tensor | None = None,
    sensitivity: Tensor | None = None,
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
) -> RankChoice:
    """Choose which terms stay: min(budget, what `most` leaves) of them.

    Args:
        gradient: b (n,), float32 or float64; computed with in float64 on the CPU.
        hessian: A (n, n), symmetric to rounding; or its blocks, one for each layer in order: what lies between layers
            is then left out, and the result says so.
        budget: how many terms stay in all.
        rule: a name in `RULES`.
        layers: name -> how many of the gates are the layer's, in their order; None is one layer, `all`.
        least: how many terms each layer keeps at least; for all layers, or by name.
        most: and at most; None, or a layer not named, is all.
        compensate: let the gates of the kept terms move to where the model is least.
        magnitude: (n,), for rule `magnitude`.
        sensitivity: (n,), for rule `adalora`; see `smoothed`.
        loss: from gates (n,) to the loss, for rule `measured`; dtype and device of the gradient.
        generator: for rule `random`.

    Raises:
        UsageError: tensors that do not fit one another, are not finite, or 0 throughout; a budget, `least` or `most`
            that cannot be met; an unknown rule or layer, or a rule without what it needs.
        RunError: rule `measured` met no finite loss.

    >>> A = torch.tensor([[2.0, 1.5, 0.0], [1.5, 2.0, 0.0], [0.0, 0.0, 3.0]])
    >>> choice = select_ranks(torch.zeros(3), A, 1, layers={"first": 2, "last": 1}, compensate=True)
    >>> choice.ranks, choice.gates, round(choice.predicted, 3)
    ({'first': 1, 'last': 0}, tensor([0.0000, 1.7500, 0.0000]), 1.938)
    >>> print(select_ranks(torch.zeros(3), A, 2, least={"first": 2}, layers={"first": 2, "last": 1}))
    reverse keeps 2 of 3 terms: first 2 of 2, last 0 of 1
    change of the loss: predicted 1.5
    no bound is known for this rule
    """
    start = time.perf_counter()
    b = _vector(gradient, "gradient")
    check_rule(rule, len(b))
    layers = sizes_of(layers, len(b))
    blocks = [hessian] if isinstance(hessian, Tensor) else list(hessian)
    crossed = isinstance(hessian, Tensor)
    A = _blocks(blocks, [len(b)] if crossed else list(layers.values()))
    if not b.any() and not any(block.any() for block in A):
        raise UsageError(
            "the gates have neither gradient nor curvature: a LoRA whose B is still 0 looks so; train first"
        )
    low, high, total = shares(budget, layers, least, most)
    ends = np.cumsum(list(layers.values())).tolist()
    spans = tuple(slice(stop - size, stop) for stop, size in zip(ends, layers.values(), strict=True))
    model = Quadratic(b, A)
    terms = Terms(
        model,
        spans,
        low,
        high,
        total,
        magnitude=None if magnitude is None else _vector(magnitude, "magnitude", len(b)),
        sensitivity=None if sensitivity is None else _vector(sensitivity, "sensitivity", len(b)),
        loss=None if loss is None else lambda gates: evaluate(loss, torch.from_numpy(gates.copy()).to(gradient)),
        generator=generator,
    )
    kept = RULES[rule](terms)
    moved = np.where(kept, 0.0, -1.0)
    choice = RankChoice(
        rule=rule,
        budget=budget,
        layers=layers,
        kept={name: tuple(np.flatnonzero(kept[span]).tolist()) for name, span in zip(layers, spans, strict=True)},
        gates=torch.from_numpy(1.0 + moved).to(gradient),
        predicted=model.value(moved),
        certificate=certificate(rule, terms, crossed=crossed),
        damping=0.0,
        seconds=time.perf_counter() - start,
        crossed=crossed,
    )
    return _moved(choice, model, DAMPING, start) if compensate else choice


def compensated(
    choice: RankChoice, gradient: Tensor, hessian: Tensor | Sequence[Tensor], *, damping: float = DAMPING
) -> RankChoice:
    """Return a choice of the same terms with their gates moved to where the quadratic model is least.

    Args:
        choice: of `select_ranks`, for this gradient and Hessian.
        gradient: as there.
        hessian: as there.
        damping: added to the kept terms' curvature, as a part of its mean diagonal; times 10 until that is positive
            definite. The model falls with any damping, the loss with enough of it.

    Raises:
        UsageError: a damping that is not above 0, or tensors that do not fit the choice.
    """
    start = time.perf_counter()
    if not (math.isfinite(damping) and damping > 0):
        raise UsageError(f"damping is {damping}; legal is a number above 0")
    b = _vector(gradient, "gradient", len(choice.gates))
    blocks = [hessian] if isinstance(hessian, Tensor) else list(hessian)
    A = _blocks(blocks, [len(b)] if isinstance(hessian, Tensor) else list(choice.layers.values()))
    return _moved(choice, Quadratic(b, A), damping, start)


def _moved(choice: RankChoice, model: Quadratic, damping: float, start: float) -> RankChoice:
    parts = [np.isin(np.arange(size), choice.kept[name]) for name, size in choice.layers.items()]
    moved, added = model.compensated(np.concatenate(parts), damping)
    return replace(
        choice,
        gates=torch.from_numpy(1.0 + moved).to(choice.gates),
        predicted=model.value(moved),
        damping=added,
        seconds=choice.seconds + time.perf_counter() - start,
        measured=None,
        before=None,
    )


def smoothed(gradients: Tensor, beta1: float = 0.85, beta2: float = 0.85) -> Tensor:
    """Return AdaLoRA's score (n,) of the gates from gradients over mini-batches: sensitivity times uncertainty.

    With I = abs(b), equations (9) to (11) of arXiv 2303.10512, from 0 on:

        I' = beta1 I' + (1 - beta1) I,   U' = beta2 U' + (1 - beta2) abs(I - I'),   score = I' U'

    Differs from the paper: a term has the score of its gate alone, without the mean over its two vectors.

    Args:
        gradients: (batches, n), one row for each mini-batch in order.
        beta1: memory of the sensitivity, from 0 to below 1.
        beta2: memory of the uncertainty, from 0 to below 1.

    Raises:
        UsageError: no rows, or a beta outside [0, 1).

    >>> smoothed(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), 0.5, 0.5)
    tensor([0.1875, 0.5000])
    """
    if gradients.dim() != 2 or not gradients.numel():
        raise UsageError(
            f"gradients has shape {tuple(gradients.shape)}; legal is (batches, n), with at least one of each"
        )
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise UsageError(f"{name} is {beta}; legal is a number from 0 to below 1")
    sensitivity = uncertainty = torch.zeros_like(gradients[0])
    for row in gradients.abs():
        sensitivity = beta1 * sensitivity + (1 - beta1) * row
        uncertainty = beta2 * uncertainty + (1 - beta2) * (row - sensitivity).abs()
    return sensitivity * uncertainty


def _vector(tensor: Tensor, name: str, n: int | None = None) -> Array:
    """Return a tensor (n,) in float64."""
    if tensor.dim() != 1 or not len(tensor) or (n is not None and len(tensor) != n):
        legal = "(n,) with at least one gate" if n is None else f"({n},), as the gradient"
        raise UsageError(f"{name} has shape {tuple(tensor.shape)}; legal is {legal}")
    return _exact(tensor, name)


def _exact(tensor: Tensor, name: str) -> Array:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise UsageError(
            f"{name} is {tensor.dtype}; select in float32 or float64, in which ranks are not lost to rounding"
        )
    array = tensor.detach().cpu().double().numpy()
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        raise UsageError(f"{name} has {bad} entries that are not finite; legal are finite numbers")
    return array


def _blocks(blocks: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Array, ...]:
    """Return the blocks in float64, made symmetric."""
    found, legal = [tuple(block.shape) for block in blocks], [(size, size) for size in sizes]
    if found != legal:
        words = "the gradient has {0} gates, legal is one of {1}" if len(sizes) == 1 else "legal is one per layer, {1}"
        words = words.format(sizes[0], ", ".join(map(str, legal)))
        raise UsageError(f"hessian has shape {', '.join(map(str, found)) or 'of no block'}; {words}")
    return tuple(_symmetric(_exact(block, "hessian"), torch.finfo(block.dtype).eps ** 0.5) for block in blocks)


def _symmetric(A: Array, tolerance: float) -> Array:
    """Return the mean of A and its transpose, by tiles: a transpose of megabytes read whole takes 4 times as long."""
    tiles = [slice(start, start + 256) for start in range(0, len(A), 256)]
    pairs = [(rows, columns) for rows in tiles for columns in tiles if columns.start <= rows.start]
    gap = max(float(np.abs(A[rows, columns] - A[columns, rows].T).max()) for rows, columns in pairs)
    size = max(float(A.max()), -float(A.min()))
    if gap > tolerance * size:
        raise UsageError(
            f"hessian and its transpose differ by {gap / size:.1e} of its largest entry;"
            f" legal is up to {tolerance:.1e}, which is rounding"
        )
    if gap == 0.0:
        return A
    out = np.empty_like(A)
    for rows, columns in pairs:
        out[rows, columns] = (A[rows, columns] + A[columns, rows].T) / 2
        out[columns, rows] = out[rows, columns].T
    return out
