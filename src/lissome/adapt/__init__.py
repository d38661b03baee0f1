"""A weight tensor may be written as a small form; a module may be computed with such weights."""

from lissome.adapt.adapted import Adapted
from lissome.adapt.forms import lora, lora_xs, pissa, singular_values, svd, tucker
from lissome.adapt.methods import METHODS, Method, adapt, large, reinitialize
from lissome.adapt.reach import reach
from lissome.adapt.stack import Stack
from lissome.adapt.tucker import Tucker

__all__ = [
    "METHODS",
    "Adapted",
    "Method",
    "Stack",
    "Tucker",
    "adapt",
    "large",
    "lora",
    "lora_xs",
    "pissa",
    "reach",
    "reinitialize",
    "singular_values",
    "svd",
    "tucker",
]
