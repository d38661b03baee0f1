"""What follows from the runs of a benchmark under one budget, as values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lissome.recipes.standings import Apart, Block, Standing, errors, scatters, standings, told_apart

Row = dict[str, Any]
BUDGETS = {"seconds": "the same seconds", "operations": "the same operations"}


@dataclass(frozen=True)
class Board:
    """The runs under one budget, and what follows from them."""

    budget: str
    rows: Sequence[Row]
    errors: Mapping[Block, Mapping[str, float]]
    found: Sequence[Standing]
    apart: Apart | None

    @classmethod
    def of(cls, budget: str, rows: Sequence[Row]) -> Self:
        """Return the board of these runs, each with the name of its contestant."""
        return cls(budget, rows, errors(rows), standings(rows), told_apart(rows))

    @property
    def seeds(self) -> int:
        """The most seeds that a contestant has in all its members."""
        return max(each.seeds for each in self.found)

    @property
    def adapters(self) -> dict[str, str]:
        """Contestant -> its adapter."""
        return {row["name"]: row["adapter"] for row in self.rows}

    def best(self, own: Mapping[str, float]) -> dict[str, str]:
        """Return adapter -> the contestant that has it and the least of these errors."""
        adapters, best = self.adapters, dict[str, str]()
        for name in sorted(own, key=own.__getitem__):
            best.setdefault(adapters[name], name)
        return {adapter: best[adapter] for adapter in dict.fromkeys(adapters.values()) if adapter in best}


def lines(board: Board) -> list[Row]:
    """Return the leaderboard of one budget as plain values."""
    found = []
    for place, each in enumerate(board.found, start=1):
        mine = [row for row in board.rows if row["name"] == each.name]
        took = [row["seconds"] for row in mine if row["seconds"] is not None]
        found.append(
            {
                "budget": board.budget,
                "place": place,
                "contestant": each.name,
                "adapter": mine[0]["adapter"],
                "optimizer": mine[0]["optimizer"],
                "made_by": mine[0].get("made_by"),
                "rank": each.rank,
                "rank_low": each.low,
                "rank_high": each.high,
                "wins": each.wins,
                "within_twice": each.close,
                "factor": each.factor if math.isfinite(each.factor) else None,
                "ranks": dict(each.places),
                "members": each.blocks,
                "seeds": each.seeds,
                "fewer_seeds": each.seeds < board.seeds,
                "runs": len(mine),
                "trained_share": statistics.mean(row["trained"] / row["total"] for row in mine),
                "seconds": statistics.median(took) if took else None,
                "failed": each.failed,
            }
        )
    return found


def scattered(board: Board) -> list[Row]:
    """Return, for each member and contestant, the error and its spread over seeds as plain values."""
    found = []
    for (family, target), own in scatters(board.rows).items():
        for name, each in own.items():
            where = {"budget": board.budget, "family": family, "target": target, "contestant": name}
            mean = each.mean if math.isfinite(each.mean) else None
            found.append(where | {"error": mean, "factor": each.factor, "seeds": each.seeds, "failed": each.failed})
    return found
