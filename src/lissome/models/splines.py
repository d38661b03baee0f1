r"""B-splines as functions of one number, for each input of a layer, with their first two derivatives.

On uniform knots and of order 3, with h the spacing and a = abs((x - low) / h - (k - 1)), k = 0 .. G + 2,

    B_k  = (relu(2 - a)^3 - 4 relu(1 - a)^3) / 6

else by the recursion of C. de Boor (A Practical Guide to Splines, 1978, chapter X):

    B_{i,p}  = (x - t_i) / (t_{i+p} - t_i) B_{i,p-1} + (t_{i+p+1} - x) / (t_{i+p+1} - t_{i+1}) B_{i+1,p-1}
    B_{i,p}' = p / (t_{i+p} - t_i) B_{i,p-1} - p / (t_{i+p+1} - t_{i+1}) B_{i+1,p-1}

Beyond the grid they fall to 0 as smoothly as they are, over `order` further intervals, and stay there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lissome._checks import check_whole
from lissome._errors import UsageError

Taylor = tuple[Tensor, Tensor, Tensor]
WIDE = 20  # from so many functions on the four that are not 0 are written into their places, where nothing is fused


class BSpline(nn.Module):
    """G + p B-splines of order p over G intervals, on knots of each input's own; (N, inputs) -> (N, G + p, inputs).

    Args:
        inputs: how many numbers a point has.
        intervals: G, at least 1.
        order: p, the degree of the pieces; 3 is twice differentiable, as operators of second order need.
        low: where the first interval begins.
        high: where the last one ends.

    Attributes:
        knots: (inputs, G + 2 p + 1), increasing; the intervals, and `order` further ones at either end. They stay in
            float64 whatever the network is cast to.
        even: whether they are uniform.

    Raises:
        UsageError: a size below 1, an order below 0, or ends in the wrong order.

    >>> BSpline(1, intervals=2, order=1)(torch.tensor([[0.5]]))[0, :, 0]
    tensor([0.0000, 0.5000, 0.5000])
    """

    knots: Tensor
    scale: Tensor  # (2, inputs): where the first interval begins, intervals in a unit; one row is read without gaps

    def __init__(self, inputs: int, *, intervals: int = 5, order: int = 3, low: float = -1.0, high: float = 1.0):
        super().__init__()
        for name, size, least in (("inputs", inputs, 1), ("intervals", intervals, 1), ("order", order, 0)):
            check_whole(name, size, least)
        if not low < high:
            raise UsageError(f"the grid goes from {low} to {high}; its first end has to lie below the second")
        self.inputs, self.intervals, self.order = inputs, intervals, order
        steps = torch.arange(-order, intervals + order + 1, dtype=torch.float64)
        self.register_buffer("knots", (low + (high - low) * steps / intervals).repeat(inputs, 1))
        ends = torch.tensor([[low], [intervals / (high - low)]], dtype=torch.float64)
        self.register_buffer("scale", ends.repeat(1, inputs), persistent=False)
        self.even = True

    @property
    def size(self) -> int:
        """How many functions each input has."""
        return self.intervals + self.order

    @property
    def smooth(self) -> int:
        """How many continuous derivatives they have."""
        return self.order - 1

    def set_knots(self, knots: Tensor) -> None:
        """Take other knots (inputs, G + 2 p + 1).

        Raises:
            UsageError: another shape, numbers that are not finite, or knots that do not increase.
        """
        if knots.shape != self.knots.shape:
            raise UsageError(f"knots have shape {tuple(knots.shape)}; legal is {tuple(self.knots.shape)}")
        if not bool(knots.isfinite().all()):
            raise UsageError("knots hold numbers that are not finite")
        if not bool((knots.diff(dim=1) > 0).all()):
            where = int((knots.diff(dim=1) <= 0).any(1).nonzero()[0])
            raise UsageError(f"the knots of input {where} do not increase; a knot that is repeated has no interval")
        self.knots.copy_(knots)
        self._settle()

    def forward(self, x: Tensor) -> Tensor:
        """Return the functions at x."""
        if self.even and self.order == 3:
            wide = self.size > WIDE and not torch.compiler.is_compiling()
            return self._scattered(x) if wide else self._cubes(x, 0)
        return self._recursion(x, self.order)

    def taylor(self, x: Tensor) -> Taylor:
        """Return the functions and their first and second derivatives at x, (N, G + p, inputs) each."""
        if self.even and self.order == 3:
            return self._cubes(x, 0), self._cubes(x, 1), self._cubes(x, 2)
        return self._recursion(x, self.order), self._derivative(x, self.order, 1), self._derivative(x, self.order, 2)

    def mean_square(self) -> float:
        """Return the sum over the functions of their mean square on a uniform grid."""
        x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        like = BSpline(1, intervals=self.intervals, order=self.order, low=0.0, high=1.0).double()
        return float(like(x).square().mean(0).sum())

    def _cubes(self, x: Tensor, times: int) -> Tensor:
        start, rate = self.scale.to(x)
        found = _pieces((x - start) * rate, self.size, times)
        return found * rate**times if times else found

    def _scattered(self, x: Tensor) -> Tensor:
        """Write the four functions that are not 0 into their places: half the arithmetic, where nothing is fused."""
        start, rate = self.scale.to(x)
        u = (x - start) * rate
        cell = u.detach().floor()
        t = u - cell
        s, t2 = 1 - t, t * t
        t3 = t2 * t
        parts = torch.stack([s * s * s, 3 * t3 - 6 * t2 + 4, 3 * (t + t2 - t3) + 1, t3], 1) / 6  # (N, 4, inputs)
        places = cell.clamp(-4, self.size).long()[:, None] + torch.arange(4, device=x.device)[:, None]
        inside = (places >= 0) & (places < self.size)
        out = x.new_zeros(len(x), self.size, x.shape[1])
        return out.scatter_add(1, places.clamp(0, self.size - 1), parts * inside)

    def _recursion(self, x: Tensor, order: int) -> Tensor:
        """Return the B-splines of an order on all knots, (N, knots - order - 1, inputs)."""
        t = self.knots.to(x).T  # (knots, inputs)
        x = x[:, None]
        found = ((t[:-1] <= x) & (x < t[1:])).to(x)
        for p in range(1, order + 1):
            wide = t[p:-1] - t[: -p - 1], t[p + 1 :] - t[1:-p]
            found = (x - t[: -p - 1]) / wide[0] * found[:, :-1] + (t[p + 1 :] - x) / wide[1] * found[:, 1:]
        return found

    def _derivative(self, x: Tensor, order: int, times: int) -> Tensor:
        if times == 0:
            return self._recursion(x, order)
        t = self.knots.to(x).T
        if order == 0:
            return x.new_zeros(len(x), len(t) - 1, x.shape[1])
        below = self._derivative(x, order - 1, times - 1)
        p = order
        return p * (below[:, :-1] / (t[p:-1] - t[: -p - 1]) - below[:, 1:] / (t[p + 1 :] - t[1:-p]))

    def _settle(self) -> None:
        """Note what follows from the knots."""
        gaps = self.knots.double().diff(dim=1)
        mean = gaps.mean(1, keepdim=True)
        self.even = bool((gaps - mean).abs().max() <= 1e-5 * gaps.max())
        self.scale.copy_(torch.stack([self.knots[:, self.order], 1 / mean[:, 0]]))

    def _apply(self, fn: Any, recurse: bool = True) -> BSpline:
        kept = self.knots, self.scale
        super()._apply(fn, recurse)
        self.knots, self.scale = (each.to(self.knots.device) for each in kept)
        return self

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._settle()


def _pieces(u: Tensor, size: int, times: int) -> Tensor:
    """Return the cubic B-splines at u (N, inputs), one interval a unit, or a derivative: (N, size, inputs)."""
    found: Tensor = (_Cubes if torch.compiler.is_compiling() else _Forward).apply(u, size, times)
    return found


class _Cubes(torch.autograd.Function):
    """The backward pass reads u alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, size: int, times: int) -> Tensor:
        a = u[:, None] - torch.arange(-1, size - 1, device=u.device, dtype=u.dtype)[:, None]
        if times > 3:
            return torch.zeros_like(a)
        far = a.abs() if times % 2 else a.abs_()  # in place from here on: new memory costs more than arithmetic
        two, one = far.clamp_max(2).sub_(2), far.clamp_max_(1).sub_(1)
        for part in (two, one):
            part.pow_(3 - times) if times < 3 else part.sign_()
        found = two.sub_(one, alpha=4).mul_((-1 / 6, -1 / 2, -1, 1)[times])
        return found.mul_(a.sign_()) if times % 2 else found

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.size, ctx.times = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return (grad * _pieces(u, ctx.size, ctx.times + 1)).sum(1), None, None


class _Forward(_Cubes):
    """Forward mode too, which the compiler refuses."""

    @staticmethod
    def jvp(ctx, dot: Tensor, *_):  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return dot[:, None] * _pieces(u, ctx.size, ctx.times + 1)
