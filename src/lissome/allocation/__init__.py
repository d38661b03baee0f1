"""Which ranks each layer of an adapted model should have."""

from lissome.allocation.choose import Allocation, Weighed, choose, weigh
from lissome.allocation.gated import Gated, GatedForms
from lissome.allocation.gates import Gates, measuring
from lissome.allocation.joint import JointRanks
from lissome.allocation.moments import by_listening, by_residual, rotations
from lissome.allocation.schedule import Schedule
from lissome.allocation.terms import AdaptedTerms, Tap, Terms, replaced

__all__ = [
    "AdaptedTerms",
    "Allocation",
    "Gated",
    "GatedForms",
    "Gates",
    "JointRanks",
    "Schedule",
    "Tap",
    "Terms",
    "Weighed",
    "by_listening",
    "by_residual",
    "choose",
    "measuring",
    "replaced",
    "rotations",
    "weigh",
]
