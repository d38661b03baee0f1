"""The demonstration: one equation solved, three members of its family by four methods, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome.recipes.adaptation import adapt
from lissome.recipes.settings import AdaptSettings, SolveSettings, inherited, validate
from lissome.recipes.solution import solve

TARGETS = [{"c": 0.5}, {"c": 2.0}, {"c": 5.0}]
METHODS = ["svd", "lora", "last", "full"]
SOLVE = {"network": {"width": 64, "depth": 2, "activation": "relu3"}, "training": {"steps": 4000}}
ADAPT = {"training": {"steps": 1000}}


def demo(out: str | Path, *, seed: int = 0, quick: bool = False, progress: bool = True) -> list[dict[str, Any]]:
    """Solve 10-d Allen-Cahn for c = 0, adapt it to three further c by four methods, and draw the page.

    Args:
        out: directory; a demonstration that was broken off goes on where it stopped.
        seed: of everything random.
        quick: a look in seconds.
        progress: show bars.

    Returns:
        One summary per target and method.
    """
    out = Path(out)
    small = {"training": {"steps": 40, "evaluate": 20, "compile": False}} if quick else {}
    points = {"points": {"interior": 128, "boundary": 32, "initial": 32}} if quick else {}
    first = validate(SolveSettings, {"family": "allen-cahn", "dimension": 10, "seed": seed} | SOLVE | points | small)
    start = out / "solved"
    if not (start / "summary.json").is_file():
        solve(first, start, resume=(start / "checkpoint").exists(), progress=progress)
    data = {"run": str(start), "targets": TARGETS, "methods": METHODS, "seed": seed} | inherited(start) | ADAPT | small
    there = (out / "adapted" / "settings.yaml").is_file()
    return adapt(validate(AdaptSettings, data), out / "adapted", resume=there, progress=progress)
