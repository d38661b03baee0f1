"""What a run of in-context learning left on disk beside its settings and metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lissome._errors import UsageError
from lissome.report.read import read_json

TASK, EVALUATION = "prompts.json", "evaluation.json"


@dataclass(frozen=True)
class Shifted:
    """Errors by the strength of a shift: strength (S,), model (S,), and of each oracle (S,)."""

    strength: np.ndarray
    model: np.ndarray
    oracles: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of fresh prompts; errors that are not finite are NaN.

    Attributes:
        prompts: how many the model was asked.
        context: numbers of examples, (k,).
        model: errors by them, (k,).
        oracles: name -> (k,).
        trained: iterations.
        iterations: errors of the last place after 1, 2, .. iterations, (I,).
        broken: the first of them that is not finite, or None.
        settled: of early exit: tolerance, mean iterations, error; None without a loop.
        shifts: kind -> errors.
    """

    prompts: int
    context: np.ndarray
    model: np.ndarray
    oracles: dict[str, np.ndarray]
    trained: int
    iterations: np.ndarray
    broken: int | None
    settled: dict[str, float] | None
    shifts: dict[str, Shifted]


def is_incontext(path: Path) -> bool:
    """Whether a directory holds a run of `lissome icl train`."""
    return (path / TASK).is_file() and (path / "settings.yaml").is_file()


def read_evaluation(path: Path) -> Evaluation | None:
    """Read evaluation.json of a run directory; None if there is none yet.

    Raises:
        UsageError: it is broken.
    """
    told = read_json(path / EVALUATION)
    if not told:
        return None
    try:
        examples, iterations, settled = told["examples"], told["iterations"], told["settled"]
        found = Evaluation(
            prompts=int(told["prompts"]),
            context=np.array(examples["context"], float),
            model=_errors(examples["model"]),
            oracles={str(name): _errors(each) for name, each in examples["oracles"].items()},
            trained=int(iterations["trained"]),
            iterations=_errors(iterations["error"]),
            broken=None if iterations["broken"] is None else int(iterations["broken"]),
            settled=None if settled is None else dict(zip(settled, _errors([*settled.values()]).tolist(), strict=True)),
            shifts={str(kind): _shifted(each) for kind, each in told["shifts"].items()},
        )
        same = [found.model, *found.oracles.values()]
        if not len(found.context) or any(len(each) != len(found.context) for each in same):
            raise ValueError
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cure = "lissome icl evaluate writes it anew"
        raise UsageError(f"'{path / EVALUATION}' does not hold what it should; it is broken ({cure})") from error


def _errors(values: list[Any]) -> np.ndarray:
    return np.array([math.nan if value is None else float(value) for value in values])


def _shifted(told: dict[str, Any]) -> Shifted:
    oracles = {str(name): _errors(each) for name, each in told["oracles"].items()}
    found = Shifted(np.array(told["strength"], float), _errors(told["model"]), oracles)
    if any(len(each) != len(found.strength) for each in (found.model, *oracles.values())):
        raise ValueError
    return found
