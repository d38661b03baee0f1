r"""Who is best over many problems: ranks, wins, factors to the best, and what a difference of ranks must be to count.

A block is one member of one family; a contestant's error in it is the geometric mean over seeds, infinite where a seed
failed. Ranks within a block, the best being 1, are averaged over blocks. By Nemenyi's test two of k contestants over N
blocks differ at the level of 5% where their mean ranks are further apart than

    CD = q sqrt(k (k + 1) / (6 N)),   q the 95% point of the studentised range over k, divided by sqrt(2)

Reference: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

Row = Mapping[str, Any]
Block = tuple[str, str]  # family, target
LEVEL = 0.05
NEAR_BEST = 2.0  # times the least error of a block


@dataclass(frozen=True)
class Standing:
    """One contestant.

    Attributes:
        name: of the contestant.
        rank: mean over blocks, 1 is the best.
        low: the least mean rank over seeds, each seed ranked by itself.
        high: the greatest.
        wins: blocks in which it is best.
        close: blocks in which its error is at most twice the least.
        factor: geometric mean over blocks of its error over the least, where both are known.
        places: target -> mean rank.
        blocks: in how many it took part.
        seeds: the fewest that it has in one of them.
        failed: runs without an error.
    """

    name: str
    rank: float
    low: float
    high: float
    wins: int
    close: int
    factor: float
    places: Mapping[str, float]
    blocks: int
    seeds: int
    failed: int


@dataclass(frozen=True)
class Scatter:
    """The seeds of one contestant in one block.

    Attributes:
        mean: geometric mean of the errors of those seeds that have one; infinite for none.
        factor: exp of the standard deviation of their logarithms, n - 1 below; None for fewer than two.
        seeds: how many there are.
        failed: how many of them have no error.
    """

    mean: float
    factor: float | None
    seeds: int
    failed: int


@dataclass(frozen=True)
class Apart:
    """Friedman's test that all contestants are equal, over the blocks that all are in, and Nemenyi's difference."""

    contestants: int
    blocks: int
    p: float
    difference: float


def errors(rows: Sequence[Row]) -> dict[Block, dict[str, float]]:
    """Return block -> contestant -> error over the seeds; rows have family, target, name, error."""
    return {block: {name: _mean(each) for name, each in own.items()} for block, own in _seeds(rows).items()}


def scatters(rows: Sequence[Row]) -> dict[Block, dict[str, Scatter]]:
    """Return block -> contestant -> how its seeds are spread.

    >>> same = {"family": "heat", "target": "near", "name": "a"}
    >>> found = scatters([same | {"error": error} for error in (0.1, 0.4, None)])["heat", "near"]["a"]
    >>> round(found.mean, 3), round(found.factor, 3), found.seeds, found.failed
    (0.2, 2.665, 3, 1)
    """
    return {block: {name: _scatter(each) for name, each in own.items()} for block, own in _seeds(rows).items()}


def standings(rows: Sequence[Row]) -> list[Standing]:
    """Return the contestants, the best first.

    >>> same = {"family": "heat", "target": "near", "seed": 0}
    >>> found = standings([same | {"name": "a", "error": 0.1}, same | {"name": "b", "error": 0.3}])
    >>> [(each.name, each.rank, each.wins) for each in found]
    [('a', 1.0, 1), ('b', 2.0, 0)]
    """
    blocks, runs = errors(rows), _seeds(rows)
    ranks = _ranks(blocks)
    by_seed = [_ranks(errors([row for row in rows if row["seed"] == seed])) for seed in {row["seed"] for row in rows}]
    best = {block: min(own.values()) for block, own in blocks.items()}
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = {block: own[name] for block, own in ranks.items() if name in own}
        seeds = [
            statistics.mean(own[name] for own in each.values() if name in own) for each in by_seed if _in(each, name)
        ]
        factors = {block: _over(blocks[block][name], best[block]) for block in mine}
        finite = [factor for factor in factors.values() if math.isfinite(factor)]
        targets = dict.fromkeys(target for _, target in mine)
        found.append(
            Standing(
                name,
                statistics.mean(mine.values()),
                min(seeds),
                max(seeds),
                sum(factor == 1 for factor in factors.values()),
                sum(factor <= NEAR_BEST for factor in factors.values()),
                statistics.geometric_mean(finite) if finite else math.inf,
                {each: statistics.mean(rank for (_, t), rank in mine.items() if t == each) for each in targets},
                len(mine),
                min(len(own[name]) for own in runs.values() if name in own),
                sum(row["name"] == name and not math.isfinite(_known(row)) for row in rows),
            )
        )
    return sorted(found, key=lambda each: (each.rank, each.factor))


def told_apart(rows: Sequence[Row]) -> Apart | None:
    """Return the tests over the blocks that all contestants share; None for fewer than 3 contestants or 2 blocks."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    shared = [own for own in errors(rows).values() if len(own) == len(names)]
    if len(names) < 3 or len(shared) < 2:
        return None
    table = np.array([[own[name] for own in shared] for name in names])  # (k, N)
    k, blocks = table.shape
    same = bool((table == table[0]).all())
    p = 1.0 if same else float(friedmanchisquare(*rankdata(table, axis=0)).pvalue)
    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
    return Apart(k, blocks, p, q * math.sqrt(k * (k + 1) / (6 * blocks)))


def wins(blocks: Mapping[Block, Mapping[str, float]], names: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return for each pair in how many blocks the first has the smaller error, and how many blocks both are in."""
    return [
        [
            (
                sum(own[one] < own[other] for own in blocks.values() if one in own and other in own),
                sum(one in own and other in own for own in blocks.values()),
            )
            for other in names
        ]
        for one in names
    ]


def _seeds(rows: Sequence[Row]) -> dict[Block, dict[str, list[float]]]:
    """Return block -> contestant -> the error of each seed."""
    found: dict[Block, dict[str, list[float]]] = {}
    for row in rows:
        block = found.setdefault((row["family"], row["target"]), {})
        block.setdefault(row["name"], []).append(_known(row))
    return found


def _scatter(each: Sequence[float]) -> Scatter:
    fine = [error for error in each if math.isfinite(error)]
    factor = math.exp(statistics.stdev(map(math.log, fine))) if len(fine) > 1 else None
    return Scatter(statistics.geometric_mean(fine) if fine else math.inf, factor, len(each), len(each) - len(fine))


def _ranks(blocks: Mapping[Block, Mapping[str, float]]) -> dict[Block, dict[str, float]]:
    return {
        block: dict(zip(own, map(float, rankdata(list(own.values()))), strict=True)) for block, own in blocks.items()
    }


def _in(ranks: Mapping[Block, Mapping[str, float]], name: str) -> bool:
    return any(name in own for own in ranks.values())


def _known(row: Row) -> float:
    error = row["error"]
    return math.inf if error is None or not math.isfinite(error) else max(float(error), np.finfo(float).tiny)


def _mean(values: Sequence[float]) -> float:
    return math.inf if math.inf in values else statistics.geometric_mean(values)


def _over(error: float, best: float) -> float:
    return math.inf if math.isinf(error) else error / best
