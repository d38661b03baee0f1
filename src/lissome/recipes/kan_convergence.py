r"""How two-layer KANs converge under (stochastic) gradient descent (arXiv 2410.08041): its theorem and what tells more.

Residuals r, tangent kernel K = J J^T at the start, all in float64 on 1/2 |r|^2; points and bases live on [-1, 1]^d,
equidistant where d = 1, drawn where d is more. The start's output is subtracted, so r_0 is the same for every width m.

| part | runs |
|---|---|
| widths | descent at 1 / lambda_max by m: the bound, the prediction by eigenvectors, how far K drifts |
| stochastic | SGD by rows drawn with replacement, at multiples of eta*, and at 0.9 of the crude rule b / n |
| spectra | K alone, by points, dimension and basis |
| weights | Poisson's equation with boundary rows weighed by 1, by the balance of means, by that of traces |
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissome._vector import functional
from lissome.calculus import Tangent, balance, derivatives, drift, gram
from lissome.models import TwoLayerKAN
from lissome.recipes.descend import descend
from lissome.recipes.kan_convergence_claims import claims
from lissome.recipes.kan_convergence_report import HALF, WHOLE, drawings, tables
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick, no_data

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class System:
    """Residuals of a network: of values of sin(pi x), or of Poisson's equation whose solution is their product."""

    dimension: int
    basis: str
    inside: int = 50
    boundary: int = 0  # 0 is regression
    steps: int = 300


