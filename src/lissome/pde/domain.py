"""Where an equation lives: a ball or a box, with or without time; its points and its distance factor.

Points are (n, D) in float64: column 0 is t where there is time. A distance factor is positive inside and
vanishes on the boundary (and with `initial`, to that order, at the first time); its derivatives are written
out, since a network is multiplied by it in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus.nested import Derivatives
from lissome.pde.field import SMALLEST_RADIUS, Points
from lissome.pde.sampling import check_draw, unit

Time = tuple[float, float] | None
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Ball:
    """The ball |x| < radius in `dimension` coordinates, times an interval of time if given.

    Draws: `uniform` in the ball; `published`, with the radius uniform in [0, radius] (SVD-PINNs, arXiv 2211.08760),
    which puts most points near the centre; `mixed`, half of each; `sobol` and `latin`, evenly spread and uniform.
    """

    dimension: int
    radius: float = 1.0
    time: Time = None

    periodic = False

    def __post_init__(self):
        if not 0 < self.radius < math.inf:
            raise UsageError(f"a ball of radius {self.radius} is empty or endless; legal is a finite number above 0")
        _check_time(self.time)

    @property
    def coordinates(self) -> int:
        """D, with time."""
        return self.dimension + (self.time is not None)

    def interior(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points inside, (n, D)."""
        cube = unit(n, self.coordinates + 1, generator, check_draw(draw))
        t, cube = _split(cube, self.time)
        return torch.cat([t, self._radius(cube[:, :1], draw) * _direction(cube[:, 1:])], 1)

    def boundary(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points of the sphere, uniform in direction and time, (n, D)."""
        t, cube = _split(unit(n, self.coordinates, generator, check_draw(draw)), self.time)
        return torch.cat([t, self.radius * _direction(cube)], 1)

    def initial(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points inside at the first time, (n, D)."""
        cube = unit(n, self.dimension + 1, generator, check_draw(draw))
        return _at_start(self._radius(cube[:, :1], draw) * _direction(cube[:, 1:]), self.time)

    def contains(self, z: Tensor) -> Tensor:
        """Say of each point whether it lies in the closed domain, (N,)."""
        t, x = _split_points(z, self.time)
        return _in_time(t, self.time) & (x.norm(dim=1) <= self.radius * (1 + 1e-12))

    def centre(self) -> tuple[float, ...]:
        """Return the middle, D numbers."""
        return (*_middle(self.time), *([0.0] * self.dimension))

    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the least and the greatest of each coordinate, D numbers each."""
        sides = (self.radius,) * self.dimension
        return _with_time(tuple(-side for side in sides), sides, self.time)

    def slice(self, n: int) -> tuple[Tensor, Tensor]:
        """Return a line through the middle at the last time: its coordinate (n,) and points (n, D)."""
        s = torch.linspace(-self.radius, self.radius, n, dtype=torch.float64)
        z = torch.zeros(n, self.coordinates, dtype=torch.float64)
        z[:, int(self.time is not None)] = s
        if self.time is not None:
            z[:, 0] = self.time[1]
        return s, z

    def factor(
        self, z: Tensor, first: tuple[int, ...], second: Rows, along: Tensor | None, initial: int = 0
    ) -> Derivatives:
        """Return (1 - |x|^2 / radius^2) (t - t0)^initial and its derivatives at z (N, D)."""
        timed, scale = int(self.time is not None), self.radius**2
        x = z[:, timed:]
        phi = 1 - x.square().sum(1) / scale  # (N,)
        g = [_power(z[:, 0], self.time, initial)] if timed else [_constant(phi)]
        gradient = torch.cat([(g[0][1] * phi)[:, None]] * timed + [(-2 / scale) * g[0][0][:, None] * x], 1)  # (N, D)
        seconds = []
        for row in second:
            out = (-2 / scale) * sum(row[timed:]) * g[0][0]
            seconds.append(out + row[0] * g[0][2] * phi if timed else out)
        return _collect(phi * g[0][0], gradient, first, seconds, along)

    def _radius(self, u: Tensor, draw: str) -> Tensor:
        even = u ** (1 / self.dimension)
        if draw == "published":
            even = u
        elif draw == "mixed":  # interleaved, so that every part of a batch has both laws
            even = torch.where(torch.arange(len(u), device=u.device)[:, None] % 2 == 0, u, even)
        return self.radius * even.clamp_min(SMALLEST_RADIUS)


@dataclass(frozen=True)
class Box:
    """A box with corners `low` and `high` (one number each per coordinate), times an interval of time if given.

    `periodic` (one coordinate only) glues its two ends together.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    time: Time = None
    periodic: bool = False

    def __post_init__(self):
        if len(self.low) != len(self.high) or not all(map(_ascend, self.low, self.high)):
            raise UsageError(
                f"a box from {self.low} to {self.high} is empty or endless; "
                "legal is low < high, both finite, in every coordinate"
            )
        if self.periodic and len(self.low) != 1:
            raise UsageError(f"a periodic box has {len(self.low)} coordinates; legal is 1")
        _check_time(self.time)

    @property
    def dimension(self) -> int:
        """d, without time."""
        return len(self.low)

    @property
    def coordinates(self) -> int:
        """D, with time."""
        return self.dimension + (self.time is not None)

    def interior(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points inside, (n, D)."""
        t, cube = _split(unit(n, self.coordinates, generator, check_draw(draw)), self.time)
        return torch.cat([t, self._place(cube)], 1)

    def boundary(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points of the faces, uniform by area; of a periodic box, the low end alone, (n, D)."""
        t, cube = _split(unit(n, self.coordinates + 1, generator, check_draw(draw)), self.time)
        x = self._place(cube[:, 1:])
        lengths = [b - a for a, b in zip(self.low, self.high, strict=True)]
        areas = torch.tensor([1 / length for length in lengths for _ in (0, 1)], dtype=torch.float64, device=x.device)
        edges = (areas.cumsum(0) / areas.sum())[:-1].contiguous()
        face = (
            torch.zeros_like(cube[:, 0], dtype=torch.long)
            if self.periodic
            else torch.bucketize(cube[:, 0].contiguous(), edges)
        )
        ends = x.new_tensor([end for pair in zip(self.low, self.high, strict=True) for end in pair])
        return torch.cat([t, x.scatter(1, (face // 2)[:, None], ends[face][:, None])], 1)

    def initial(self, n: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
        """Return n points inside at the first time, (n, D)."""
        return _at_start(self._place(unit(n, self.dimension, generator, check_draw(draw))), self.time)

    def opposite(self, z: Tensor) -> Tensor:
        """Return the points that a periodic box glues to those of its low end, (N, D)."""
        return torch.cat([z[:, :-1], torch.full_like(z[:, -1:], self.high[0])], 1)

    def contains(self, z: Tensor) -> Tensor:
        """Say of each point whether it lies in the closed domain, (N,)."""
        t, x = _split_points(z, self.time)
        return _in_time(t, self.time) & ((x >= x.new_tensor(self.low)) & (x <= x.new_tensor(self.high))).all(1)

    def centre(self) -> tuple[float, ...]:
        """Return the middle, D numbers."""
        return (*_middle(self.time), *((a + b) / 2 for a, b in zip(self.low, self.high, strict=True)))

    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the least and the greatest of each coordinate, D numbers each."""
        return _with_time(self.low, self.high, self.time)

    def slice(self, n: int) -> tuple[Tensor, Tensor]:
        """Return a line along the first coordinate, off the middle of the others, at the last time: (n,) and (n, D)."""
        s = torch.linspace(self.low[0], self.high[0], n, dtype=torch.float64)
        others = [torch.full_like(s, a + 0.3 * (b - a)) for a, b in zip(self.low[1:], self.high[1:], strict=True)]
        times = [torch.full_like(s, self.time[1])] if self.time is not None else []
        return s, torch.stack([*times, s, *others], 1)

    def factor(
        self, z: Tensor, first: tuple[int, ...], second: Rows, along: Tensor | None, initial: int = 0
    ) -> Derivatives:
        """Return (t - t0)^initial prod_i 4 (x_i - low_i)(high_i - x_i) / (high_i - low_i)^2 and its derivatives."""
        timed = int(self.time is not None)
        parts = [_power(z[:, 0], self.time, initial)] if timed else []
        for i, (a, b) in enumerate(zip(self.low, self.high, strict=True)):
            s, scale = z[:, timed + i], 4 / (b - a) ** 2
            whole = (scale * (s - a) * (b - s), scale * (a + b - 2 * s), torch.full_like(s, -2 * scale))
            parts.append(_constant(s) if self.periodic else whole)
        value, d1, d2 = (torch.stack(column, 1) for column in zip(*parts, strict=True))  # (N, D) each
        before = torch.cat([torch.ones_like(value[:, :1]), value[:, :-1].cumprod(1)], 1)
        after = torch.cat([value[:, 1:].flip(1).cumprod(1).flip(1), torch.ones_like(value[:, :1])], 1)
        rest = before * after  # the product of all others, without dividing by a zero
        seconds = [(d2 * rest) @ z.new_tensor(row) for row in second]
        return _collect(value.prod(1), d1 * rest, first, seconds, along)

    def _place(self, cube: Tensor) -> Tensor:
        low, high = cube.new_tensor(self.low), cube.new_tensor(self.high)
        return low + (high - low) * cube


Domain = Ball | Box


def points(domain: Domain, z: Tensor) -> Points:
    """Return z as points that know whether they have time."""
    return Points(z, domain.time is not None)


def _check_time(time: Time) -> None:
    if time is not None and not _ascend(*time):
        raise UsageError(f"the time {time} is empty or endless; legal is (start, end) with start < end, both finite")


def _ascend(low: float, high: float) -> bool:
    return -math.inf < low < high < math.inf


def _direction(cube: Tensor) -> Tensor:
    normal = torch.special.ndtri(cube)
    return normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-300)


def _split(cube: Tensor, time: Time) -> tuple[Tensor, Tensor]:
    """Cut times (n, 1 or 0) off numbers of the unit cube."""
    if time is None:
        return cube[:, :0], cube
    return time[0] + (time[1] - time[0]) * cube[:, :1], cube[:, 1:]


def _split_points(z: Tensor, time: Time) -> tuple[Tensor | None, Tensor]:
    return (None, z) if time is None else (z[:, 0], z[:, 1:])


def _in_time(t: Tensor | None, time: Time) -> Tensor:
    return torch.tensor(True) if t is None or time is None else (t >= time[0]) & (t <= time[1])


def _at_start(x: Tensor, time: Time) -> Tensor:
    if time is None:
        raise UsageError("initial points are asked of a domain that has no time: give it time=(start, end)")
    return torch.cat([torch.full_like(x[:, :1], time[0]), x], 1)


def _with_time(
    low: tuple[float, ...], high: tuple[float, ...], time: Time
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (low, high) if time is None else ((time[0], *low), (time[1], *high))


def _middle(time: Time) -> tuple[float, ...]:
    return () if time is None else ((time[0] + time[1]) / 2,)


def _constant(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)


def _power(t: Tensor, time: Time, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ((t - t0) / length)^order with two derivatives, scaled so that the factor is at most 1."""
    if order == 0:
        return _constant(t)
    assert time is not None
    length = time[1] - time[0]
    s = (t - time[0]) / length
    second = math.perm(order, 2) * s ** (order - 2) / length**2 if order > 1 else torch.zeros_like(t)
    return s**order, order * s ** (order - 1) / length, second


def _collect(value: Tensor, gradient: Tensor, first, seconds: list[Tensor], along: Tensor | None) -> Derivatives:
    empty = value.new_zeros(0, len(value))
    firsts = gradient[:, list(first)].T if first else empty
    alongs = (along * gradient).sum(2) if along is not None and len(along) else empty
    return Derivatives(value, firsts, torch.stack(seconds) if seconds else empty, alongs)
