"""What to train with, for how long, and what came of it: plain values without behaviour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from lissome._errors import UsageError, unknown

SCHEDULES = ("constant", "cosine", "exponential")
FROZEN = "none"  # the optimizer name of parameters that stay where they are in a phase


@dataclass(frozen=True)
class Group:
    """Parameters of one name pattern and the optimizer that moves them.

    Attributes:
        pattern: shell pattern on parameter names; the first group that matches has the parameter.
        optimizer: a name of `lissome.optim.optimizers.OPTIMIZERS`, or "none": not moved.
        lr: learning rate; None takes the optimizer's default.
        options: further arguments of the torch optimizer, such as {"betas": (0.9, 0.99)}.

    Raises:
        UsageError: a learning rate that is not a positive number.
    """

    pattern: str = "*"
    optimizer: str = "adam"
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "options", dict(self.options))
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr of the group '{self.pattern}' must be a positive number, not {self.lr}")


@dataclass(frozen=True)
class Method:
    """How to train; a tuple of methods is trained one after another, each for its share.

    Attributes:
        groups: who moves which parameters; all of them act in every step.
        schedule: the course of the learning rates: constant, cosine or exponential.
        final: the factor of the learning rate at the end of the schedule.
        resample_every: draw new points every so many steps; None keeps one draw.
        adaptive: draw where the residual is large, by the objective's `sample_by_residual`.
        points: the n that `Objective.sample` is asked for: all rows of one step, whatever `accumulate` is and, for an
            objective that is `Divisible`, however many processes share them.
        accumulate: parts that a step's batch is computed in, one after another, to need less memory: `points=32,
            accumulate=4` is a batch of 32 in four parts of 8 (in two processes of 4), with the gradient of the whole
            to rounding. The objective has to be `Divisible`, and the optimizers have to read plain gradients.
        clip: the longest gradient that is let through: one whose norm over all that moves is larger is scaled down to
            it before the step; None lets all through. Rows have the norm before, as `gradient_norm`.
        skip: leave out a step whose loss or gradient is NaN or infinite, instead of ending the run; rows have their
            number, as `skipped`. It reads the loss of each step, which costs a GPU a little; a hundred such steps in a
            row end the run all the same. The optimizers have to read plain gradients.
        warmup: the first part of the method's steps, in which the learning rates rise linearly to their full height;
            the schedule has the rest.
        share: the part of the budget, relative to the other methods of the tuple.

    The course of a schedule is the part of the method's steps that are done. Under a budget in
    seconds it is the part of the seconds that have passed (the larger of both if both are given),
    so such a run cannot be repeated bit by bit.

    Raises:
        UsageError: a value out of its range, or an unknown schedule.

    >>> adam_then_lbfgs = (Method(share=0.8), Method((Group(optimizer="lbfgs"),), share=0.2))
    """

    groups: tuple[Group, ...] = (Group(),)
    schedule: str = "constant"
    final: float = 0.01
    resample_every: int | None = None
    adaptive: bool = False
    points: int = 1024
    accumulate: int = 1
    clip: float | None = None
    skip: bool = False
    warmup: float = 0.0
    share: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups:
            raise UsageError("groups is empty; a method needs at least one Group")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if not 0 <= self.final <= 1 or (self.schedule == "exponential" and self.final == 0):
            raise UsageError(f"final must lie in (0, 1] (0 only for cosine), not {self.final}")
        if self.resample_every is not None and self.resample_every < 1:
            raise UsageError(f"resample_every must be None or at least 1, not {self.resample_every}")
        if self.points < 1:
            raise UsageError(f"points must be at least 1, not {self.points}")
        if not 1 <= self.accumulate <= self.points:
            raise UsageError(f"accumulate must lie between 1 and points={self.points}, not {self.accumulate}")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise UsageError(f"clip must be None or a positive number, not {self.clip}")
        if type(self.skip) is not bool:
            raise UsageError(f"skip is {self.skip!r}; legal are True and False")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a part of the steps and must lie in [0, 1), not {self.warmup}")
        if not (math.isfinite(self.share) and self.share > 0):
            raise UsageError(f"share must be a positive number, not {self.share}")

    def factor(self, done: float, after: float | None = None) -> float:
        """Return what the learning rates are multiplied by.

        Args:
            done: the part of the method, in [0, 1], that is over before the step.
            after: the part that is over after it (under a budget in seconds as far as one can tell), which a warmup
                goes by, so that no step is done at rate 0; None takes `done`.

        >>> Method(schedule="exponential", final=0.01).factor(0.5)
        0.1
        >>> [round(Method(warmup=0.5).factor(step / 8, (step + 1) / 8), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
        """
        done = min(max(done, 0.0), 1.0)
        if done < self.warmup:
            return min((done if after is None else after) / self.warmup, 1.0)
        done = (done - self.warmup) / (1 - self.warmup)
        if self.schedule == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "exponential":
            return self.final**done
        return 1.0

    def moves(self) -> bool:
        """Say whether the learning rates change in the course of the method."""
        return self.schedule != "constant" or self.warmup > 0

    def settings(self) -> dict[str, Any]:
        """Return the method as nested dicts, lists and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """When to stop: after so many steps, so many seconds, or whichever comes first.

    Seconds are those on the wall clock inside `fit`, evaluations included, summed over resumes.

    Raises:
        UsageError: neither is given, or one is not positive.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        if self.steps is None and self.seconds is None:
            raise UsageError("the budget is empty; give steps, seconds or both")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps of the budget must be at least 1, not {self.steps}")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"seconds of the budget must be a positive number, not {self.seconds}")


class Outcome(Enum):
    """Why a run ended, as advice."""

    STEPS = "All steps of the budget are done; to train on, raise the steps and resume."
    SECONDS = "The seconds of the budget are used up; to train on, raise the seconds and resume."
    ENOUGH = "The caller has ended the run before its budget was used up."
    STALLED = (
        "The line search finds no lower loss on these points; the rest of the budget would change nothing: "
        "resample, use float64, or stop here."
    )


@dataclass(frozen=True)
class Result:
    """What came of a run; the model itself was changed in place.

    Attributes:
        outcome: why it ended.
        steps: steps done, over all resumes.
        seconds: seconds inside `fit`, over all resumes.
        loss: the loss on the last points with the last weights.
        metrics: the last row of the history.
        history: one row per evaluation: step, seconds, loss, lr and the objective's figures.
        trained: how many numbers were trained.
        compiled: whether torch.compile captured the loss.
        capture: why, or why not.
        resumed_from: the step that this call began with; None for a new run.
    """

    outcome: Outcome
    steps: int
    seconds: float
    loss: float
    metrics: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    trained: int
    compiled: bool
    capture: str
    resumed_from: int | None