SYSTEMS = {
    "regression, d = 1": System(1, "bspline", steps=1000),
    "regression, d = 5": System(5, "bspline", steps=1000),
    "Poisson, d = 1, rbf": System(1, "rbf", boundary=2),
    "Poisson, d = 1, cubic": System(1, "bspline", boundary=2),
    "Poisson, d = 2, cubic": System(2, "bspline", boundary=20),
}
WIDTHS = (16, 64, 256, 1024, 4096)
NARROW = ("Poisson, d = 1, cubic", "Poisson, d = 2, cubic")  # theirs end at 1,024: nothing is asked of 4,096
BATCHES = (1, 5, 20)
FACTORS = {"0.9 eta*": 0.9, "2 eta*": 2.0, "4 eta*": 4.0, "0.9 crude": 0.9}
SPECTRA = (("bspline", 1), ("bspline", 2), ("bspline", 5), ("rbf", 1))
COUNTS = (50, 100, 200)
WEIGHED = {
    "cubic, d = 1": System(1, "bspline", 100, 2, 1200),
    "rbf, d = 1": System(1, "rbf", 100, 2, 1200),
    "cubic, d = 2": System(2, "bspline", 200, 40, 1200),
}
RUNS = (("cubic, d = 1", "Adam"), ("rbf, d = 1", "Adam"), ("cubic, d = 1", "descent"), ("cubic, d = 2", "Adam"))
WEIGHTS = ("1", "means", "traces")
INNER = 0.2  # of A for the weights: a start as smooth as the solution
RATE = 1e-2  # of Adam
SGD = {"width": 128, "steps": 4000}
DESCENTS = 2_000  # steps of plain descent on weighed rows
BROAD = 1024  # m of the spectra
SEEDS = 3
QUICK = {"widths": (16, 64), "steps": 40, "counts": (10, 20), "width": 16}
KEPT = 120  # points of a curve
HUGE = 1e300  # in place of what is not finite
ROUNDING = 1e-14  # of the first residual: where the bound ends


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, the small ones first.

    Raises:
        UsageError: files of data, of which this paper has none.
    """
    no_data(settings)
    quick = settings.quick
    widths = [
        {"part": "widths", "system": system, "width": m}
        for m in (QUICK["widths"] if quick else WIDTHS)
        for system in SYSTEMS
        if not (system in NARROW and m == WIDTHS[-1])
    ]
    spectra = [
        {"part": "spectra", "basis": basis, "dimension": d, "count": n}
        for (basis, d), n in itertools.product(SPECTRA, QUICK["counts"] if quick else COUNTS)
    ]
    stochastic = [
        {"part": "stochastic", "batch": b, "factor": factor} for b, factor in itertools.product(BATCHES, FACTORS)
    ]
    weights = [
        {"part": "weights", "system": system, "by": by, "weight": weight}
        for (system, by), weight in itertools.product(RUNS, WEIGHTS)
    ]
    found = []
    for seed in range(1 if quick else settings.seeds or SEEDS):
        for asked in (*spectra, *widths, *stochastic, *weights):
            name = ", ".join(f"{key} {value}" if key != "part" else str(value) for key, value in asked.items())
            found.append(Cell(f"{name}, seed {seed}", {**asked, "seed": seed, "quick": quick}))
    return sorted(found, key=lambda cell: cell.arguments.get("width", 0) > WIDTHS[-2])


def run(tick: Tick, _: Path, *, part: str, seed: int, quick: bool, **asked: Any) -> Row:
    """Run one cell of a part; return its figures."""
    begun = time.process_time()
    found = PARTS[part](tick, seed=seed, quick=quick, **asked)
    return {"part": part, "seed": seed, "quick": quick, **asked, **found, "seconds": time.process_time() - begun}


def points(system: System, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points inside (n, d) and on the boundary (b, d) of [-1, 1]^d, the latter on all faces in turn."""
    n, b, d = system.inside, system.boundary, system.dimension
    if d == 1:
        x = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
        return x[:, None], torch.tensor([[-1.0], [1.0]], dtype=torch.float64)[:b]
    x, edge = (2 * torch.rand(k, d, generator=generator, dtype=torch.float64) - 1 for k in (n, b))
    number = torch.arange(b)
    edge[number, number // 2 % d] = 2.0 * (number % 2).double() - 1
    return x, edge


def target(system: System, x: Tensor) -> Tensor:
    """Return what the network is to be at x: a sum of sines to be learnt, a product as the equation's solution."""
    waves = torch.sin(math.pi * x)
    return waves.prod(1) if system.boundary else waves.sum(1) / system.dimension**0.5


def residual(
    system: System, width: int, seed: int, *, inner: float = 1.0, weight: float = 1.0
) -> tuple[Callable[[Tensors], Tensor], Tensors, Callable[[Tensors, Tensor], Tensor]]:
    """Return r, the start, and the network less its start as a function of numbers and points.

    The operator is linear, so the start's rows are subtracted once: that is a network `centred`, at half its cost.
    """
    d = system.dimension
    x, edge = points(system, torch.Generator().manual_seed(seed))
    drawn = torch.Generator().manual_seed(1000 + seed)
    net = TwoLayerKAN(d, width=width, name=system.basis, inner=inner, centred=False, generator=drawn).double()
    root = weight**0.5

    def rows(net: TwoLayerKAN) -> Tensor:
        if not system.boundary:
            return net(x)[:, 0]
        bent = derivatives(net, x, second=((1.0,) * d,), mode="one-pass").second[0]  # (n,)
        return torch.cat([-bent, root * net(edge)[:, 0]])

    wanted = target(system, x)
    if system.boundary:
        wanted = torch.cat([d * math.pi**2 * wanted, root * target(system, edge)])
    made, theta = functional(rows, net)
    value, _ = functional(lambda net, z: net(z)[:, 0], net)
    with torch.no_grad():
        constant = made(theta) + wanted
    return (lambda numbers: made(numbers) - constant), theta, lambda numbers, z: value(numbers, z) - value(theta, z)


def widths(tick: Tick, *, system: str, width: int, seed: int, quick: bool) -> Row:
    """Descend at 1 / lambda_max and hold it against the bound and the prediction."""
    asked = SYSTEMS[system]
    r, theta, _ = residual(asked, width, seed)
    before = gram(r, theta).dense()
    kernel, start = Tangent.of(before), r(theta)
    step, steps = 1 / kernel.largest, QUICK["steps"] if quick else asked.steps
    measured, end = descend(r, theta, step=step, steps=steps, tick=lambda *_: tick())
    predicted, bound = (make(start, step, steps) for make in (kernel.predict, kernel.bound))
    parts = {"predicted": predicted / measured[0], "measured": measured / measured[0], "bound": bound / measured[0]}
    last = predicted[-1] if float(predicted[-1]) > 0 else torch.tensor(1 / HUGE)
    return {
        "largest": kernel.largest,
        "smallest": kernel.smallest,
        "error": _told((parts["predicted"] - parts["measured"]).abs().max()),
        "loss": _told((measured[-1] / last).square()),  # measured over predicted
        "over": _told((measured / bound.clamp(min=ROUNDING * float(bound[0])))[1:].max()),
        "drift": drift(before, gram(r, end).dense()),
        "curve": _thin(parts),
    }


def stochastic(tick: Tick, *, batch: int, factor: str, seed: int, quick: bool) -> Row:
    """Descend by rows drawn at random."""
    r, theta, _ = residual(SYSTEMS["regression, d = 5"], QUICK["width"] if quick else SGD["width"], seed)
    kernel = Tangent.of(gram(r, theta).dense())
    limits = {"eta*": kernel.stochastic_step(batch), "crude": kernel.step * batch / len(kernel.eigenvalues)}
    step = FACTORS[factor] * limits[factor.split()[1]]
    steps = QUICK["steps"] if quick else SGD["steps"]
    generator = torch.Generator().manual_seed(seed)
    norms, _ = descend(r, theta, step=step, steps=steps, batch=batch, generator=generator, tick=lambda *_: tick())
    norms = norms / norms[0]
    first = {str(mark): next(iter(torch.nonzero(norms <= mark)[:, 0].tolist()), None) for mark in (HALF, WHOLE)}
    return {
        "eta": step,
        "limit": limits["eta*"],
        "crude": limits["crude"],
        "reached": first,
        "cap": steps,
        "end": _told(norms[-1]),
        "curve": _thin({"measured": norms}),
    }


def spectra(tick: Tick, *, basis: str, dimension: int, count: int, seed: int, quick: bool) -> Row:
    """Return the eigenvalues of K, largest first, over the largest."""
    r, theta, _ = residual(System(dimension, basis, count), QUICK["width"] if quick else BROAD, seed)
    tick()
    kernel = Tangent.of(gram(r, theta).dense())
    values = kernel.eigenvalues.flip(0) / kernel.largest
    return {"largest": kernel.largest, "smallest": kernel.smallest, "eigenvalues": values.tolist()}


def weights(tick: Tick, *, system: str, by: str, weight: str, seed: int, quick: bool) -> Row:
    """Solve Poisson's equation with weighed boundary rows; return the relative L2 errors on the way."""
    asked = WEIGHED[system]
    width, steps = 64, DESCENTS if by == "descent" else asked.steps
    if quick:
        width, steps = QUICK["width"], QUICK["steps"]
    r, theta, _ = residual(asked, width, seed, inner=INNER)
    diagonal = gram(r, theta).dense().diagonal()
    inside, outside = diagonal[: asked.inside], diagonal[asked.inside :]
    found = {"1": 1.0, "means": balance(inside, outside), "traces": float(inside.sum() / outside.sum())}[weight]
    r, theta, value = residual(asked, width, seed, inner=INNER, weight=found)
    fresh = torch.Generator().manual_seed(seed + 500)
    z = 2 * torch.rand(1000, asked.dimension, generator=fresh, dtype=torch.float64) - 1
    truth = target(asked, z)

    def error(numbers: Tensors) -> float:
        with torch.no_grad():
            return _told((value(numbers, z) - truth).norm() / truth.norm())

    if by == "Adam":
        curve = _adam(tick, r, theta, steps, error)
    else:
        step = 1 / Tangent.of(gram(r, theta).dense()).largest
        curve, numbers, piece = [(0, 1.0)], theta, max(1, steps // 20)
        for k in range(piece, steps + 1, piece):
            _, numbers = descend(r, numbers, step=step, steps=piece, tick=lambda *_: tick())
            curve.append((k, error(numbers)))
    kept = {"step": [k for k, _ in curve], "error": [e for _, e in curve]}
    return {"value": found, "error": curve[-1][1], "curve": kept}


def _adam(
    tick: Tick, r: Callable[[Tensors], Tensor], theta: Tensors, steps: int, error: Callable[[Tensors], float]
) -> list[tuple[int, float]]:
    numbers = {name: each.clone().requires_grad_() for name, each in theta.items()}
    mover = torch.optim.Adam(numbers.values(), lr=RATE)
    curve, every = [(0, error(numbers))], max(1, steps // 40)
    for k in range(1, steps + 1):
        mover.zero_grad()
        (r(numbers).square().sum() / 2).backward()
        mover.step()
        tick()
        if k % every == 0 or k == steps:
            curve.append((k, error(numbers)))
    return curve


PARTS: dict[str, Callable[..., Row]] = {
    "widths": widths,
    "stochastic": stochastic,
    "spectra": spectra,
    "weights": weights,
}


def _told(value: Tensor) -> float:
    """Return a number that JSON can hold."""
    return float(value.nan_to_num(HUGE, HUGE, -HUGE))


def _thin(curves: dict[str, Tensor]) -> Row:
    """Keep points that lie evenly on a logarithmic axis as well as on a plain one."""
    last = len(next(iter(curves.values()))) - 1
    even, fine = np.linspace(0, last, KEPT // 2), np.geomspace(1, max(1, last), KEPT // 2)
    kept = np.unique(np.concatenate([even, fine]).round().astype(int))
    found = {name: curve[torch.from_numpy(kept)].clamp(max=HUGE).tolist() for name, curve in curves.items()}
    return {"step": kept.tolist(), **found}


PAPER = Paper(
    arxiv="2410.08041",
    title="Two-layer KANs under gradient descent",
    symbols={
        "m": "TwoLayerKAN(width=m)",
        "A, C": "TwoLayerKAN.inner.weight, outer.weight",
        "G = J J^T": "calculus.gram(r, theta), Tangent",
        "lambda_min, lambda_max": "Tangent.smallest, largest",
        "eta, eta*": "descend(step=...), Tangent.stochastic_step(batch)",
        "w_in, w_bd": "1, calculus.balance(inside, outside)",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=(
        "Points and bases live on [-1, 1]^d: equidistant where d = 1, drawn where d is more; bases have 5 intervals.",
        "The theorems are the paper's; settings and all other claims are of this replication.",
        "The network's start is subtracted, so that the first residual is the same for every width.",
        f"Weighed equations start with A at {INNER} of what keeps the variance, m = 64; Adam takes 1,200 steps at "
        f"{RATE:g}, plain descent {DESCENTS:,} at 1 / lambda_max.",
        "A quick look is of small networks and few steps: its cells are in the tables and count for no claim.",
    ),
)
