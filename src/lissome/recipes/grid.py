"""The tasks of a grid below one bar, each result kept as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from lissome._errors import Interrupted
from lissome.optim.machine import Stop
from lissome.recipes.engine import Task, run
from lissome.recipes.tally import tally


def run_grid(
    tasks: Sequence[Task],
    keep: Callable[[Task, Any], str],
    *,
    stop: Stop,
    progress: bool,
    jobs: int,
    engine: str = "processes",
) -> None:
    """Run tasks; no worker is left when it ends.

    Args:
        tasks: what is to be run.
        keep: told of each task and its result, which it keeps; returns what the bar says of it.
        stop: the wish to stop, which is looked at a few times per second.
        progress: show a bar.
        jobs: tasks at once.
        engine: as `engine.run` takes it.

    Raises:
        Interrupted: somebody wished to stop.
        UsageError, RunError: as `engine.run`.
    """
    bar = tally(progress)
    counted = bar.add_task("", total=len(tasks), last="")

    def tick() -> None:
        if stop.name:
            raise Interrupted(f"stopped by {stop.name}")
        bar.refresh()

    with bar, contextlib.closing(run(tasks, engine=engine, jobs=jobs, tick=tick)) as ended:
        for task, result in ended:
            bar.update(counted, advance=1, last=keep(task, result))
            tick()
