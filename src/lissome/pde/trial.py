"""A family's own code, run on a few points before anything is trained, so that its own line is blamed for a mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.calculus import Derivatives
from lissome.pde.domain import Ball, Box, Domain, points
from lissome.pde.family import Family
from lissome.pde.field import Needs, Points, apply, check_values, closed_form, record
from lissome.pde.registry import guard

FEW = 8


def domain_of(family: Family) -> Domain:
    """Return the family's domain.

    Raises:
        UsageError: it is none, or has another dimension than the family.
    """
    with guard(family, "domain"):
        domain = family.domain()
        if not isinstance(domain, Ball | Box):
            raise UsageError(f"it returned {type(domain).__name__}; legal is a Ball or a Box")
        if domain.dimension != family.dimension:
            raise UsageError(
                f"its dimension is {domain.dimension} and the family's {family.dimension}; make it of self.dimension, "
                f"or say dimensions = {domain.dimension}"
            )
    return domain


def learn(family: Family, domain: Domain, dtype: torch.dtype) -> Needs:
    """Return which derivatives the operator reads.

    Raises:
        UsageError: operator, exact, weight, data or velocity fails, or does not give one finite number per point.
    """
    inside = few(domain)
    with guard(family, "operator"):
        record(family.operator, points(domain, inside.z.to(dtype)), family.dimension)
        needs, along = record(family.operator, inside, family.dimension)
        _check_reads(family, inside, needs)
    if family.homogeneous:
        _try_operator(family, inside, needs)
    else:
        with guard(family, "exact"):
            found = try_formula(family.exact, inside, needs, along, radial=family.radial)
        with guard(family, "operator"):
            check_values(apply(family.operator, inside, family.dimension, needs, found), inside.z)
    with guard(family, "weight"):
        weight = family.weight(inside)
        if weight is not None:
            check_values(weight, inside.z)
    _try_data(family, domain)
    return needs


def few(domain: Domain) -> Points:
    """Return a few points inside, always the same."""
    return points(domain, domain.interior(FEW, torch.Generator().manual_seed(0)))


def try_formula(
    formula: Callable[[Points], Tensor], p: Points, needs: Needs, along: Tensor | None = None, *, radial: bool
) -> Derivatives:
    """Return a formula's derivatives for some needs; `along` is (N, a, D).

    Raises:
        UsageError: its values are not one per point, or they or their derivatives are not finite.
    """
    check_values(formula(p), p.z)
    directions = None if along is None else along.transpose(0, 1)
    found = closed_form(formula, p, needs.first, needs.second, directions, radial=radial)
    for row in (*found.first, *found.second, *found.along):
        check_values(row, p.z, "a derivative of it")
    return found


@torch.enable_grad()
def _check_reads(family: Family, inside: Points, needs: Needs) -> None:
    """Refuse an operator whose value does not depend on u: no network would be trained."""
    found = _level(inside, needs, 0.5)
    values = apply(family.operator, inside, family.dimension, needs, found)
    if isinstance(values, Tensor) and not values.requires_grad:
        raise UsageError("it does not depend on u: read u.value or a derivative of it, and do not detach them")


def _level(inside: Points, needs: Needs, level: float) -> Derivatives:
    """Return a field that is one number everywhere, as are all its derivatives; with its graph."""
    n = len(inside.z)
    shapes = (n,), (len(needs.first), n), (len(needs.second), n), (needs.along, n)
    return Derivatives(*(inside.z.new_full(shape, level).requires_grad_() for shape in shapes))


@torch.no_grad()
def _try_operator(family: Family, inside: Points, needs: Needs) -> None:
    """Refuse an operator that has no number for a field that is 0, nor for one that is 1/2 as all its derivatives."""
    n, values = len(inside.z), list[Tensor]()
    with guard(family, "operator"):
        for level in (0.0, 0.5):
            found = _level(inside, needs, level)
            values.append(apply(family.operator, inside, family.dimension, needs, found))
        if isinstance(values[0], Tensor) and values[0].shape == (n,):
            values[0] = torch.where(values[0].isfinite(), *values)
        check_values(values[0], inside.z)


@torch.no_grad()
def _try_data(family: Family, domain: Domain) -> None:
    generator = torch.Generator().manual_seed(0)
    if not domain.periodic:
        edge = points(domain, domain.boundary(FEW, generator))
        with guard(family, "data"):
            check_values(family.data(edge), edge.z)
    if domain.time is not None:
        start = points(domain, domain.initial(FEW, generator))
        with guard(family, "data"):
            check_values(family.data(start), start.z)
        with guard(family, "velocity"):
            if family.order_in_time == 2:
                check_values(family.velocity(start), start.z)
