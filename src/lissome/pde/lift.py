"""From boundary and initial values to one function that has them all: the lift of a hard constraint."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.pde.domain import Ball, Box, points
from lissome.pde.family import Family
from lissome.pde.field import Points, check_values, rate
from lissome.pde.registry import guard

ZERO = 1e-10  # data below it are rounding
MOST = 3  # blending the faces of a box takes 3^d values
Lift = Callable[[Points], Tensor]


def boundary_lift(family: Family) -> Lift | None:
    """Return a function with the family's boundary values, or None for 0.

    0 on a periodic box; the family's own `lift`, if it has one; 0 where the values vanish; else, in a box of up to
    three dimensions, the blend of its faces (boolean sum of linear interpolations; W. J. Gordon 1971).

    Raises:
        UsageError: the values do not vanish and there is no lift, or the family's own misses them.
    """
    domain = family.domain()
    if domain.periodic:
        return None
    p = points(domain, domain.boundary(256, torch.Generator().manual_seed(0)))
    values, own = family.data(p), own_lift(family, p)
    if own is not None:
        with guard(family, "lift"):
            miss = float((own(p) - values).abs().max())
            if miss > 1e-6 * (1 + float(values.abs().max())):
                raise UsageError(f"it misses the boundary values by {miss:.2g}")
        return own
    if float(values.abs().max()) < ZERO:
        return None
    if isinstance(domain, Ball) or domain.dimension > MOST:
        raise UsageError(
            f"family '{family.name}' has boundary values up to {float(values.abs().max()):.2g} and no "
            "lift(p) that has them inside, which a hard constraint needs: take constraint 'soft'"
        )
    return lambda p: _blend(domain, family.data, p)


def own_lift(family: Family, p: Points) -> Lift | None:
    """Return the family's own lift, tried at some points, or None if it has none."""
    with guard(family, "lift"), torch.no_grad():
        values = family.lift(p)
        if values is not None:
            check_values(values, p.z)
    return None if values is None else family.lift  # type: ignore[return-value]


def whole_lift(family: Family) -> Lift:
    """Return a function with the family's boundary and initial values.

    It is G(t, x) + u0(x) - G(t0, x), with G the boundary's, on a periodic box the family's own. In second order in
    time, + (t - t0) (v0(x) - G_t(t0, x)).
    """
    domain = family.domain()
    assert domain.time is not None
    start = domain.time[0]
    if domain.periodic:
        inside = own_lift(family, points(domain, domain.interior(8, torch.Generator().manual_seed(0))))
    else:
        inside = boundary_lift(family)

    def lift(p: Points) -> Tensor:
        p0 = p.at_time(start)
        out = family.data(p0)
        if family.order_in_time == 2:
            out = out + (p.t - start) * family.velocity(p0)
        if inside is None:
            return out
        out = out + inside(p) - inside(p0)
        return out - (p.t - start) * rate(inside, p0) if family.order_in_time == 2 else out

    return lift


def _blend(box: Box, data: Lift, p: Points) -> Tensor:
    """Return 1 - prod_i (1 - P_i) applied to the data, P_i interpolating linearly between the faces of coordinate i."""
    timed = int(p.timed)
    total = torch.zeros_like(p.z[:, 0])
    for choice in itertools.product((None, 0, 1), repeat=box.dimension):
        if all(end is None for end in choice):
            continue
        columns, weight = [p.z[:, :timed]], torch.ones_like(total)
        for i, end in enumerate(choice):
            x, a, b = p.x[:, i : i + 1], box.low[i], box.high[i]
            columns.append(x if end is None else torch.full_like(x, (a, b)[end]))
            if end is not None:
                s = ((x - a) / (b - a))[:, 0]
                weight = -weight * (s if end else 1 - s)
        total = total - weight * data(Points(torch.cat(columns, 1), p.timed))
    return total
