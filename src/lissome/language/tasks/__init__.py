"""Tasks that are generated on the fly: trained at one length, tested at many times that.

`recall` and `lookup` find values by keys (what DAPE is to show, arXiv 2405.14722 and 2410.04798); the others are
strings of "Neural Networks and the Chomsky Hierarchy" (arXiv 2207.02098) for models that read from left to right.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from lissome._errors import unknown
from lissome.language.tasks.definition import IGNORED, Task
from lissome.language.tasks.lookup import lookup
from lissome.language.tasks.recall import recall
from lissome.language.tasks.regular import even_pairs, modular, parity
from lissome.language.tasks.strings import copy, duplicate, reverse, sort

__all__ = ["IGNORED", "TASKS", "Task", "task"]

TASKS: dict[str, Callable[..., Task]] = {
    "recall": recall,
    "lookup": lookup,
    "copy": copy,
    "reverse": reverse,
    "duplicate": duplicate,
    "sort": sort,
    "parity": parity,
    "even-pairs": even_pairs,
    "modular": modular,
}
TESTS = ("rows", "seed")  # settings that are the same for all


def task(name: str, **changes: Any) -> Task:
    """Return a task by its name.

    Args:
        name: a name in `TASKS`.
        changes: settings of that task, and of all: `train`, `test`, and `rows` and `seed` of the tests.

    Raises:
        UsageError: an unknown name or setting, or a value that the task does not have.

    Example:
        >>> print(task("recall", keys=8, values=4, test=(8,)).describe())
        recall: pairs of a key and a value, then each key once more, to be followed by its value.
          k6 v0 k7 v0 k2 v2 k4 v1 k7 [v0] k2 [v2] k6 [v0] k4 [v1]
          12 symbols; trained at lengths 2 to 8; a guess is right: 0.250 at 8.
    """
    found = TASKS.get(str(name).replace("_", "-"))
    if found is None:
        raise unknown("task", name, TASKS)
    own = inspect.signature(found).parameters
    for setting in changes:
        if setting not in (*own, *TESTS):
            raise unknown(f"setting of the task '{name}':", setting, [*own, *TESTS])
    made = found(**{setting: value for setting, value in changes.items() if setting in own})
    return dataclasses.replace(made, **{setting: value for setting, value in changes.items() if setting in TESTS})
