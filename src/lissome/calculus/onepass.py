r"""Derivatives carried forward through a stack of linear maps and activations.

Forward Laplacian (collapsed Taylor mode; arXiv 2307.08214). Beside each activation a go tangents J_k
and second-order parts s:

    linear   a' = a W^T + b      J' = J W^T           s' = s W^T
    sigma    a' = sigma(a)       J' = sigma'(a) J     s' = sigma'(a) s + sigma''(a) sum_k w_k J_k^2

Tangents that are the same at every point stay (c, w) until the first activation, so a first layer
costs them nothing. The activation costs them nothing either: sigma'(a) J_k W^T for all k is the product
of sigma'(a), (N, w), with the matrices diag(J_k) W^T side by side.

First-layer compression. After W1 the tangents J (r, w) of a Laplacian may be replaced by Q^T J, Q
orthonormal and spanning J: at most w tangents in any dimension, exactly, since only sums of squares
follow. Q may be held constant while W1 is differentiated: what lies outside its span is zero and
enters as a square. `_Project` says how a second derivative is kept exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome.calculus.carry import ALL, carry, squares
from lissome.calculus.nested import Derivatives
from lissome.calculus.rules import Bend, Translation, bend

Weights = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Seeds:
    """Unit tangents that enter; the first `squared` of them feed the second-order parts."""

    coordinates: tuple[int, ...]
    scales: tuple[float, ...]
    squared: int
    signs: Weights  # (m, q): how the squares of the q leading tangents add up
    asked: tuple[tuple[int, float], ...]  # per entry of `first`: which tangent holds it, and times what
    run: bool  # whether the coordinates are neighbours in rising order
    unit: bool  # whether all scales are 1


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
    run = all(b == a + 1 for a, b in itertools.pairwise(coordinates))
    unit = all(scale == 1.0 for scale in scales)
    return Seeds(tuple(coordinates), tuple(scales), len(used), signs, asked, run, unit)


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
    rules = [bend(module) for module in chain]
    last = max([-1, *(i for i, rule in enumerate(rules) if rule is not None)])
    for i, (module, rule) in enumerate(zip(chain, rules, strict=True)):
        if rule is not None:
            state.bend(rule, last=i == last)
        elif isinstance(module, Translation):
            state.value = module.translate(state.value)
        else:
            assert isinstance(module, nn.Linear)
            state.linear(module.weight, module.bias, compress)
    return state.result()


class _State:
    """One moment of the pass: value, tangents and second-order parts, each as small as it still can be.

    Tangents stand in the order constant, moving. The constant ones are (c, w) up to the first activation; it
    multiplies them by a slope (N, w), and the product is left open for the linear map that follows. The last
    activation drops the tangents that are not asked for: their squares are all that was wanted of them.
    """

    def __init__(self, z: Tensor, seeds: Seeds, along: Tensor | None, extra: Tensor | None):
        self.value = z  # (N, w)
        self.seeds: Seeds | None = seeds  # unit tangents not yet written out
        self.constant: Tensor | None = None  # (c, w)
        self.slope: Tensor | None = None  # (N, w), from the first activation on
        given = [t for t in (extra, along) if t is not None]
        self.moving = torch.cat(given).transpose(0, 1) if given else None  # (N, b, w)
        self.tangents: Tensor | None = None  # (N, c + b, w), once the product is formed
        self.second: Tensor | None = None  # (N, m, w), from the first activation on
        self.signs = seeds.signs  # (m, q)
        self.start = 0 if extra is None else len(seeds.coordinates)  # where the squared tangents begin
        self.squares_move = extra is not None
        self.asked = seeds.asked
        self.along = 0 if along is None else len(along)
        self.weights: Tensor | None = None  # the signs as a tensor, where they are not all 1

    def linear(self, weight: Tensor, bias: Tensor | None, compress: bool) -> None:
        self.value = F.linear(self.value, weight, bias)
        if self.second is not None:
            self.second = F.linear(self.second, weight)
        if self.moving is not None:
            self.moving = F.linear(self.moving, weight)
        if self.tangents is not None:
            self.tangents = F.linear(self.tangents, weight)
        elif self.slope is not None:
            self._close(_product(self.slope, self._written(), weight))
        elif self.seeds is not None and self.constant is None:
            self.constant = _columns(weight, self.seeds)
            if compress:
                self._compress(len(self.signs[0]))
        else:
            self.constant = F.linear(self._written(), weight)

    def bend(self, rule: Callable[[Tensor], Bend], *, last: bool) -> None:
        if self.slope is not None and self.tangents is None:
            self._close(self.slope[:, None] * self._written())
        self.value, slope, curvature = rule(self.value)  # (N, w) each
        if self.tangents is None:
            self._begin(slope, curvature)
            return
        keep = self._drop() if last else ALL
        if self.second is None:
            self.tangents = slope[:, None] * self.tangents[:, keep]
        else:
            part = slice(self.start, self.start + len(self.signs[0]))
            self.tangents, self.second = carry(slope, curvature, self.tangents, self.second, self.weights, part, keep)

    def result(self) -> Derivatives:
        n, m = len(self.value), len(self.signs)
        if self.tangents is None:
            slope = torch.ones_like(self.value) if self.slope is None else self.slope
            self._close(slope[:, None] * self._written())
        assert self.tangents is not None
        rows = self.tangents.flatten(1).t()  # (k, N)
        # a map without activation has no curvature
        second = rows.new_zeros(m, n) if self.second is None else self.second.reshape(n, m).t()
        firsts = [rows[k] * factor for k, factor in self.asked]
        first = torch.stack(firsts) if firsts else rows[:0]
        return Derivatives(self.value.reshape(n), first, second, rows[len(rows) - self.along :])

    def _begin(self, slope: Tensor, curvature: Tensor) -> None:
        """Pass the first activation: constant tangents have the same squares at every point."""
        self.slope = slope
        if self.signs:
            self.weights = _weights(self.signs, slope)
            rows = self.moving if self.squares_move else self._written()[None]
            assert rows is not None
            squared = squares(rows[:, : len(self.signs[0])], self.weights)  # (N or 1, m, w)
            self.second = curvature[:, None] * squared
        if self.moving is not None:
            self.moving = slope[:, None] * self.moving

    def _drop(self) -> slice:
        """Return the shortest run of tangents that holds all that are asked for, and count from its start."""
        assert self.tangents is not None
        rows, end = [k for k, _ in self.asked], self.tangents.shape[1]
        start = min([*rows, end - self.along])
        stop = end if self.along or not rows else max(rows) + 1
        self.asked = tuple((k - start, factor) for k, factor in self.asked)
        return slice(start, stop)

    def _close(self, constant: Tensor) -> None:
        """Put the constant tangents, now (N, c, w), and the moving ones together."""
        self.tangents = constant if self.moving is None else torch.cat([constant, self.moving], 1)
        self.moving = None

    def _written(self) -> Tensor:
        """Return constant tangents (c, w), writing unit vectors out where they still are indices."""
        if self.constant is None:
            assert self.seeds is not None
            self.constant = _columns(torch.eye(self.value.shape[1]).to(self.value), self.seeds)
        return self.constant

    def _compress(self, q: int) -> None:
        assert self.constant is not None
        split = self.signs[0].index(-1.0) if -1.0 in self.signs[0] else q
        groups = [compressed(group) for group in (self.constant[:split], self.constant[split:q])]
        fewer = q - sum(map(len, groups))
        self.asked = tuple((k - fewer if k >= q else k, factor) for k, factor in self.asked)
        self.signs = ((1.0,) * len(groups[0]) + (-1.0,) * len(groups[1]),)
        self.constant = torch.cat([*groups, self.constant[q:]])


def _columns(weight: Tensor, seeds: Seeds) -> Tensor:
    """Return the images (c, w) of scaled unit vectors."""
    places, columns = seeds.coordinates, weight.t()
    # neighbours are a view: in 10,000 dimensions a copy costs as much as the layer
    images = columns[places[0] : places[-1] + 1] if seeds.run and places else columns[list(places)]
    return images if seeds.unit else images * images.new_tensor(seeds.scales)[:, None]


def _product(slope: Tensor, constant: Tensor, weight: Tensor) -> Tensor:
    """Return (slope_n constant_k) W^T, (N, c, w'): the smaller of its two inner products is written out."""
    if len(slope) < len(weight):
        return F.linear(slope[:, None] * constant, weight)
    maps = constant.t()[:, :, None] * weight.t()[:, None]  # (w, c, w')
    return (slope @ maps.flatten(1)).unflatten(1, maps.shape[1:])


def _weights(signs: Weights, like: Tensor) -> Tensor | None:
    """Return the weights of the squares (m, q), or None for one row of ones."""
    plain = len(signs) == 1 and all(sign == 1.0 for sign in signs[0])
    return None if plain else like.new_tensor(signs)


class _Project(torch.autograd.Function):
    """Q^T J with Q constant. Its gradient is exact for functions of J^T J, and so is the gradient of that gradient.

    There dL/dJ = 2 J S with a symmetric S, and what arrives is 2 Q^T J S: Q times it gives the value, J (Q^T J)^-1
    times it the same value with the right dependence on J.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tangents: Tensor, basis: Tensor) -> Tensor:
        return basis.t() @ tangents

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        tangents, basis = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tangents @ torch.linalg.solve(basis.t() @ tangents, grad), None
        return basis @ grad, None

    @staticmethod
    def jvp(ctx, dot: Tensor, _):  # type: ignore[override]
        return ctx.saved_tensors[1].t() @ dot


def compressed(tangents: Tensor) -> Tensor:
    """Return at most w rows with the same sum of squares in every direction: (r, w) -> (min(r, w), w)."""
    if len(tangents) <= tangents.shape[1]:
        return tangents
    basis = torch.linalg.qr(tangents.detach()).Q  # (r, w)
    return _Project.apply(tangents, basis)  # type: ignore[no-any-return]
