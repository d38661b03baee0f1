"""Equations: families of them, where they live, and the objective that a network is trained on."""

from lissome.pde.constraint import Constrained, Periodic
from lissome.pde.domain import Ball, Box
from lissome.pde.family import Family, Parameter
from lissome.pde.field import Field, Points
from lissome.pde.problem import CONSTRAINTS, Problem
from lissome.pde.registry import families, load_family
from lissome.pde.sampling import DRAWS
from lissome.pde.together import Together, can_stack

__all__ = [
    "CONSTRAINTS",
    "DRAWS",
    "Ball",
    "Box",
    "Constrained",
    "Family",
    "Field",
    "Parameter",
    "Periodic",
    "Points",
    "Problem",
    "Together",
    "can_stack",
    "families",
    "load_family",
]
