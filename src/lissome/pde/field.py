"""What an operator reads: a field's value and derivatives at points, and which of them it needs.

An operator is a plain function of a `Field`. It is run once on a recorder that writes down what is
read; then exactly those derivatives are computed, in one call of `calculus.jets.derivatives`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus import Derivatives
from lissome.calculus.nested import nested

OPAQUE = "its values cannot be differentiated: write it in torch functions of p, outside torch.no_grad"
CHUNK = 8192  # points of a formula differentiated at once
SMALLEST_RADIUS = 1e-6  # |x| is kept above it, since cones and |x|^3 are differentiated


@dataclass(frozen=True)
class Points:
    """Points z of shape (N, D): column 0 is t where the domain has time, the others are x.

    >>> p = Points(torch.tensor([[0.5, 3.0, 4.0]]), timed=True)
    >>> p.t, p.x, p.r
    (tensor([0.5000]), tensor([[3., 4.]]), tensor([5.]))
    """

    z: Tensor
    timed: bool

    @property
    def t(self) -> Tensor:
        """Times (N,)."""
        if not self.timed:
            raise UsageError("p.t is read, but the domain has no time: give it time=(start, end)")
        return self.z[:, 0]

    @property
    def x(self) -> Tensor:
        """Places (N, d)."""
        return self.z[:, 1:] if self.timed else self.z

    @property
    def r(self) -> Tensor:
        """Distances |x| from the centre (N,), at least 1e-6, where the gradient is 0 in place of NaN."""
        return self.x.square().sum(1).clamp_min(SMALLEST_RADIUS**2).sqrt()

    def at_time(self, t: float) -> Points:
        """Return the same places at one time."""
        return Points(torch.cat([torch.full_like(self.z[:, :1], t), self.x], 1), True) if self.timed else self


@dataclass(frozen=True)
class Needs:
    """Which derivatives an operator reads, in the words of `calculus.jets.derivatives`."""

    first: tuple[int, ...] = ()
    second: tuple[tuple[float, ...], ...] = ()
    along: int = 0


@dataclass(frozen=True)
class Field:
    """A function u seen by an operator: its value and derivatives at N points, all of shape (N,) unless said.

    Args:
        read: gives ("value", None), ("first", coordinate), ("second", weight row), ("along", direction).
        dimension: d, the number of space coordinates.
        timed: whether coordinate 0 of the points is time.
    """

    read: Callable[[str, object], Tensor]
    dimension: int
    timed: bool

    @property
    def value(self) -> Tensor:
        """Values u."""
        return self.read("value", None)

    @property
    def dt(self) -> Tensor:
        """Time derivative u_t."""
        return self.read("first", self._time("dt"))

    @property
    def dtt(self) -> Tensor:
        """Second time derivative u_tt."""
        return self._second({self._time("dtt")})

    @property
    def dx(self) -> Tensor:
        """Gradient in space, (N, d)."""
        return torch.stack([self.d(i) for i in range(self.dimension)], 1)

    @property
    def laplacian(self) -> Tensor:
        """Sum of the second derivatives in space."""
        return self._second({i + self.timed for i in range(self.dimension)})

    def d(self, i: int) -> Tensor:
        """Return the derivative in space coordinate i."""
        return self.read("first", self._space(i))

    def dd(self, i: int) -> Tensor:
        """Return the second derivative in space coordinate i."""
        return self._second({self._space(i)})

    def along(self, direction: Tensor) -> Tensor:
        """Return the derivative along a direction in space (N, d), which may depend on the points but not on u.

        One product in any dimension, where `dx` asks for d of them.
        """
        if direction.ndim != 2 or direction.shape[1] != self.dimension:
            raise UsageError(f"a direction has shape {tuple(direction.shape)}; legal is (N, {self.dimension})")
        still = [direction.new_zeros(len(direction), 1)] if self.timed else []
        return self.read("along", torch.cat([*still, direction], 1))

    def _second(self, coordinates: set[int]) -> Tensor:
        return self.read("second", tuple(float(i in coordinates) for i in range(self.dimension + self.timed)))

    def _time(self, name: str) -> int:
        if not self.timed:
            raise UsageError(f"u.{name} is read, but the domain has no time: give it time=(start, end)")
        return 0

    def _space(self, i: int) -> int:
        if not 0 <= i < self.dimension:
            raise UsageError(
                f"coordinate {i} is read in {self.dimension} dimensions; legal are 0 to {self.dimension - 1}"
            )
        return i + self.timed


Operator = Callable[[Field, Points], Tensor]


@dataclass
class _Recorder:
    """Notes what is read and answers with the same mild number everywhere."""

    like: Tensor
    first: dict[int, None] = field(default_factory=dict)
    second: dict[tuple[float, ...], None] = field(default_factory=dict)
    directions: list[Tensor] = field(default_factory=list)

    def read(self, kind: str, key: object) -> Tensor:
        if kind == "first":
            self.first[key] = None  # type: ignore[index]
        elif kind == "second":
            self.second[key] = None  # type: ignore[index]
        elif kind == "along":
            self.directions.append(key)  # type: ignore[arg-type]
        return torch.full_like(self.like[:, 0], 0.5)


def record(operator: Operator, points: Points, dimension: int) -> tuple[Needs, Tensor | None]:
    """Return what an operator needs at these points, and its directions (N, a, D) or None if it has none.

    Raises:
        UsageError: the operator returns another shape than (N,).
    """
    recorder = _Recorder(points.z)
    operator(Field(recorder.read, dimension, points.timed), points)
    needs = Needs(tuple(recorder.first), tuple(recorder.second), len(recorder.directions))
    return needs, torch.stack(recorder.directions, 1) if recorder.directions else None


def apply(operator: Operator, points: Points, dimension: int, needs: Needs, found: Derivatives) -> Tensor:
    """Return the operator's values (N,) from derivatives that were computed for its `needs`."""
    firsts = {i: k for k, i in enumerate(needs.first)}
    seconds = {row: k for k, row in enumerate(needs.second)}
    alongs = iter(found.along)

    def read(kind: str, key: object) -> Tensor:
        if kind == "value":
            return found.value
        if kind == "along":
            return next(alongs)
        return found.first[firsts[key]] if kind == "first" else found.second[seconds[key]]  # type: ignore[index]

    return operator(Field(read, dimension, points.timed), points)


