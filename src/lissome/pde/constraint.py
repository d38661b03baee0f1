r"""Networks that meet boundary and initial values exactly: u = lift + factor * network.

With phi the factor, L the lift and v the network,

    u_i            = L_i + phi_i v + phi v_i
    sum w_i u_ii   = sum w_i L_ii + phi sum w_i v_ii + 2 sum (w_i phi_i) v_i + v sum w_i phi_ii

so each second-order row costs the network one more tangent, along w * grad phi.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lissome.calculus.nested import Derivatives
from lissome.pde.domain import Domain, points
from lissome.pde.field import Points, closed_form

Lift = Callable[[Points], Tensor]


class Constrained(nn.Module):
    """u = lift + factor * network(features), the two latter optional; (N, D) -> (N, 1).

    Args:
        network: maps (N, K of the features, or D) -> (N, 1).
        domain: gives the factor.
        lift: the values to be met, smooth inside, or None for 0.
        initial: order to which the factor vanishes at the first time; 0 leaves initial values free.
        features: a map of points to the network's inputs, or None.
        radial: the lift depends on x by |x| alone.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        domain: Domain,
        lift: Lift | None = None,
        initial: int = 0,
        features: nn.Module | None = None,
        radial: bool = False,
    ):
        super().__init__()
        self.network = network
        self.features = features
        self.domain = domain
        self.lift = lift
        self.initial = initial
        self.radial = radial
        self._inner = (network if features is None else Composed(features, network),)  # a tuple: counted once
        self._lifted: tuple[Any, ...] = (None,)  # key, the points it names, derivatives

    @property
    def inner(self) -> nn.Module:
        """The network with its features, without lift and factor."""
        return self._inner[0]

    @property
    def free(self) -> bool:
        """Whether the factor is 1 everywhere, as on a periodic box whose initial values are left free."""
        return self.domain.periodic and not self.initial

    def forward(self, z: Tensor) -> Tensor:
        """Return u at points z (N, D), shape (N, 1)."""
        v = self.inner(z)
        if not self.free:
            v = self.domain.factor(z, (), (), None, self.initial).value[:, None] * v
        return v if self.lift is None else v + self.lift(points(self.domain, z))[:, None]

    def forget(self) -> None:
        """Forget the lift of the last batch, as must be done where its family becomes another member."""
        self._lifted = (None,)

    def derive(
        self, z: Tensor, first: Any, second: Any, along: Tensor | None, recurse: Callable[..., Derivatives]
    ) -> Derivatives:
        """Return derivatives by the product rule; `recurse` differentiates the network."""
        u = (
            recurse(self.inner, z, first, second, along)
            if self.free
            else self._product(z, first, second, along, recurse)
        )
        if self.lift is None:
            return u
        known = self._lift(z, first, second, along)
        return Derivatives(u.value + known.value, u.first + known.first, u.second + known.second, u.along + known.along)

    def _product(
        self, z: Tensor, first: Any, second: Any, along: Tensor | None, recurse: Callable[..., Derivatives]
    ) -> Derivatives:
        phi = self.domain.factor(z, tuple(range(z.shape[1])), second, along, self.initial)
        directions = [phi.first.T * z.new_tensor(row) for row in second]  # (N, D) each
        asked = list(along) if along is not None else []
        tangents = torch.stack(asked + directions) if asked + directions else None  # (a + m, N, D)
        v = recurse(self.inner, z, first, second, tangents)
        a = len(asked)
        return Derivatives(
            phi.value * v.value,
            phi.first[list(first)] * v.value + phi.value * v.first,
            phi.value * v.second + 2 * v.along[a:] + phi.second * v.value,
            phi.along * v.value + phi.value * v.along[:a],
        )

    def _lift(self, z: Tensor, first: Any, second: Any, along: Tensor | None) -> Derivatives:
        """Differentiate the lift, once for each batch: it has no parameters."""
        assert self.lift is not None
        if torch.compiler.is_compiling():  # a captured batch must not be remembered
            return closed_form(self.lift, points(self.domain, z), first, second, along, radial=self.radial)
        key = (id(z), z._version, second)
        if self._lifted[0] != key:
            whole = tuple(range(z.shape[1]))
            found = closed_form(self.lift, points(self.domain, z), whole, second, radial=self.radial)
            self._lifted = (key, z, found)  # holding z keeps its id its own
        found = self._lifted[2]
        alongs = (along * found.first.T).sum(2) if along is not None else found.first[:0]
        return Derivatives(found.value, found.first[list(first)], found.second, alongs)


class Composed(nn.Module):
    """network(features(z))."""

    def __init__(self, features: nn.Module, network: nn.Module):
        super().__init__()
        self.features = features
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Return the network's output (N, 1) at points z (N, D)."""
        return self.network(self.features(z))

    def chain(self) -> list[nn.Module]:
        """Return the two parts, for one-pass derivatives."""
        return [self.features, self.network]


class Periodic(nn.Module):
    """(t, x) -> (t, cos 2 pi (x - low) / length, sin ...): inputs in which every function is periodic.

    Written as a fixed linear map and an activation, so that derivatives go through in one pass.
    """

    def __init__(self, low: float, high: float, timed: bool):
        super().__init__()
        self.outputs = int(timed) + 2
        omega = 2 * math.pi / (high - low)
        weight = torch.zeros(self.outputs, int(timed) + 1, dtype=torch.float64)
        weight[: int(timed), 0] = 1.0
        weight[-2:, -1] = omega
        bias = torch.zeros(self.outputs, dtype=torch.float64)
        bias[-2:] = -omega * low
        self.linear = nn.Linear(int(timed) + 1, self.outputs)
        del self.linear.weight, self.linear.bias
        self.linear.register_buffer("weight", weight, persistent=False)  # fixed: no optimizer and no file sees it
        self.linear.register_buffer("bias", bias, persistent=False)
        self.waves = Waves()

    def forward(self, z: Tensor) -> Tensor:
        """Return the inputs (N, 2 or 3) at points z."""
        return self.waves(self.linear(z))

    def chain(self) -> list[nn.Module]:
        """Return the two parts, for one-pass derivatives."""
        return [self.linear, self.waves]


class Waves(nn.Module):
    """The last two columns by cosine and sine, the others as they are."""

    def forward(self, a: Tensor) -> Tensor:
        """Return the columns, (N, K)."""
        return torch.cat([a[:, :-2], torch.cos(a[:, -2:-1]), torch.sin(a[:, -1:])], 1)

    def taylor(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, first and second derivative at a."""
        plain, c, s = a[:, :-2], torch.cos(a[:, -2:]), torch.sin(a[:, -2:])
        return (
            torch.cat([plain, c[:, :1], s[:, 1:]], 1),
            torch.cat([torch.ones_like(plain), -s[:, :1], c[:, 1:]], 1),
            torch.cat([torch.zeros_like(plain), -c[:, :1], -s[:, 1:]], 1),
        )
