"""The bar that counts cells."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def tally(progress: bool) -> Progress:
    """Return a bar with the cells done, the `last` one of a task's fields, time gone and time left; redrawn by hand.

    It shows nothing unless `progress` and the error stream is a terminal.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[last]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        disable=not (progress and console.is_terminal),
    )
