r"""How a Gauss-Newton step is damped: the linear systems of its rules, each solved for many dampings.

With a residual r (M,) and its Jacobian J (M, p) a rule's step from the point where it is centred is

    marquardt   -(J^T J + lam)^-1 J^T r,   lam the damping times the mean diagonal of J^T J
    cubic       argmin_u |r + J u|^2 + (sigma / 3) |u|^3,   sigma the damping itself

The cubic step obeys the first formula with lam = sigma |u| / 2. Where M < p the same numbers come from the M x M
system: (J^T J + lam)^-1 J^T = J^T (J J^T + lam)^-1.

References: K. Levenberg 1944, D. Marquardt 1963; the cubic term: C. Cartis, N. Gould, P. Toint 2011, doi
10.1007/s10107-009-0286-5, with sigma as in `control.interpolate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from scipy.linalg import get_blas_funcs
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome.optim.control import ACTS, LEAST
from lissome.optim.eigen import eigen
from lissome.optim.spectrum import Root, Spectrum

SYRK: dict[torch.dtype, Any] = {torch.float32: get_blas_funcs("syrk", dtype="f"), torch.float64: get_blas_funcs("syrk")}
TIGHT = 1e-14  # damping of `marquardt` is kept above it
PATIENCE = 4  # rejections after which `marquardt` takes longer strides: a far start may need a damping of 1e6
LEAP = 100.0  # the most that one rejection multiplies sigma by


@dataclass(frozen=True)
class Damping:
    """How steps are damped and accepted; the figures are those that trials on networks for equations settled.

    Attributes:
        rule: marquardt or cubic; `RULES` has the figures of each.
        start: the first damping of `marquardt`; the first sigma of `cubic` is so many times |2 J^T J|^2 / |2 J^T r|.
        shrink: what it is divided by when the loss falls by more than `good` of what the model promised.
        grow: what it is multiplied by when it falls by less than `poor`.
        retreat: what it is multiplied by, at least, when the step is rejected; by powers of it after many rejections.
        good: see `shrink`.
        poor: see `grow`.
        reject: the least part of the promise that is accepted.
        tries: solves with one Jacobian before the step is given up.
        momentum: the mu of `gauss_newton`, in [0, 1): how much of the step before a step keeps where J does not see.
        acceleration: whether the curve r_vv bends the step.
        probe: the h of r_vv.
        bend: the largest 2 |a| / |v| that is trusted.

    Raises:
        UsageError: a figure out of range.
    """

    rule: str = "marquardt"
    start: float = 1e-2
    shrink: float = 3.0
    grow: float = 2.0
    retreat: float = 4.0
    good: float = 0.75
    poor: float = 0.25
    reject: float = 1e-3
    tries: int = 12
    momentum: float = 0.9
    acceleration: bool = True
    probe: float = 0.1
    bend: float = 0.75

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = dict(start=0, good=0, poor=0, reject=0, probe=0, bend=0, shrink=1, grow=1, retreat=1, tries=1)
        for name, bound in least.items():
            value = getattr(self, name)
            if not (value > 0 and bound <= value < math.inf):
                legal = "a number above 0" if bound == 0 else "at least 1"
                raise UsageError(f"the damping's {name} is {value}; legal is {legal}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"the damping's momentum is {self.momentum}; legal is a number from 0 to below 1")


class System(Protocol):
    """A rule at one point: what it made of J answers for any damping and any residual."""

    def aim(self, r: Tensor, gradient: Tensor) -> None:
        """Take r (M,) for the residual, and J^T r (p,)."""
        ...

    def first(self) -> float:
        """Return the damping that begins."""
        ...

    def step(self, damping: float) -> Tensor | None:
        """Return u (p,), or None where rounding forbids it."""
        ...

    def pull(self, q: Tensor) -> Tensor:
        """Return (J^T J + lam)^-1 J^T q (p,) for q (M,), with the lam of the last step."""
        ...

    def charge(self, damping: float) -> float:
        """Return what the model adds to |r + J u|^2 for the last step."""
        ...

    def accepted(self, damping: float, rho: float) -> float:
        """Return the next damping after a step that brought `rho` of what was promised."""
        ...

    def rejected(self, damping: float, excess: float, before: int) -> float:
        """Return the next damping to try: |r|^2 is by `excess` above the model's, after so many rejections."""
        ...