def closed_form(
    function: Callable[[Points], Tensor],
    points: Points,
    first: tuple[int, ...] = (),
    second: tuple[tuple[float, ...], ...] = (),
    along: Tensor | None = None,
    *,
    radial: bool = False,
) -> Derivatives:
    """Return derivatives of a formula by nested reverse mode, without a graph, also inside a transform of torch.func.

    A `radial` formula depends on x by |x| alone. It is then differentiated in r only, at any dimension's points for
    the price of one: u_ii = u_rr x_i^2 / r^2 + u_r (1 / r - x_i^2 / r^3).

    Raises:
        UsageError: its values vary and yet have no derivatives, being made outside torch or under no_grad.
    """
    if len(points.z) > CHUNK:
        parts = []
        for start in range(0, len(points.z), CHUNK):
            rows = slice(start, start + CHUNK)
            piece = along[:, rows] if along is not None else None
            parts.append(
                closed_form(function, Points(points.z[rows], points.timed), first, second, piece, radial=radial)
            )
        joined = (
            torch.cat([getattr(part, name) for part in parts], -1) for name in ("value", "first", "second", "along")
        )
        return Derivatives(*joined)

    def formula(z: Tensor) -> Tensor:
        try:
            value = function(Points(z, points.timed))
        except RuntimeError as error:
            if "storage" in str(error):  # numpy was asked to read a point
                raise UsageError(OPAQUE) from error
            raise
        # reverse mode would take it for a constant
        if not (torch.compiler.is_compiling() or value.requires_grad or bool((value == value[:1]).all())):
            raise UsageError(OPAQUE)
        return value

    with torch.no_grad():
        if not radial or points.x.shape[1] == 1:
            return nested(formula, points.z.detach(), first, second, along)
        return _radial(formula, points, first, second, along)


def _radial(formula: Callable[[Tensor], Tensor], points: Points, first, second, along) -> Derivatives:
    timed, x, r = points.timed, points.x.detach(), points.r.detach()
    flat = torch.cat([points.z[:, :1].detach(), r[:, None]], 1) if timed else r[:, None]  # (N, 1 or 2)
    rows = ((1.0, 0.0), (0.0, 1.0)) if timed else ((1.0,),)
    found = nested(formula, flat, tuple(range(len(rows))), rows, None)
    ur, urr = found.first[-1], found.second[-1]  # (N,)
    slope = ur / r
    bend = (urr - slope) / r.square()

    def curvature(row: tuple[float, ...]) -> Tensor:
        weights = x.new_tensor(row[timed:])
        out = slope * weights.sum() + bend * (x.square() @ weights)
        return out + row[0] * found.second[0] if timed and row[0] else out

    firsts = [found.first[0] if timed and i == 0 else slope * x[:, i - timed] for i in first]
    alongs = []
    for direction in along if along is not None else ():
        out = slope * (direction[:, timed:] * x).sum(1)
        alongs.append(out + direction[:, 0] * found.first[0] if timed else out)
    seconds = [curvature(row) for row in second]
    return Derivatives(
        found.value, *(torch.stack(rows) if rows else r.new_zeros(0, len(r)) for rows in (firsts, seconds, alongs))
    )


def rate(function: Callable[[Points], Tensor], points: Points) -> Tensor:
    """Return a formula's derivative in t (N,), in forward mode, so that it can be differentiated again."""
    t, x = points.z[:, :1], points.x
    return torch.func.jvp(lambda t: function(Points(torch.cat([t, x], 1), True)), (t,), (torch.ones_like(t),))[1]


def check_values(values: Any, z: Tensor, what: str = "it") -> Tensor:
    """Return values that a family's code gave at points z (N, D), if they are one finite number per point.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(values, Tensor) or values.shape != (len(z),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"{what} returned {got} for {len(z)} points; legal is one number per point, ({len(z)},)")
    if not bool(torch.isfinite(values).all()):
        worst = int((~torch.isfinite(values)).nonzero()[0])
        place = [round(number, 4) for number in z[worst].tolist()]
        raise UsageError(f"{what} is {float(values[worst])} at {place}")
    return values
