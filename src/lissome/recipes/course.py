"""The course of a training as a person writes it: `adam+ssbroyden`, `adam:1000+gauss-newton:200`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lissome._errors import UsageError, unknown


@dataclass(frozen=True)
class Usual:
    """What is usual for an optimizer: steps alone, or as a first phase; between evaluations, checkpoints, draws."""

    steps: int
    warm: int
    evaluate: int
    checkpoint: int
    redraw: int = 1
    double: bool = False  # float64 decides


FIRST = Usual(4000, 1000, 100, 500)
SEARCH = Usual(2000, 500, 20, 200, redraw=100, double=True)
SECOND = Usual(200, 50, 5, 25, double=True)
USUAL: dict[str, Usual] = {
    **dict.fromkeys(("adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "sgd"), FIRST),
    "lbfgs": Usual(200, 50, 5, 25, redraw=5),  # a step holds 20 iterations
    **dict.fromkeys(("bfgs", "ssbfgs", "ssbroyden"), SEARCH),
    **dict.fromkeys(("gauss-newton", "arc", "arcm"), SECOND),
}
STILL = "none"  # of a phase whose groups move all that moves
WARM_SHARE = 0.2  # of the seconds, for a first-order phase before others


def usual(name: str) -> Usual:
    """Return what is usual for an optimizer.

    Raises:
        UsageError: it is unknown.
    """
    if name not in USUAL and name != STILL:
        raise unknown("optimizer", name, USUAL)
    return USUAL.get(name, FIRST)


def course(text: str, *, timed: bool = False) -> dict[str, Any]:
    """Return the settings of a training from its course: optimizers joined by `+`, each with its steps behind a `:`.

    Args:
        text: such as `adam+gauss-newton`.
        timed: the budget is in seconds alone; numbers are shares then, and a first-order phase before others has a
            fifth if none are given.

    Raises:
        UsageError: an unknown optimizer, or a number that is none.

    >>> course("adam:100+gauss-newton:20")
    {'optimizer': 'adam', 'share': 100.0, 'then': [{'optimizer': 'gauss-newton', 'share': 20.0}], 'steps': 120}
    """
    parts = [part.strip().partition(":") for part in text.split("+")]
    phases = []
    for index, (name, colon, number) in enumerate(parts):
        own, last = usual(name), index == len(parts) - 1
        share = WARM_SHARE if own is FIRST and not last else 1.0
        share = share if timed else float(own.steps if last else own.warm)
        phases.append({"optimizer": name, "share": _number(text, number) if colon else share})
    first, *then = phases
    steps = {} if timed else {"steps": round(sum(phase["share"] for phase in phases))}
    return {**first, "then": then, **steps}


def double(training: Any, usual: str, more: Iterable[Any] = ()) -> bool:
    """Say whether one of the optimizers of settings, not checked yet, needs float64.

    Args:
        training: its settings as a mapping; anything else names no optimizer.
        usual: what a phase takes that names none.
        more: further courses.

    >>> double({"optimizer": "adam:100+gauss-newton"}, "adam"), double({}, "adam"), double(None, "arc")
    (True, False, True)
    """
    first = training if isinstance(training, dict) else {}
    then = first.get("then")
    phases = [first, *(each for each in (then if isinstance(then, list) else []) if isinstance(each, dict))]
    texts = [*(str(each.get("optimizer") or usual) for each in phases), *map(str, more)]
    names = {part.partition(":")[0].strip() for text in texts for part in text.split("+")}
    return any(USUAL[name].double for name in names & set(USUAL))


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UsageError(f"the course '{text}' says '{number}' behind a colon; legal is a number above 0, of steps")
    return value
