"""Which ranks each layer of an adapted model should have."""

from lissome.allocation.choose import Allocation, Gates, choose, measuring, rotations
from lissome.allocation.moments import by_listening, by_residual
from lissome.allocation.terms import AdaptedTerms, Tap, Terms, replaced

__all__ = [
    "AdaptedTerms",
    "Allocation",
    "Gates",
    "Tap",
    "Terms",
    "by_listening",
    "by_residual",
    "choose",
    "measuring",
    "replaced",
    "rotations",
]
