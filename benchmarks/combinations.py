r"""Four combinations of methods, each beside the same thing without one of its parts, over three seeds.

    sight    a decoder that sees separators, by SA-Softmax and DAPE V2       beside each of the three left away
    family   Gauss-Newton and ranks by curvature on the heat equation        beside equal ranks, other cuts, Adam
    kan      LoTRA on a KAN under ARCm, Klein-Gordon                         beside Adam, all weights, the last layer
    lora     ranks by curvature of a peft LoRA on attention of SA-Softmax    beside equal ranks, other cuts, softmax

All ways of a seed have one start, one order of batches and one rate. `beside` is the figure of a way over that of the
combination, where the figure is an error, and its difference, where it is nats; t of its mean over the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

from benchmarks.combined import family, kan, lora, sight
from benchmarks.combined.ways import Rows
from benchmarks.trials import Aim, Figures, Trial, Trials

SEEDS = (0, 1, 2)
CHANCE = 4.303  # |t| of three seeds that chance exceeds one time in twenty


@dataclass(frozen=True)
class Combination:
    """One of the four.

    Attributes:
        title: what it is.
        figure: the key of a way's figure.
        run: (seed, quick) -> figures of all ways, the combination first.
        ratio: whether figures are errors, which are compared by their ratio.
        ways: their names.
        unit: what the figure is told in.
    """

    title: str
    figure: str
    run: Callable[..., Figures]
    ratio: bool
    ways: tuple[str, ...]
    unit: str


COMBINATIONS = {
    "sight": Combination(
        "separators, SA-Softmax and DAPE V2", "nats", sight.run, False, tuple(sight.WAYS), "nats of a byte"
    ),
    "family": Combination(
        "Gauss-Newton and ranks by curvature", "error", family.run, True, tuple(family.WAYS), "relative L2 error"
    ),
    "kan": Combination("LoTRA on a KAN under ARCm", "error", kan.run, True, tuple(kan.WAYS), "relative L2 error"),
    "lora": Combination(
        "ranks of a LoRA under SA-Softmax", "nats", lora.run, False, tuple(lora.WAYS), "nats of a byte"
    ),
}


class Beside(NamedTuple):
    """A way over the seeds: its figures, and beside those of the combination the mean, the extremes and t."""

    figures: list[float]
    mean: float
    least: float
    greatest: float
    t: float

    @property
    def shown(self) -> bool:
        """Whether chance alone would give as much less than one time in twenty."""
        return abs(self.t) > CHANCE


def rows_of(found: Mapping[str, Figures], name: str) -> list[Rows]:
    """Return the ways of each seed that is known."""
    return [found[key]["ways"] for seed in SEEDS if (key := f"{name}, seed {seed}") in found]


def beside(rows: list[Rows], one: Combination, way: str) -> Beside:
    """Compare a way with the combination, seed by seed; ratios by their geometric mean."""
    figures = [row[way][one.figure] for row in rows]
    whole = [row[one.ways[0]][one.figure] for row in rows]
    gaps = [math.log(a / b) if one.ratio else a - b for a, b in zip(figures, whole, strict=True)]
    spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    t = statistics.mean(gaps) / spread * math.sqrt(len(gaps)) if spread else math.nan
    mean, least, greatest = (
        math.exp(gap) if one.ratio else gap for gap in (statistics.mean(gaps), min(gaps), max(gaps))
    )
    return Beside(figures, mean, least, greatest, t)


def table(found: Mapping[str, Figures]) -> Table:
    """Return figures as mean and standard deviation, and each way beside the combination."""
    out = Table(title="mean (spread) of the seeds; a way beside the combination", title_justify="left")
    for head in ("combination", "way", "numbers", "figure", "beside", "t"):
        out.add_column(head)
    for name, one in COMBINATIONS.items():
        rows = rows_of(found, name)
        for way in one.ways if rows else ():
            told = beside(rows, one, way)
            spread = statistics.stdev(told.figures) if len(rows) > 1 else math.nan
            numbers = statistics.mean(row[way]["numbers"] for row in rows)
            gap = f"{told.mean:.3g} ({told.least:.3g} to {told.greatest:.3g})"
            last = ["", ""] if way == one.ways[0] else [gap, f"{told.t:.1f}{' shown' if told.shown else ''}"]
            out.add_row(name, way, f"{numbers:,.0f}", f"{statistics.mean(told.figures):.4g} ({spread:.2g})", *last)
    return out


def aims(found: Mapping[str, Figures]) -> list[Aim]:
    """Return what was wanted: each part is worth its place, in the mean; and a cache gives what the mask gives."""
    out = []
    for name, one in COMBINATIONS.items():
        rows = rows_of(found, name)
        for way in one.ways[1:] if rows else ():
            told = beside(rows, one, way).mean
            out.append(
                Aim(f"{name}: the combination beside '{way}'", 1 / told if one.ratio else -told, one.ratio * 1.0)
            )
    rows = rows_of(found, "sight")
    worst = max((row[sight.WHOLE]["cache off by"] for row in rows), default=None)
    out.append(Aim("sight: logits by the cache beside those by the mask, worst seed", worst, 1e-3))
    return out


BENCHMARK = Trials(
    "combinations",
    "Four combinations of methods, each beside itself without one of its parts",
    tuple(
        Trial(f"{name}, seed {seed}", one.run, {"seed": seed, "quick": False})
        for seed in SEEDS
        for name, one in COMBINATIONS.items()
    ),
    table,
    aims,
    lambda arguments: {**arguments, "quick": True},
    (
        "one rate for all ways of a combination, chosen for none of them; small models, few steps: which part is worth "
        "its place here says little of larger ones",
        "numbers are those trained in the end; terms are equal, and layers have other shapes",
    ),
)
