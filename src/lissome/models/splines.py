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

from lissome._errors import UsageError
from lissome.models.sizes import check_whole

Taylor = tuple[Tensor, Tensor, Tensor]


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

    def __init__(self, inputs: int, *, intervals: int = 5, order: int = 3, low: float = -1.0, high: float = 1.0):
        super().__init__()
        for name, size, least in (("inputs", inputs, 1), ("intervals", intervals, 1), ("order", order, 0)):
            check_whole(name, size, least)
        if not low < high:
            raise UsageError(f"the grid goes from {low} to {high}; its first end has to lie below the second")
        self.inputs, self.intervals, self.order = inputs, intervals, order
        steps = torch.arange(-order, intervals + order + 1, dtype=torch.float64)
        self.register_buffer("knots", (low + (high - low) * steps / intervals).repeat(inputs, 1))
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
        self.even = self._is_even()

    def forward(self, x: Tensor) -> Tensor:
        """Return the functions at x."""
        if self.even and self.order == 3:
            return self._cubes(x) if torch.compiler.is_compiling() else self._scattered(x)
        return self._recursion(x, self.order)

    def taylor(self, x: Tensor) -> Taylor:
        """Return the functions and their first and second derivatives at x, (N, G + p, inputs) each."""
        if self.even and self.order == 3:
            u, h = self._scaled(x)
            a = u[:, None] - torch.arange(-1, self.intervals + 2, device=x.device, dtype=x.dtype)[:, None]
            sign, two, one = a.sign(), torch.relu(2 - a.abs()), torch.relu(1 - a.abs())
            return (
                (two**3 - 4 * one**3) / 6,
                sign * (2 * one * one - two * two / 2) / h,
                (two - 4 * one) / (h * h),
            )
        return self._recursion(x, self.order), self._derivative(x, self.order, 1), self._derivative(x, self.order, 2)

    def mean_square(self) -> float:
        """Return the sum over the functions of their mean square on a uniform grid."""
        x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        like = BSpline(1, intervals=self.intervals, order=self.order, low=0.0, high=1.0).double()
        return float(like(x).square().mean(0).sum())

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x in spacings from the first end of the grid, and the spacings (inputs,)."""
        knots = self.knots.to(x)
        h = (knots[:, -1] - knots[:, 0]) / (knots.shape[1] - 1)
        return (x - knots[:, self.order]) / h, h

    def _cubes(self, x: Tensor) -> Tensor:
        u, _ = self._scaled(x)
        a = (u[:, None] - torch.arange(-1, self.intervals + 2, device=x.device, dtype=x.dtype)[:, None]).abs()
        two, one = torch.relu(2 - a), torch.relu(1 - a)
        return (two * two * two - 4 * one * one * one) / 6

    def _scattered(self, x: Tensor) -> Tensor:
        """Write the four functions that are not 0 into their places: half the arithmetic, where nothing is fused."""
        u, _ = self._scaled(x)
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

    def _is_even(self) -> bool:
        gaps = self.knots.double().diff(dim=1)
        return bool((gaps - gaps.mean(1, keepdim=True)).abs().max() <= 1e-5 * gaps.max())

    def _apply(self, fn: Any, recurse: bool = True) -> BSpline:
        kept = self.knots
        super()._apply(fn, recurse)
        self.knots = kept.to(self.knots.device)
        return self

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self.even = self._is_even()
