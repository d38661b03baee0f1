"""The progress bar: loss, error and time left; silent when nobody watches."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lissome.optim.method import Budget

EVERY = 0.2  # seconds between two drawings


class Bar:
    """A bar on the error stream, drawn a few times per second by the training thread itself."""

    def __init__(self, budget: Budget, *, show: bool, console: Console | None = None):
        console = console or Console(stderr=True)
        self.show = show and console.is_terminal
        self.budget = budget
        self.due = 0.0
        if self.show:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("step {task.fields[step]}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,  # a second thread would compete with the steps
            )
            self.task = self.progress.add_task("", total=1.0, step=0, figures="")

    def __enter__(self) -> Bar:
        if self.show:
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.show:
            self.progress.stop()

    def draw(self, step: int, seconds: float, row: dict[str, Any] | None, *, now: bool = False) -> None:
        """Draw if it is time to; costs a clock reading otherwise."""
        if not self.show or (time.monotonic() < self.due and not now):
            return
        self.due = time.monotonic() + EVERY
        done = [seconds / self.budget.seconds] if self.budget.seconds else []
        done += [step / self.budget.steps] if self.budget.steps else []
        figures = [f"{key} {row[key]:.2e}" for key in ("loss", "error") if row and row.get(key) is not None]
        self.progress.update(
            self.task, completed=min(max(done), 1.0), step=step, figures="  ".join(figures), refresh=True
        )
