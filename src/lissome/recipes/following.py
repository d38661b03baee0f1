"""What each small form could follow of the update that training all weights made: why an adapter fails, or does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lissome._files import write_json
from lissome.adapt import METHODS, reach
from lissome.recipes.archive import load_solution
from lissome.recipes.cell import Cell
from lissome.report.read import read_json


def follow(whole: Cell, others: Sequence[Cell], out: Path) -> None:
    """Write `reach` into the summaries of those cells whose large weights are small forms.

    Args:
        whole: a finished cell that trained all weights.
        others: finished cells of the same target and optimizer.
        out: directory of the comparison.
    """
    after = dict(load_solution(out / whole.name).network.named_parameters())
    before = dict(whole.base.network.named_parameters())
    for cell in others:
        if not METHODS[cell.method].formed:
            continue
        forms = {
            path: form for path, form in cell.adapted().forms().items() if bool((after[path] != before[path]).any())
        }
        updates = {path: (after[path] - before[path]).detach().double() for path in forms}
        sizes = {path: float(update.square().sum()) for path, update in updates.items()}
        if sizes:
            followed = sum(reach(form, updates[path]) * sizes[path] for path, form in forms.items())
            place = out / cell.name / "summary.json"
            write_json(place, read_json(place) | {"reach": followed / sum(sizes.values())})
