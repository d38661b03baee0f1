"""A weight tensor may be written as a small form; a module may be computed with such weights."""

from lissome.adapt.adapted import Adapted
from lissome.adapt.choice import RankChoice
from lissome.adapt.forms import adalora, lora, lora_xs, lotra, pissa, singular_values, slim, svd, tucker
from lissome.adapt.methods import METHODS, Method, adapt, fitting, large, reinitialize
from lissome.adapt.ranks import compensated, select_ranks, smoothed
from lissome.adapt.rates import component_rates
from lissome.adapt.reach import reach
from lissome.adapt.rules import RULES
from lissome.adapt.stack import Stack
from lissome.adapt.tucker import Tucker

__all__ = [
    "METHODS",
    "RULES",
    "Adapted",
    "Method",
    "RankChoice",
    "Stack",
    "Tucker",
    "adalora",
    "adapt",
    "compensated",
    "component_rates",
    "fitting",
    "large",
    "lora",
    "lora_xs",
    "lotra",
    "pissa",
    "reach",
    "reinitialize",
    "select_ranks",
    "singular_values",
    "slim",
    "smoothed",
    "svd",
    "tucker",
]
