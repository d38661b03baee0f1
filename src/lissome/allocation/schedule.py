"""How many terms may be at work at a step of training: AdaLoRA's cubic schedule (arXiv 2303.10512, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from lissome._errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """All n terms for a warm-up, then fewer along a cubic, then the final budget for the last stretch.

        budget(t) = budget + (n - budget) (1 - (t - warmup) / (steps - last - warmup))^3

    Attributes:
        budget: terms in the end.
        steps: of the whole training.
        warmup: first steps, in which nothing is cut; None is a fifth.
        last: final steps, in which nothing is chosen any more; None is three tenths.
        every: steps between two choices; None makes ten of them.

    Raises:
        UsageError: a number out of its range, or no step left to cut in.

    >>> schedule = Schedule(4, steps=100, warmup=10, last=30, every=20)
    >>> [(step, schedule.at(step, 16)) for step in range(1, 101) if schedule.due(step)]
    [(10, 16), (30, 8), (50, 4), (70, 4)]
    """

    budget: int
    steps: int
    warmup: int | None = None
    last: int | None = None
    every: int | None = None

    def __post_init__(self):
        for name in ("budget", "steps", "warmup", "last", "every"):
            value = getattr(self, name)
            if type(value) is not int and (value is not None or name in ("budget", "steps")):
                raise UsageError(f"{name} is {value!r}; legal are whole numbers")
        if self.budget < 0:
            raise UsageError(f"budget is {self.budget}; legal are 0 and more")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}; legal are 1 and more")
        for name, share in (("warmup", self.steps // 5), ("last", 3 * self.steps // 10)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, share)
            elif getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; legal are 0 and more steps")
        if self._span < 1:
            raise UsageError(
                f"of {self.steps} steps warmup={self.warmup} and last={self.last} leave {self._span} to cut in; legal "
                "are 1 and more"
            )
        if self.every is None:
            object.__setattr__(self, "every", max(1, self._span // 10))
        elif self.every < 1:
            raise UsageError(f"every is {self.every}; legal are 1 and more steps")

    @property
    def _span(self) -> int:
        return self.steps - (self.warmup or 0) - (self.last or 0)

    def due(self, step: int) -> bool:
        """Say whether terms are chosen after so many steps; the last time is when the final stretch begins."""
        gone = step - (self.warmup or 0)
        return 0 <= gone <= self._span and (gone % (self.every or 1) == 0 or gone == self._span)

    def at(self, step: int, n: int) -> int:
        """Return how many of n terms are at work after so many steps."""
        part = min(max((step - (self.warmup or 0)) / self._span, 0.0), 1.0)
        few = min(self.budget, n)
        return few + round((n - few) * (1 - part) ** 3)