class Marquardt:
    """(J^T J + lam m)^-1 J^T with m the mean diagonal of J^T J, by Cholesky's factor of the smaller product."""

    def __init__(self, J: Tensor, settings: Damping):
        self.J, self.settings = J, settings
        self.primal, self.product = _smaller(J)
        self.diagonal = self.product.diagonal().clone()
        self.mean = float(self.diagonal.sum()) / J.shape[1]
        self.factor: Tensor | None = None
        self.factored = math.nan  # the damping that the factor is of

    def aim(self, r: Tensor, gradient: Tensor) -> None:
        """Take r (M,) for the residual, and J^T r (p,)."""
        self.r, self.gradient = r, gradient

    def first(self) -> float:
        """Return the damping that begins."""
        return self.settings.start

    def step(self, damping: float) -> Tensor | None:
        """Return u (p,), or None where rounding has made the damped matrix indefinite."""
        if damping != self.factored:
            # in place: no second (p, p)
            self.product.diagonal().copy_(self.diagonal + damping * self.mean)
            factor, info = torch.linalg.cholesky_ex(self.product)
            if int(info) != 0:
                return None
            self.factor, self.factored = factor, damping
        return -(self._solve(self.gradient) if self.primal else self.pull(self.r))

    def pull(self, q: Tensor) -> Tensor:
        """Return (J^T J + lam m)^-1 J^T q (p,) for q (M,)."""
        return self._solve(self.J.mT @ q) if self.primal else self.J.mT @ self._solve(q)

    def charge(self, damping: float) -> float:
        """Return 0: the promise is that of the plain quadratic."""
        return 0.0

    def accepted(self, damping: float, rho: float) -> float:
        """Return the next damping."""
        if rho > self.settings.good:
            return max(damping / self.settings.shrink, TIGHT)
        return damping * self.settings.grow if rho < self.settings.poor else damping

    def rejected(self, damping: float, excess: float, before: int) -> float:
        """Return the next damping to try: the longer the row of rejections, the farther."""
        return damping * self.settings.retreat ** (1 + before // PATIENCE)

    def _solve(self, right: Tensor) -> Tensor:
        assert self.factor is not None
        return torch.cholesky_solve(right[:, None], self.factor)[:, 0]


class Cubic:
    """The minimiser of |r + J u|^2 + (sigma / 3) |u|^3, from the eigenvectors of the smaller of J^T J and J J^T.

    With J J^T = U w U^T and M < p the step lies in the span of J^T: u = -2 J^T U (2 w + lambda)^-1 U^T r, whose
    coordinates along the unit vectors J^T U / sqrt(w) are those of the problem with B = 2 w and g = 2 sqrt(w) U^T r.
    """

    def __init__(self, J: Tensor, settings: Damping):
        self.J, self.settings = J, settings
        self.primal, square = _smaller(J)
        values, self.vectors = eigen(square)  # of the lower triangle
        self.values = values.clamp_min(0.0)  # below it is rounding
        self.root: Root | None = None

    def aim(self, r: Tensor, gradient: Tensor) -> None:
        """Take r (M,) for the residual, and J^T r (p,)."""
        self.right = self.vectors.into(gradient if self.primal else r)  # (p,) or (M,)
        slope = self.right if self.primal else self.values.sqrt() * self.right
        self.spectrum = Spectrum(2 * self.values, 2 * slope, torch.finfo(slope.dtype).eps)

    def first(self) -> float:
        """Return the sigma that begins: scaling r, or the numbers that are moved, changes no step."""
        slope = float(self.spectrum.slope.norm())
        return max(self.settings.start * self.spectrum.norm**2 / slope, LEAST) if slope > 0 else 1.0

    def step(self, damping: float) -> Tensor:
        """Return u (p,)."""
        self.root = self.spectrum.cubic(damping)
        return -self._solve(self.right)

    def pull(self, q: Tensor) -> Tensor:
        """Return (J^T J + lam)^-1 J^T q (p,) for q (M,), lam half of the multiplier."""
        return self._solve(self.vectors.into(self.J.mT @ q if self.primal else q))

    def charge(self, damping: float) -> float:
        """Return (sigma / 3) |u|^3."""
        return damping / 3 * self._length() ** 3

    def accepted(self, damping: float, rho: float) -> float:
        """Return the next sigma; one that does not act is not lowered."""
        if rho > self.settings.good and self._share() > ACTS:
            return max(damping / self.settings.shrink, LEAST)
        return damping * self.settings.grow if rho < self.settings.poor else damping

    def rejected(self, damping: float, excess: float, before: int) -> float:
        """Return the sigma that would have foretold the excess, within bounds."""
        foretold, least = 3 * excess / max(self._length() ** 3, 1e-300), self.settings.retreat * damping
        return min(max(foretold, least), max(LEAP * damping, least))

    def _solve(self, coordinates: Tensor) -> Tensor:
        assert self.root is not None
        divided = coordinates / (self.values + self.root.multiplier / 2)
        # 0 / 0 is a direction that r does not see: stay
        pulled = self.vectors.back(torch.where(coordinates == 0, 0.0, divided))
        return pulled if self.primal else self.J.mT @ pulled

    def _length(self) -> float:
        assert self.root is not None
        return float(self.root.y.norm())

    def _share(self) -> float:
        """Return the part of the cubic term in the step, in [0, 1]."""
        assert self.root is not None
        slope = float(self.spectrum.slope @ self.root.y)
        return self.root.multiplier * self._length() ** 2 / -slope if slope < 0 else 1.0  # (B + lambda) y = -c


SYSTEMS: dict[str, Callable[[Tensor, Damping], System]] = {"marquardt": Marquardt, "cubic": Cubic}
# the figures of `cubic` are those of ARC; see control.interpolate
RULES: dict[str, Damping] = {
    "marquardt": Damping(),
    "cubic": Damping("cubic", shrink=2.0, grow=1.0, retreat=3.0, good=0.9),
}


def _smaller(J: Tensor) -> tuple[bool, Tensor]:
    """Return whether J^T J is the smaller product, and the lower triangle of the smaller."""
    primal = J.shape[1] <= J.shape[0]
    square = product(J, rows=not primal)
    if not torch.isfinite(square.diagonal()).all():  # no entry is larger than the diagonal's
        raise RunError("the square of the Jacobian is not finite; scale the residual, or use float64")
    return primal, square


def product(J: Tensor, *, rows: bool = False) -> Tensor:
    """Return the lower triangle of J^T J (p, p), or of J J^T (M, M), from J (M, p); the upper one may hold anything.

    On a CPU by the library's symmetric product, half of the operations: 53 ms in place of 120 (3,000 x 941, float64,
    one thread).
    """
    if J.device.type != "cpu" or J.dtype not in SYRK:
        return J @ J.mT if rows else J.mT @ J
    # J by rows is J^T by columns, and an upper triangle by columns the lower one by rows
    return torch.from_numpy(SYRK[J.dtype](1.0, J.contiguous().numpy().T, trans=int(rows)).T)
