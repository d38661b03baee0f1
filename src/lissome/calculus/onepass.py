r"""Value, gradient and weighted Laplacians of a stack of linear maps and activations: tangents forward, one pull back.

Write a for what enters activation l, J_k = da/dz_k for its tangents, v = du/dsigma(a) for what the gradient has become
on its way back to it. Then, w_k being the weights of the Laplacian,

    linear   J' = J W^T            v' = v W
    sigma    J' = sigma'(a) J      v' = sigma'(a) v

    sum_k w_k u_kk = sum_l v . sigma''(a) sum_k w_k J_k^2

A forward Laplacian (collapsed Taylor mode; arXiv 2307.08214) carries the right-hand side's terms forward in place of v.
Pulled back they cost the same, one more product per layer, and every first derivative comes with them: u_t and the
directions of a product rule need no tangents of their own.

Tangents that are the same at every point stay (q, w) until the first activation, so a first layer costs them nothing.
The activation costs them nothing either: sigma'(a) J_k W^T for all k is the product of sigma'(a), (N, w), with the
matrices diag(J_k) W^T side by side. After the last activation nobody asks for them.

First-layer compression. After W1 the tangents J (r, w) of a Laplacian may be replaced by Q^T J, Q
orthonormal and spanning J: at most w tangents in any dimension, exactly, since only sums of squares
follow. Q may be held constant while W1 is differentiated: what lies outside its span is zero and
enters as a square. `_Project` says how a second derivative is kept exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome.calculus.carry import Weights, carry, spread, squares
from lissome.calculus.nested import Derivatives
from lissome.calculus.rules import Mixing, Translation, bend


@dataclass(frozen=True)
class Seeds:
    """Unit tangents that enter, and how their squares add up."""

    coordinates: tuple[int, ...]
    scales: tuple[float, ...]
    signs: Weights  # (m, q)
    unit: bool  # whether all scales are 1


@dataclass(frozen=True)
class _Bent:
    """What an activation leaves for the way back: (N, w), (N, w), and squares (N or 1, m, w) if any are asked."""

    slope: Tensor
    curvature: Tensor
    squared: Tensor | None

    def curve(self, pulled: Tensor) -> Tensor:
        """Return how squares count in the second derivatives, (N, w)."""
        return pulled * self.curvature

    def pull(self, pulled: Tensor) -> Tensor:
        """Return the gradient before it, (N, w)."""
        return pulled * self.slope


@dataclass(frozen=True)
class _Mixed:
    """The same of a layer with slopes of its own, (N, w', w)."""

    slope: Tensor
    curve: Callable[[Tensor], Tensor]
    squared: Tensor | None

    def pull(self, pulled: Tensor) -> Tensor:
        """Return the gradient before it, (N, w)."""
        return (pulled[:, None] @ self.slope).squeeze(1)


def plan(second: Weights) -> Seeds:
    """Choose the tangents."""
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
    return Seeds(tuple(used), tuple(scales), signs, all(scale == 1.0 for scale in scales))


def one_pass(
    chain: list[nn.Module],
    z: Tensor,
    seeds: Seeds,
    first: tuple[int, ...],
    along: Tensor | None,
    extra: Tensor | None = None,
    *,
    compress: bool = False,
) -> Derivatives:
    """Run the chain at points z (N, D).

    Args:
        chain: translations, linear maps, activations, and layers with slopes of their own.
        z: points.
        seeds: the constant tangents.
        first: coordinates of the wanted first derivatives.
        along: first-order directions per point, (a, N, D).
        extra: directions per point (q, N, D) whose squares `seeds.signs` speaks of, where `seeds` has none of its own.
        compress: shrink the tangents after the first linear map.
    """
    tangents = _Tangents(seeds, extra) if any(seeds.signs) else None
    value = z
    steps: list[Tensor | _Bent | _Mixed] = []
    rules = [bend(module) for module in chain]
    last = max([-1, *(i for i, rule in enumerate(rules) if rule is not None or isinstance(chain[i], Mixing))])
    for i, (module, rule) in enumerate(zip(chain, rules, strict=True)):
        if rule is not None:
            width = value.shape[1]
            value, slope, curvature = rule(value)  # (N, w) each
            steps.append(_Bent(slope, curvature, tangents and tangents.bend(slope, width, last=i == last)))
        elif isinstance(module, Translation):
            value = module.translate(value)
        elif isinstance(module, Mixing):
            value, slopes, curve = module.mix(value)
            steps.append(_Mixed(slopes, curve, tangents and tangents.mix(slopes, last=i == last)))
        else:
            assert isinstance(module, nn.Linear)
            value = F.linear(value, module.weight, module.bias)
            if tangents is not None:
                tangents.linear(module.weight, compress)
            steps.append(module.weight)
    firsts, second, alongs = _pull(steps, value, first, along, len(seeds.signs))
    return Derivatives(value.reshape(len(z)), firsts, second, alongs)


def _pull(
    steps: list[Tensor | _Bent | _Mixed], value: Tensor, first: tuple[int, ...], along: Tensor | None, m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pull the gradient back from the values (N, 1); return first (k, N), second (m, N) and along (a, N)."""
    n = len(value)
    second = value.new_zeros(n, m)
    pulled = value.new_ones(1, 1)  # (1 or N, w)
    head = steps[0] if steps and isinstance(steps[0], Tensor) else None  # whose columns may be many and few be asked
    for step in reversed(steps[head is not None :]):
        if isinstance(step, Tensor):
            pulled = pulled @ step
            continue
        if step.squared is not None:
            second = second + (step.curve(pulled)[:, None] * step.squared).sum(2)  # (N, m)
        pulled = step.pull(pulled)
    if along is not None:
        gradient = pulled if head is None else pulled @ head  # (1 or N, D)
        firsts, alongs = gradient[:, list(first)], (gradient * along).sum(2)
    else:
        firsts = pulled[:, list(first)] if head is None else pulled @ _picked(head, first)  # (1 or N, k)
        alongs = value.new_zeros(0, n)
    return firsts.expand(n, -1).t(), second.t(), alongs


class _Tangents:
    """Tangents as small as they still can be.

    Unit vectors; constants (q, w) from the first linear map on; from the first activation on their product with a slope
    (N, w), left open for the linear map that follows; then (N, q, w).
    """

    def __init__(self, seeds: Seeds, extra: Tensor | None):
        self.seeds, self.signs = seeds, seeds.signs
        self.constant: Tensor | None = None  # (q, w)
        self.slope: Tensor | None = None  # (N, w)
        self.moving = None if extra is None else extra.transpose(0, 1)  # (N, q, w)

    def linear(self, weight: Tensor, compress: bool) -> None:
        if self.moving is not None:
            self.moving = spread(self.moving, weight)
        elif self.constant is None:
            self.constant = _columns(weight, self.seeds)
            if compress:
                self._compress()
        elif self.slope is not None:
            self.moving, self.slope = _product(self.slope, self.constant, weight), None
        else:
            self.constant = F.linear(self.constant, weight)

    def bend(self, slope: Tensor, width: int, *, last: bool) -> Tensor:
        """Go through an activation of so many inputs and return the sums of squares before it, (N or 1, m, w)."""
        self._close()
        if self.moving is None:
            if self.constant is None:
                self.constant = _columns(torch.eye(width).to(slope), self.seeds)
            self.slope = slope
            return squares(self.constant[None], self.signs)
        if last:
            return squares(self.moving, self.signs)
        self.moving, squared = carry(slope, self.moving, self.signs)
        return squared

    def mix(self, slopes: Tensor, *, last: bool) -> Tensor:
        """Go through a layer with slopes (N, w', w) and return the sums of squares before it, (N or 1, m, w)."""
        self._close()
        width = slopes.shape[2]
        if self.moving is None and self.constant is None:
            self.constant = _columns(torch.eye(width).to(slopes), self.seeds)
        J = self.constant[None] if self.moving is None else self.moving  # type: ignore[index]
        squared = squares(J, self.signs)
        if not last:
            self.moving = J @ slopes.mT  # (N, q, w')
        return squared

    def _close(self) -> None:
        """Write out what is left open."""
        if self.slope is not None:
            assert self.constant is not None
            self.moving, self.slope = self.slope[:, None] * self.constant, None

    def _compress(self) -> None:
        assert self.constant is not None
        signs = self.signs[0]
        split = signs.index(-1.0) if -1.0 in signs else len(signs)
        groups = [compressed(group) for group in (self.constant[:split], self.constant[split:])]
        self.signs = ((1.0,) * len(groups[0]) + (-1.0,) * len(groups[1]),)
        self.constant = torch.cat(groups)


def _picked(weight: Tensor, places: tuple[int, ...]) -> Tensor:
    """Return columns (w, k); of neighbours a view, since in 10,000 dimensions a copy costs as much as the layer."""
    start = places[0] if places else 0
    neighbours = places == tuple(range(start, start + len(places)))
    return weight[:, start : start + len(places)] if neighbours else weight[:, list(places)]


def _columns(weight: Tensor, seeds: Seeds) -> Tensor:
    """Return the images (q, w) of scaled unit vectors."""
    images = _picked(weight, seeds.coordinates).t()
    return images if seeds.unit else images * images.new_tensor(seeds.scales)[:, None]


def _product(slope: Tensor, constant: Tensor, weight: Tensor) -> Tensor:
    """Return (slope_n constant_k) W^T, (N, c, w'): the smaller of its two inner products is written out."""
    if len(slope) < len(weight):
        return F.linear(slope[:, None] * constant, weight)
    maps = constant.t()[:, :, None] * weight.t()[:, None]  # (w, c, w')
    return spread(slope, maps.flatten(1).t()).unflatten(1, maps.shape[1:])


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
