"""All derivatives; takes functions, never a model with its loss and its data."""

from lissome.calculus.jets import Derivable, derivatives, explain
from lissome.calculus.nested import Derivatives

__all__ = ["Derivable", "Derivatives", "derivatives", "explain"]
