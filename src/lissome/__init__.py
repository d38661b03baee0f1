"""Lissome: networks that carry structure.

The rooms, each a package that loads when first used: `adapt` (weights as small forms), `allocation` (how many terms
each layer keeps), `attention` (scores become weights), `bridges` (other people's libraries), `calculus` (derivatives),
`language`, `models`, `optim`, `pde`, `recipes` (what the command line calls) and `report`.
"""

from lissome._door import door
from lissome._version import __version__

_ROOMS = (
    "adapt",
    "allocation",
    "attention",
    "bridges",
    "calculus",
    "language",
    "models",
    "optim",
    "pde",
    "recipes",
    "report",
)
__getattr__, __dir__ = door(__name__, {room: f"lissome.{room}" for room in _ROOMS})
__all__ = [
    "__version__",
    "adapt",
    "allocation",
    "attention",
    "bridges",
    "calculus",
    "language",
    "models",
    "optim",
    "pde",
    "recipes",
    "report",
]
