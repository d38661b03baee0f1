"""What the columns of a table are to one another: inputs, targets, and whether the targets are numbers or classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lissome._errors import UsageError
from lissome.recipes.table.frame import Frame
from lissome.recipes.table.settings import TableSettings

FEW = 20  # different whole numbers at most, for classes
EACH = 5  # rows of each of them on the average, at least
LEAST = 3  # rows of a table: two to learn from and one held out


@dataclass(frozen=True)
class Roles:
    """Inputs, targets, the task with the reason for it, and the names of the classes, if it is to classify."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    task: str
    why: str
    classes: tuple[str, ...] = ()


def roles(frame: Frame, settings: TableSettings) -> tuple[Roles, np.ndarray]:
    """Return the roles of a table's columns, and its targets y: (N, k) float64, or the places of the classes (N,).

    `auto` classifies a single target of text, or of whole numbers with at most 20 different ones and 5 rows of each on
    the average; all else is regression.

    Raises:
        UsageError: an unknown column, no inputs, too few rows, or a target that is not of the task.
    """
    if len(frame) < LEAST:
        raise UsageError(f"'{frame.source}' has {len(frame)} rows; legal are {LEAST} and more, one of them held out")
    for column in settings.leave:
        frame.place(column)
    targets = _targets(frame, settings)
    inputs = frame.without([*targets, *settings.leave])
    if not inputs:
        raise UsageError(f"'{frame.source}' has no column beside the target {_named(targets)}; legal is one and more")
    task, why = _task(frame, targets, settings.task)
    if task == "regression":
        return Roles(inputs, targets, task, why), frame.numbers(targets).astype(np.float64)
    classes, y = _classes(frame, targets)
    _check_classes(frame, targets[0], classes)
    return Roles(inputs, targets, task, why, classes), y


def places(frame: Frame, known: Roles) -> np.ndarray:
    """Return the targets of further rows, as `roles` returns them.

    Raises:
        UsageError: a label that is none of the classes.
    """
    if known.task == "regression":
        return frame.numbers(known.targets).astype(np.float64)
    classes, y = _classes(frame, known.targets)
    for name in classes:
        if name not in known.classes:
            raise UsageError(f"'{frame.source}' has rows of class '{name}', of which there are none to learn from")
    return np.array([known.classes.index(name) for name in classes])[y]


def _targets(frame: Frame, settings: TableSettings) -> tuple[str, ...]:
    if settings.target is None:
        left = [column for column in frame.targets if column not in settings.leave]
        if not left and frame.fixed:
            raise UsageError(f"'{frame.source}' has inputs and no target beside them; legal is a target for each row")
        return tuple(left) or frame.without(settings.leave)[-1:]
    targets = tuple(name.strip() for name in settings.target.split(","))
    for place, column in enumerate(targets):
        frame.place(column)
        if column in settings.leave or column in targets[:place]:
            twice = "is left out too" if column in settings.leave else "is named twice"
            raise UsageError(f"target '{column}' {twice}; legal are columns that differ and are read")
    if frame.fixed and set(targets) - set(frame.targets):
        raise UsageError(f"target {_named(targets)} of '{frame.source}' cannot be asked for: {frame.fixed}")
    return targets


def _task(frame: Frame, targets: Sequence[str], asked: str) -> tuple[str, str]:
    text = [column for column in targets if column in frame.texts]
    if asked == "classification" and len(targets) > 1:
        raise UsageError(f"{len(targets)} targets cannot be classified; legal is one, or --task regression")
    if asked == "regression" and text:
        raise UsageError(
            f"target '{text[0]}' of '{frame.source}' holds text, such as '{frame.texts[text[0]][0][:20]}', and "
            "regression needs numbers; take --task classification"
        )
    if asked != "auto":
        return asked, "as asked for"
    if len(targets) > 1:
        return "regression", "several targets"
    if text:
        return "classification", "the target is text"
    y = frame.numbers(targets)[:, 0]
    found = np.unique(y)
    if not _whole(found):
        return "regression", "the target is not of whole numbers alone"
    if len(found) <= FEW and EACH * len(found) <= len(y):
        why = f"the target has {len(found)} different whole numbers, on the average each in {EACH} rows or more"
        return "classification", why
    return "regression", f"the target has {len(found)} different whole numbers in {len(y)} rows, too many for classes"


def _classes(frame: Frame, targets: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes in their order, and the place of each row's class (N,)."""
    (target,) = targets
    if target in frame.texts:
        names, y = np.unique(frame.labels(target), return_inverse=True)
        classes = tuple(str(name) for name in names)
    else:
        found, y = np.unique(frame.numbers(targets)[:, 0], return_inverse=True)
        classes = tuple(written(value) for value in found)
    return classes, y.astype(np.int64)


def _check_classes(frame: Frame, target: str, classes: Sequence[str]) -> None:
    """Refuse a single class, or more classes than there are pairs of rows."""
    count = len(classes)
    if count == 1:
        raise UsageError(
            f"target '{target}' of '{frame.source}' has one class alone, '{classes[0]}'; legal are two and more"
        )
    if count > max(2, len(frame) // 2):
        raise UsageError(
            f"target '{target}' of '{frame.source}' has {count} different values in {len(frame)} rows, such as "
            f"'{classes[0][:20]}', too many to be classes; name another --target, or take --task regression if it "
            "is a number"
        )


def written(value: float) -> str:
    """Write a number that names a class.

    >>> written(3.0), written(0.5)
    ('3', '0.5')
    """
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _whole(values: np.ndarray) -> bool:
    return bool((values == np.round(values)).all())


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
