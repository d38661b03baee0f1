r"""Derivatives carried forward through a stack of linear maps and activations.

Forward Laplacian (collapsed Taylor mode; arXiv 2307.08214). Beside each activation a go tangents J_k
and second-order parts s:

    linear   a' = a W^T + b      J' = J W^T           s' = s W^T
    sigma    a' = sigma(a)       J' = sigma'(a) J     s' = sigma'(a) s + sigma''(a) sum_k w_k J_k^2

Tangents that are the same at every point stay (c, w) until the first activation, so a first layer
costs them nothing; from there on all rows of all kinds stand in one tensor and each linear map is one
matrix product.

First-layer compression. After W1 the tangents J (r, w) of a Laplacian may be replaced by Q^T J, Q
orthonormal and spanning J: at most w tangents in any dimension, exactly, since only sums of squares
follow. Q may be held constant while W1 is differentiated: what lies outside its span is zero and
enters as a square. `_Project` says how a second derivative is kept exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome.calculus.nested import Derivatives
from lissome.calculus.rules import Translation, bend

Weights = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Seeds:
    """Unit tangents that enter; the first `squared` of them feed the second-order parts."""

    coordinates: tuple[int, ...]
    scales: tuple[float, ...]
    squared: int
    signs: Weights  # (m, q): how the squares of the q leading tangents add up
    asked: tuple[tuple[int, float], ...]  # per entry of `first`: which tangent holds it, and times what


def plan(first: tuple[int, ...], second: Weights, *, share: bool) -> Seeds:
    """Choose the tangents; `share` lets `first` read those of `second` (not when they are to be compressed)."""
    used = [i for i in range(len(second[0]))] if second else []
    used = [i for i in used if any(row[i] for row in second)]
    if len(second) == 1:
        # same signs together, so that each group can be compressed by itself
        used.sort(key=lambda i: second[0][i] < 0)
        scales = [math.sqrt(abs(second[0][i])) for i in used]
        signs: Weights = (tuple(math.copysign(1.0, second[0][i]) for i in used),)
    else:
        scales = [1.0] * len(used)
        signs = tuple(tuple(row[i] for i in used) for row in second)
    coordinates = list(used)
    place = {i: k for k, i in enumerate(used)} if share else {}
    for i in first:
        if i not in place:
            place[i] = len(coordinates)
            coordinates.append(i)
            scales.append(1.0)
    asked = tuple((place[i], 1 / scales[place[i]]) for i in first)
    return Seeds(tuple(coordinates), tuple(scales), len(used), signs, asked)


def one_pass(
    chain: list[nn.Module], z: Tensor, seeds: Seeds, along: Tensor | None, extra: Tensor | None, *, compress: bool
) -> Derivatives:
    """Run the chain at points z (N, D).

    Args:
        chain: translations, linear maps and activations.
        z: points.
        seeds: the constant tangents.
        along: first-order directions per point, (a, N, D).
        extra: directions per point (q, N, D) whose squares `seeds.signs` speaks of, where `seeds` has none of its own.
        compress: shrink the squared tangents after the first linear map.
    """
    state = _State(z, seeds, along, extra)
    for module in chain:
        rule = bend(module)
        if rule is not None:
            state.bend(rule)
        elif isinstance(module, Translation):
            state.value = module.translate(state.value)
        else:
            assert isinstance(module, nn.Linear)
            state.linear(module.weight, module.bias, compress)
    return state.result(seeds, 0 if along is None else len(along))


class _State:
    """One moment of the pass: before the first activation value, constant and per-point tangents; then one stack."""

    def __init__(self, z: Tensor, seeds: Seeds, along: Tensor | None, extra: Tensor | None):
        self.value = z  # (N, w)
        self.signs = seeds.signs  # (m, q)
        self.seeds: Seeds | None = seeds  # unit tangents not yet written out
        self.constant: Tensor | None = None  # (c, w)
        self.leading = extra  # (q, N, w)
        self.trailing = along  # (a, N, w)
        self.stack: Tensor | None = None  # (1 + q + c + a + m, N, w)

    def linear(self, weight: Tensor, bias: Tensor | None, compress: bool) -> None:
        if self.stack is not None:
            self.stack = F.linear(self.stack, weight)
            if bias is not None:
                self.value = self.stack[0] + bias
            else:
                self.value = self.stack[0]
            return
        self.value = F.linear(self.value, weight, bias)
        if self.leading is not None:
            self.leading = F.linear(self.leading, weight)
        if self.trailing is not None:
            self.trailing = F.linear(self.trailing, weight)
        if self.seeds is None:
            self.constant = F.linear(self._written(), weight)
            return
        tangents = weight.t()[list(self.seeds.coordinates)]
        self.constant = tangents * tangents.new_tensor(self.seeds.scales)[:, None]
        if compress:
            self._compress()
        self.seeds = None

    def _written(self) -> Tensor:
        """Return constant tangents (c, w), writing unit vectors out where they still are indices."""
        if self.constant is None:
            assert self.seeds is not None
            rows = self.value.new_zeros(len(self.seeds.coordinates), self.value.shape[1])
            for k, (i, scale) in enumerate(zip(self.seeds.coordinates, self.seeds.scales, strict=True)):
                rows[k, i] = scale
            self.constant, self.seeds = rows, None
        return self.constant

    def _tangents(self, n: int) -> Tensor:
        """Return all tangents before the first activation, (q + c + a, N, w)."""
        constant = self._written()[:, None].expand(-1, n, -1)
        return torch.cat([t for t in (self.leading, constant, self.trailing) if t is not None])

    def _compress(self) -> None:
        assert self.seeds is not None
        assert self.constant is not None
        signs = self.signs[0]
        split = signs.index(-1.0) if -1.0 in signs else len(signs)
        groups = self.constant[:split], self.constant[split : len(signs)]
        groups = [_shrink(group) for group in groups]
        self.signs = ((1.0,) * len(groups[0]) + (-1.0,) * len(groups[1]),)
        self.constant = torch.cat([*groups, self.constant[len(signs) :]])

    def _squares(self, tangents: Tensor) -> Tensor:
        """Return sum_k w_k J_k^2 for each row of weights: (c, ...) -> (m, ...)."""
        head = tangents[: len(self.signs[0])]
        if len(self.signs) == 1 and all(sign == 1.0 for sign in self.signs[0]):
            return (head * head).sum(0, keepdim=True)
        signs = head.new_tensor(self.signs)  # (m, q)
        return torch.tensordot(signs, head * head, dims=1)

    def bend(self, rule) -> None:
        y, slope, curvature = rule(self.value)  # (N, w) each
        if self.stack is None:
            tangents = self._tangents(len(y))
            parts = [y[None], slope * tangents]
            if self.signs:
                # constant tangents have the same squares at every point: (m, 1, w)
                squares = self._squares(tangents if self.leading is not None else self._written()[:, None])
                parts.append(curvature * squares)
            self.constant = self.leading = self.trailing = None
        else:
            m = len(self.signs)
            tangents = self.stack[1 : len(self.stack) - m]
            parts = [y[None], slope * tangents]
            if m:
                parts.append(slope * self.stack[-m:] + curvature * self._squares(tangents))
        self.stack = torch.cat(parts)
        self.value = y

    def result(self, seeds: Seeds, along: int) -> Derivatives:
        n, m = len(self.value), len(self.signs)
        if self.stack is None:  # no activation at all: constant tangents, no curvature
            rows = self._tangents(n)
            seconds = self.value.new_zeros(m, n)
        else:
            rows = self.stack[1 : len(self.stack) - m]
            seconds = self.stack[len(self.stack) - m :].reshape(m, n)
        rows = rows.reshape(-1, n)
        # compression, or directions per point, change how many squared tangents precede the others
        moved = (len(self.signs[0]) if m else 0) - seeds.squared
        firsts = [rows[k + (moved if k >= seeds.squared else 0)] * factor for k, factor in seeds.asked]
        first = torch.stack(firsts) if firsts else rows[:0]
        return Derivatives(self.value.reshape(n), first, seconds, rows[len(rows) - along :])


class _Project(torch.autograd.Function):
    """Q^T J with Q constant. Its gradient is exact for functions of J^T J, and so is the gradient of that gradient.

    There dL/dJ = 2 J S with a symmetric S, and what arrives is 2 Q^T J S: Q times it gives the value, J (Q^T J)^-1
    times it the same value with the right dependence on J.
    """

    @staticmethod
    def forward(ctx, tangents: Tensor, basis: Tensor) -> Tensor:
        ctx.save_for_backward(tangents, basis)
        return basis.t() @ tangents

    @staticmethod
    def backward(ctx, grad: Tensor):
        tangents, basis = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tangents @ torch.linalg.solve(basis.t() @ tangents, grad), None
        return basis @ grad, None


def _shrink(tangents: Tensor) -> Tensor:
    """Return at most w rows with the same sum of squares in every direction: (r, w) -> (min(r, w), w)."""
    if len(tangents) <= tangents.shape[1]:
        return tangents
    basis = torch.linalg.qr(tangents.detach()).Q  # (r, w)
    return _Project.apply(tangents, basis)  # type: ignore[no-any-return]
