"""A family of equations: parameters, domain, operator, exact solution; nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lissome._errors import UsageError, unknown
from lissome.pde.domain import Domain
from lissome.pde.field import Field, Points, rate

TARGETS = ("near", "middle", "far")


@dataclass(frozen=True)
class Parameter:
    """A number that picks one member of a family.

    Args:
        name: how it is written in Python and on the command line.
        default: the member that is solved from scratch.
        near: a usual target that adaptation from the default should reach easily, if one is known.
        middle: a harder one.
        far: one where adaptation may well lose against training anew.
        low: smallest legal value.
        high: largest legal value.
    """

    name: str
    default: float
    near: float | None = None
    middle: float | None = None
    far: float | None = None
    low: float = -math.inf
    high: float = math.inf


class Family(ABC):
    """Equations operator(u) = f that differ by parameters; f is what the exact solution needs.

    f is derived from `exact` and `operator` by automatic differentiation in float64, never written by hand.
    A parameter is read as an attribute: a family with Parameter("c", ...) has `self.c`.

    A class has to say its `name`, `domain` and `operator`, and one of: `exact`, from which all else follows;
    `homogeneous = True` with `data`, where no solution is known; or both, where the solution is numeric. Each method
    takes points p (p.t, p.x, p.r) and returns one number per point, (N,). `parameters` and the class attributes below
    are as needed: `dimensions` where only one dimension makes sense, else `default_dimension`.

    >>> from lissome.pde.domain import Ball
    >>> class Reaction(Family):
    ...     name = "reaction"
    ...     title = "-Lap u + k u = f on the ball"
    ...     parameters = (Parameter("k", 1.0),)
    ...     def domain(self):
    ...         return Ball(self.dimension)
    ...     def operator(self, u, p):
    ...         return -u.laplacian + self.k * u.value
    ...     def exact(self, p):
    ...         return 1 - p.r**2
    >>> Reaction(dimension=3, k=2).values
    {'k': 2.0}
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    dimensions: ClassVar[int | None] = None
    """The only legal number of space coordinates, or None for any."""
    default_dimension: ClassVar[int] = 2
    sampling: ClassVar[str] = "uniform"
    """The draw of a problem that names none."""
    adaptive: ClassVar[bool] = False
    """Solutions are steep somewhere: points are best drawn where the residual is large."""
    homogeneous: ClassVar[bool] = False
    """f = 0; `exact` may then be a numeric reference that cannot be differentiated."""
    radial: ClassVar[bool] = False
    """`exact`, `data` and `lift` depend on x by |x| alone: their derivatives then cost the same in any dimension."""
    order_in_time: ClassVar[int] = 1
    """2 where the initial velocity u_t belongs to the data."""

    def __init__(self, dimension: int | None = None, **parameters: float):
        """Pick a member.

        Raises:
            UsageError: a dimension or parameter that the family does not have, or a value outside its range.
        """
        legal = declared(type(self))
        self.dimension = _dimension(type(self), dimension)
        for name in parameters:
            if name not in legal:
                raise unknown(f"parameter of family '{self.name}':", name, legal)
        self.values = {name: _value(self.name, p, parameters.get(name, p.default)) for name, p in legal.items()}
        for name, value in self.values.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in {"dimension": self.dimension, **self.values}.items())
        return f"{self.name}({values})"

    def at(self, **parameters: float) -> Self:
        """Return the member of the same dimension with some parameters changed."""
        return type(self)(self.dimension, **{**self.values, **parameters})

    @classmethod
    def targets(cls) -> dict[str, dict[str, float]]:
        """Return the near, middle and far members of the first parameter that are known, as parameters to give."""
        found = {label: (p.name, getattr(p, label)) for p in cls.parameters[:1] for label in TARGETS}
        return {label: {name: value} for label, (name, value) in found.items() if value is not None}

    @property
    def known(self) -> bool:
        """Whether an exact solution is given, so that errors can be told."""
        return type(self).exact is not Family.exact

    @abstractmethod
    def domain(self) -> Domain:
        """Return where the equation lives."""

    @abstractmethod
    def operator(self, u: Field, p: Points) -> Tensor:
        """Return the left-hand side at the points, (N,), of the points' dtype, float64 or float32.

        It is run once to learn which derivatives it reads, so it must read the same ones whatever their values are.
        """

    def exact(self, p: Points) -> Tensor:
        """Return the solution at the points, (N,), in torch functions of p; differentiable unless `homogeneous`."""
        raise UsageError(
            f"family '{self.name}' has no exact solution: give it exact(p), or homogeneous = True and data(p)"
        )

    def data(self, p: Points) -> Tensor:
        """Return boundary and initial values, (N,); the exact solution unless said otherwise."""
        return self.exact(p)

    def velocity(self, p: Points) -> Tensor:
        """Return the initial u_t, (N,), for a family of second order in time; that of `data` unless said otherwise."""
        return rate(self.data, p)

    def lift(self, p: Points) -> Tensor | None:
        """Return a function with the boundary's values, smooth inside, (N,); None where the family knows none.

        On a periodic box: what is added to initial values that hold exactly, 0 at the first time; not used otherwise.
        """
        return None

    def weight(self, p: Points) -> Tensor | None:
        """Return a weight of the residual at the points, (N,); None for 1."""
        return None

    def features(self, constraint: str) -> nn.Module | None:
        """Return a map of points to the network's inputs under a hard constraint; None for the usual one.

        The usual one is (t, cos, sin) on a periodic box, the point itself elsewhere. A module (N, D) -> (N, K)
        that says K as `outputs`.
        """
        return None

    def offset(self) -> tuple[float, ...]:
        """Return what a network should subtract from its D inputs: the middle of the domain."""
        return self.domain().centre()


def declared(family: type[Family]) -> dict[str, Parameter]:
    """Return a class's parameters by name.

    Raises:
        UsageError: the class lacks a method or a name, or its parameters are not a tuple of legal ones.
    """
    who = f"family {family.__name__}"
    missing = ", ".join(sorted(family.__abstractmethods__))
    if missing:
        raise UsageError(f"{who} does not say its {missing}")
    if not isinstance(getattr(family, "name", None), str):
        raise UsageError(f'{who} has no name; legal is a line such as name = "wave"')
    if not isinstance(family.parameters, tuple) or not all(isinstance(p, Parameter) for p in family.parameters):
        raise UsageError(
            f"{who} has parameters {family.parameters!r}; legal is a tuple, such as (Parameter(...),) with its comma"
        )
    for parameter in family.parameters:
        if not parameter.name.isidentifier() or parameter.name in (*dir(Family), "dimension", "values", "name"):
            raise UsageError(f"{who} has a parameter '{parameter.name}', a name that is taken or no name in Python")
    return {parameter.name: parameter for parameter in family.parameters}


def _dimension(family: type[Family], dimension: Any) -> int:
    if dimension is None:
        return family.default_dimension if family.dimensions is None else family.dimensions
    if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
        raise UsageError(f"dimension is {dimension!r}; legal is a whole number of at least 1")
    if family.dimensions is not None and dimension != family.dimensions:
        raise UsageError(
            f"family '{family.name}' has {family.dimensions} space dimensions; it was asked for {dimension}"
        )
    return dimension


def _value(family: str, parameter: Parameter, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"parameter '{parameter.name}' of family '{family}' is {value!r}; legal is a number") from None
    if not (math.isfinite(number) and parameter.low <= number <= parameter.high):
        raise UsageError(
            f"parameter '{parameter.name}' of family '{family}' is {number:g}; "
            f"legal is {parameter.low:g} to {parameter.high:g}"
        )
    return number
