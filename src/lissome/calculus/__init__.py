"""All derivatives; takes functions, never a model with its loss and its data."""

from lissome.calculus.gram import gauss_newton, gram
from lissome.calculus.jets import Derivable, derivatives, explain
from lissome.calculus.lanczos import (
    Density,
    Extremes,
    Krylov,
    extreme_eigenvalues,
    lanczos,
    spectral_density,
)
from lissome.calculus.nested import Derivatives
from lissome.calculus.operators import Operator
from lissome.calculus.products import (
    Expansion,
    expand,
    gradient,
    hessian,
    hvp,
    jacobian,
    jvp,
    linearize,
    vjp,
)
from lissome.calculus.quadratic import Quadratic, merged, quadratic
from lissome.calculus.tangent import Tangent, balance, drift, tangent

__all__ = [
    "Density",
    "Derivable",
    "Derivatives",
    "Expansion",
    "Extremes",
    "Krylov",
    "Operator",
    "Quadratic",
    "Tangent",
    "balance",
    "derivatives",
    "drift",
    "expand",
    "explain",
    "extreme_eigenvalues",
    "gauss_newton",
    "gradient",
    "gram",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "lanczos",
    "linearize",
    "merged",
    "quadratic",
    "spectral_density",
    "tangent",
    "vjp",
]
