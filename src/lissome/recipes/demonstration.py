"""The demonstration: one equation solved, three members of its family by four methods, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome.recipes import directory
from lissome.recipes.adaptation import adapt
from lissome.recipes.settings import AdaptSettings, SolveSettings, inherited, load
from lissome.recipes.solution import solve

TARGETS = [{"c": 0.5}, {"c": 2.0}, {"c": 5.0}]
METHODS = ["svd", "lora", "last", "full"]
SOLVE = {
    "family": "allen-cahn",
    "dimension": 10,
    "parameters": {"c": 0.0},
    "constraint": "boundary",
    "network": {"width": 64, "depth": 2, "activation": "gelu"},
    "points.draw": "mixed",
    "training": {"optimizer": "gauss-newton", "steps": 100},
}
ADAPT = {"training": {"optimizer": "gauss-newton", "steps": 60}}
QUICK = {"training.steps": 10, "training.evaluate": 5}
FEW = {"points.interior": 128, "points.boundary": 32, "points.initial": 32}


def demo(
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    quick: bool = False,
    progress: bool = True,
    jobs: int | None = 1,
) -> list[dict[str, Any]]:
    """Solve 10-d Allen-Cahn for c = 0, adapt it to three further c by four methods, and draw the page.

    Args:
        out: directory; a demonstration that was broken off goes on where it stopped.
        seed: of everything random.
        device: as in settings.
        quick: a look in seconds.
        progress: show bars.
        jobs: how many adaptations at once, as in `adapt`.

    Returns:
        One summary per target and method.
    """
    start, adapted = Path(out) / "solved", Path(out) / "adapted"
    common = {"seed": seed, "device": device}
    asked = load(SolveSettings, given=SOLVE | common | (QUICK | FEW if quick else {}))
    if not directory.finished(start, asked):
        solve(asked, start, resume=directory.holds(start), progress=progress)
    given = {"run": str(start), "targets": TARGETS, "methods": METHODS} | common | ADAPT | (QUICK if quick else {})
    settings = load(AdaptSettings, given=given, beneath=inherited(start))
    return adapt(settings, adapted, resume=directory.holds(adapted), progress=progress, jobs=jobs)
