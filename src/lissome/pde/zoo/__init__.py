"""The families that come with the house, one file each; a new one adds a line here."""

from lissome.pde.family import Family
from lissome.pde.zoo.allen_cahn import AllenCahn
from lissome.pde.zoo.allen_cahn_1d import AllenCahn1d
from lissome.pde.zoo.burgers import Burgers
from lissome.pde.zoo.convection import Convection
from lissome.pde.zoo.heat import Heat
from lissome.pde.zoo.helmholtz import Helmholtz
from lissome.pde.zoo.klein_gordon import KleinGordon
from lissome.pde.zoo.parabolic import Parabolic
from lissome.pde.zoo.poisson import Poisson

FAMILIES: tuple[type[Family], ...] = (
    AllenCahn,
    Parabolic,
    Poisson,
    Helmholtz,
    Heat,
    Convection,
    KleinGordon,
    Burgers,
    AllenCahn1d,
)

__all__ = [
    "FAMILIES",
    "AllenCahn",
    "AllenCahn1d",
    "Burgers",
    "Convection",
    "Heat",
    "Helmholtz",
    "KleinGordon",
    "Parabolic",
    "Poisson",
]
