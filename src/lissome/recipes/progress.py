"""What a recipe does now, and how much of it is left, on the error stream."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """What is done now, and how many steps are left; silent when nobody watches.

    Args:
        show: it, if the error stream is a terminal.
    """

    def __init__(self, show: bool):
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not (show and console.is_terminal))
        self.task = self.progress.add_task("loading", total=0)
        self.total = 0

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def expect(self, more: int) -> None:
        """Add so many steps to those that are to come."""
        self.total += more
        self.progress.update(self.task, total=self.total)

    def say(self, what: str) -> None:
        """Say what begins."""
        self.progress.update(self.task, description=what)

    def advance(self, steps: int = 1) -> None:
        """Count steps that are over."""
        self.progress.advance(self.task, steps)

    def step(self, what: str) -> None:
        """Say that one of them begins."""
        self.say(what)
        self.advance()

    def counting(self, steps: int) -> Counting:
        """Return what counts the steps of one descent."""
        return Counting(self, steps)


class Counting:
    """Steps of one descent, all of which are over when it ends early.

    Args:
        bar: on which they are counted.
        steps: how many there are.
    """

    def __init__(self, bar: Bar, steps: int):
        self.bar, self.left = bar, steps

    def tick(self, step: int, norm: float) -> None:
        """Count one step."""
        self.left -= 1
        self.bar.advance()

    def done(self) -> None:
        """Count those that are left."""
        self.bar.advance(self.left)
        self.left = 0
