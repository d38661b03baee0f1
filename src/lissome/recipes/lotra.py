r"""LoTRA (arXiv 2502.06153): a KAN is fitted to a new task by a Tucker form of low rank on each layer's tensor.

    W = W0 + C x1 U1 x2 U2 x3 U3,   C: r1 x r2 x r3, trained with U1, U2, U3; W0 frozen

from a function to another and from an equation to another of its family, beside training everything, the last layer,
and a network drawn anew; what the change of all weights is like; and learning rates by component. Slim KAN, of the
same paper, is `lissome replicate slim-kan`.

Differs from the paper: its networks and equations are not ours, and its tables are not repeated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome.recipes import lotra_functions, lotra_pde, lotra_rates
from lissome.recipes.lotra_claims import claims
from lissome.recipes.lotra_names import FUNCTION, PDE, POINTS, POLICIES, RATES, START, WAYS, WIDTH, WIDTHS
from lissome.recipes.lotra_report import drawings, tables
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick, no_data

PARTS = {FUNCTION: lotra_functions.run, PDE: lotra_pde.run, RATES: lotra_rates.run}
SEEDS = 3


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, seed by seed: functions, equations, then the sweep of rates.

    Raises:
        UsageError: files of data, of which this paper has none.
    """
    no_data(settings)
    found = list[Cell]()
    for seed in range(1 if settings.quick else settings.seeds or SEEDS):
        same: dict[str, Any] = {"seed": seed, "quick": settings.quick}
        found += _functions(same, settings.quick) + _equations(same, settings.quick) + _sweep(same, settings.quick)
    return found


def _first(name: str, asked: Row) -> Cell:
    return Cell(f"{name}, {START}", asked | {"label": START})


def _functions(same: Row, quick: bool) -> list[Cell]:
    found = []
    for task in list(lotra_functions.TASKS)[:1] if quick else lotra_functions.TASKS:
        name = f"{task}, seed {same['seed']}"
        shared = same | {"part": FUNCTION, "task": task, "width": WIDTH}
        first = _first(name, shared)
        found.append(first)
        for points in POINTS[::2] if quick else POINTS:
            found += [
                Cell(f"{name}, {points} points, {way}", shared | {"label": way, "points": points}, first.name)
                for way in WAYS
            ]
    return found


def _equations(same: Row, quick: bool) -> list[Cell]:
    found = []
    for family in list(lotra_pde.FAMILIES)[:1] if quick else lotra_pde.FAMILIES:
        name = f"{family}, seed {same['seed']}"
        shared = same | {"part": PDE, "task": family, "width": WIDTH}
        first = _first(name, shared)
        found += [first, *(Cell(f"{name}, {way}", shared | {"label": way}, first.name) for way in WAYS)]
    return found


def _sweep(same: Row, quick: bool) -> list[Cell]:
    found = []
    for width in WIDTHS[:1] if quick else WIDTHS:
        name = f"rates, width {width}, seed {same['seed']}"
        shared = same | {"task": lotra_rates.TASK, "width": width}
        first = _first(name, shared | {"part": FUNCTION})
        found += [
            first,
            *(Cell(f"{name}, {policy}", shared | {"part": RATES, "label": policy}, first.name) for policy in POLICIES),
        ]
    return found


def run(tick: Tick, place: Path, *, part: str, task: str, width: int, seed: int, quick: bool, label: str,
        points: int = 0) -> Row:  # fmt: skip
    """Run one cell: a start, a transfer, or a policy at one width."""
    own = {"part": part, "task": task, "width": width, "seed": seed, "quick": quick, "label": label, "points": points}
    more = {key: value for key, value in own.items() if key != "part"}
    return own | {"failed": None} | PARTS[part](tick, place, **more)


def _members() -> str:
    """Say which member of each family is solved, and which one its network is fitted to."""
    said = []
    for name, members in lotra_pde.FAMILIES.items():
        near, far = (", ".join(f"{key} = {value:g}" for key, value in member.items()) for member in members)
        said.append(f"{name} from {near} to {far}")
    return "; ".join(said)


PAPER = Paper(
    arxiv="2502.06153",
    title="LoTRA: fine-tuning of Kolmogorov-Arnold networks in low tensor rank",
    symbols={
        "A in R^(n_in x n_out x K)": "KANLayer.weight, (out, K, in)",
        "G, U1, U2, U3": "core, factor0 (out), factor2 (in), factor1 (basis) of adapt.lotra",
        "LoTRA": "adapt(network, 'lotra', ranks=...)",
        "learning rates of the components": "adapt.rates.component_rates",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=(
        f"KANs of two hidden layers of {WIDTH}, B-splines of order 3 on 5 intervals with silu, K = 9, float32, Adam "
        "with a rate that falls as a cosine. Forms of equal rank in all modes lie on the tensors of all three layers, "
        "the random core and U1 = 0 at the start; nothing beside them is trained.",
        f"Functions: f is fitted at 4,000 points, g(x) = 1.2 f(0.8 x + 0.15) in {lotra_functions.WHOLE.steps} steps at "
        "30, 100 or 1,000; errors are relative ones at 1,000 others. Each way has the best of the rates "
        f"{', '.join(f'{rate:g}' for rate in lotra_functions.RATES)} by further 1,000 points.",
        f"Equations: {_members()}; {lotra_pde.WHOLE.steps} steps at {sum(lotra_pde.WHOLE.points)} new points "
        "each, values on the boundary exact, initial values at the balanced weight; each way has the better of "
        f"{' and '.join(f'{rate:g}' for rate in lotra_pde.RATES)} as rate by the loss at points that no training saw.",
        f"Rates by component: forms of rank 4 on {lotra_rates.TASK}, {lotra_rates.STEPS} steps, each policy at its "
        "best base rate by further points; how that moves with the width is read off a parabola through three rates.",
        "Seconds are those of one core at the rate that was best, evaluations included.",
        "A quick look is of few steps: its cells are in the tables and count for no claim.",
    ),
)
