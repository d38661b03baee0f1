"""What a benchmark is: cells, each a race, with the targets its times are held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.race import Contestant, Times


@dataclass(frozen=True)
class Target:
    """Time of `slow` over that of `fast`: at least `least`, or at most `most`."""

    slow: str
    fast: str
    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        """Say whether a ratio is good enough."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)


@dataclass(frozen=True)
class Cell:
    """One race.

    Args:
        name: unique within its benchmark.
        prepare: makes the contestants, and refuses those whose numbers are wrong (`agree`).
        unit: the contestant that the others are compared with.
        rounds: how many.
        derive: further rows, computed from the times of the same round.
        targets: what the ratios are held to.
        burst: calls per turn, see `race`.
        memory: whether the peak of each contestant is told too.
    """

    name: str
    prepare: Callable[[], Mapping[str, Contestant]]
    unit: str
    rounds: int
    derive: Callable[[Times], Times] = lambda times: {}
    targets: tuple[Target, ...] = ()
    burst: int = 0
    memory: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Cells under one name; `notes` go into the results as they are.

    Args:
        name: of its file of results.
        title: one line.
        cells: the races.
        notes: what has to be known to read them.
        rooms: packages of the library whose code is timed.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ("calculus",)


class DisagreementError(Exception):
    """A contestant computes something else, so its speed says nothing."""


def agree(name: str, found, truth, tolerance: float) -> None:
    """Compare lists of tensors by their largest difference.

    Raises:
        DisagreementError: they differ by more than `tolerance` of the largest entry.
    """
    for index, (a, b) in enumerate(zip(found, truth, strict=True)):
        gap = float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
        if not gap <= tolerance:
            raise DisagreementError(f"'{name}' differs from the reference by {gap:.1e} in number {index}")
