"""Tasks of learning in context, whose prompts are vectors of reals: what AlgoFormer (arXiv 2402.13572) is trained on.

They stand beside `language.tasks`, whose sequences are symbols that are told right or wrong: here all is real numbers,
errors are squares, and statistics says what the same examples are worth to a solver that knows the task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lissome._errors import unknown
from lissome.language.incontext.definition import SHIFTS, Prompts, Shift
from lissome.language.incontext.prefix import affine, lasso, least_squares
from lissome.language.incontext.regression import linear, representation, sparse, tree, two_layer
from lissome.language.incontext.representation import Representation
from lissome.language.incontext.sequences import autoregression, chain

__all__ = [
    "PROMPTS",
    "SHIFTS",
    "Prompts",
    "Representation",
    "Shift",
    "affine",
    "lasso",
    "least_squares",
    "prompts",
]

PROMPTS: dict[str, Callable[..., Prompts]] = {
    "linear": linear,
    "sparse": sparse,
    "representation": representation,
    "ar": autoregression,
    "chain": chain,
    "two-layer": two_layer,
    "tree": tree,
}


def prompts(name: str, **changes: Any) -> Prompts:
    """Return a task of learning in context by its name.

    Args:
        name: a name in `PROMPTS`.
        changes: settings of that task; all have `dimension`, `pairs` and `noise`.

    Raises:
        UsageError: an unknown name or setting, or a value that the task does not have.

    Example:
        >>> prompts("sparse", dimension=10, nonzero=2).what
        'y is a linear function of 2 of the 10 coordinates of x.'
    """
    found = PROMPTS.get(str(name).replace("_", "-"))
    if found is None:
        raise unknown("task", name, PROMPTS)
    own = inspect.signature(found).parameters
    for setting in changes:
        if setting not in own:
            raise unknown(f"setting of the task '{name}':", setting, own)
    return found(**changes)
