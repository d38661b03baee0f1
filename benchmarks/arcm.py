r"""Adaptive cubic regularisation beside scipy's, torch's and pytorch-minimize's methods, on a9a and w8a.

Set LISSOME_DATA to a folder that holds a9a and w8a in LIBSVM form; without it data that need no file are taken. Three
kinds of trials for each data and problem: what each preset of the family counts from three starts; seconds from 0 to
|g| <= 1e-6 beside the peers, in turns, best of 5, and who gets to 1e-9; the same with automatic differentiation alone.

All contestants ask the same oracle, which keeps its margins, and end at the first gradient that is small enough, so no
peer's own rule for stopping costs it anything. Methods that ask for products get A^T (d * (A v)).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from benchmarks.trials import Aim, Figures, Trial, Trials
from lissome.optim.arc import ARC, PRESETS, minimize
from lissome.optim.design import design
from lissome.optim.regression import LOSSES, PENALTIES
from lissome.recipes.arcm import METHODS, PROBLEMS, STARTS, begin_at, load, oracle
from lissome.recipes.labelled import Labelled, has_breast_cancer

FILES = ("a9a", "w8a")
FOLDER = os.environ.get("LISSOME_DATA")
TURNS = 5
LIMIT = 20.0  # seconds of one turn to 1e-6
PATIENCE = 10  # times the seconds to 1e-6 that a contestant has to reach 1e-9
SCIPY = {
    "trust-exact": {"gtol": 0.0},
    "trust-krylov": {"gtol": 0.0},
    "trust-ncg": {"gtol": 0.0},
    "Newton-CG": {"xtol": 0.0},
    "L-BFGS-B": {"gtol": 0.0, "ftol": 0.0, "maxfun": 10**6},
}
OURS = "ARCm default"
COUNTED = tuple(name for name in METHODS if name not in ("CR", "CRm"))


class Done(Exception):
    """A gradient is small enough, or the time is over."""


class Referee:
    """The oracle as all peers ask it; it ends a turn."""

    def __init__(self, data: Labelled, problem: str, tolerance: float, limit: float):
        self.oracle, self.tolerance = oracle(data, problem), tolerance
        self.robust = problem == "robust"
        self.design = design(data.A)
        self.labels = 2 * data.b - 1 if self.robust else data.b
        self.weight = 0.0 if self.robust else 1e-3 if problem == "logistic 1e-3" else 1 / len(data.b)
        self.least, self.end = np.inf, time.perf_counter() + limit
        self.known: tuple[np.ndarray, Tensor, Tensor] | None = None

    def value(self, x: np.ndarray) -> float:
        """Return f(x)."""
        return self.oracle.value(torch.from_numpy(x))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return the gradient (p,), or end the turn."""
        g = self.oracle.gradient(torch.from_numpy(x))[1]
        self.least = min(self.least, float(g.norm()))
        if self.least <= self.tolerance or time.perf_counter() > self.end:
            raise Done
        return g.numpy()

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Return the Hessian (p, p)."""
        B = self.oracle.hessian(torch.from_numpy(x))
        assert isinstance(B, Tensor)
        return B.numpy()

    def product(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the Hessian's product with v (p,)."""
        if self.known is None or not np.array_equal(self.known[0], x):
            point = torch.from_numpy(x)
            d = LOSSES["robust" if self.robust else "logistic"].second(self.design.times(point), self.labels)
            self.known = (x.copy(), d / len(d), self.weight * PENALTIES["saturating"].second(point))
        _, d, diagonal = self.known
        along = torch.from_numpy(np.ascontiguousarray(v))
        return (self.design.back(d * self.design.times(along)) + diagonal * along).numpy()


def ours(referee: Referee, x: Tensor) -> float:
    """Run the default; return the norm of the gradient where it ended."""
    return minimize(referee.oracle, x, PRESETS["default"], tolerance=referee.tolerance).gradient_norm


def scipys(name: str) -> Callable[[Referee, Tensor], float]:
    """Return a contestant of scipy."""
    second = {"trust-exact": "hess", "L-BFGS-B": None}.get(name, "hessp")

    def run(referee: Referee, x: Tensor) -> float:
        more: dict[str, Any] = {"hess": referee.hessian} if second == "hess" else {}
        more |= {"hessp": referee.product} if second == "hessp" else {}
        options = SCIPY[name] | {"maxiter": 100_000}
        scipy_minimize(referee.value, x.numpy(), jac=referee.gradient, method=name, options=options, **more)
        return referee.least

    return run


def torchs(referee: Referee, x: Tensor) -> float:
    """Run torch.optim.LBFGS with its strong Wolfe search."""
    p = torch.nn.Parameter(x.clone())
    some = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([p], max_iter=100_000, max_eval=10**6, **some)

    def closure() -> Tensor:
        point = p.detach().numpy()
        p.grad = torch.from_numpy(referee.gradient(point))
        return torch.tensor(referee.value(point), dtype=torch.float64)

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return referee.least


def torchmins(referee: Referee, x: Tensor) -> float:
    """Run pytorch-minimize's trust-krylov, which is handed the oracle in place of its automatic differentiation."""
    torchmin = importlib.import_module("torchmin")
    function = importlib.import_module("torchmin.function")
    minimizer = importlib.import_module("torchmin.optim.minimizer")

    class Given(minimizer.Minimizer):
        nfev, _hessp, _hess = 0, True, False

        def __init__(self):
            pass  # no parameters: it is asked for closures alone

        def closure(self, x: Tensor) -> Any:
            point = x.detach().clone().numpy()
            operator = type("Operator", (), {"mv": staticmethod(
                lambda v: torch.from_numpy(referee.product(point, v.numpy())))})()  # fmt: skip
            f, g = referee.value(point), torch.from_numpy(referee.gradient(point))
            return function.sf_value(f=torch.tensor(f, dtype=torch.float64), grad=g, hessp=operator, hess=None)

    torchmin.minimize(Given(), x, "trust-krylov", tol=0.0, max_iter=100_000)
    return referee.least


def contestants() -> dict[str, Callable[[Referee, Tensor], float]]:
    """Return those that are installed."""
    found: dict[str, Callable[[Referee, Tensor], float]] = {"ours": ours, **{name: scipys(name) for name in SCIPY}}
    found["torch LBFGS"] = torchs
    if importlib.util.find_spec("torchmin") is not None:
        found["pytorch-minimize trust-krylov"] = torchmins
    return found


def turn(
    run: Callable[[Referee, Tensor], float], data: Labelled, problem: str, tolerance: float, limit: float = LIMIT
) -> tuple[float, float, str]:
    """Return seconds, infinite where the tolerance is not reached, the least norm of a gradient, and how it failed."""
    referee, x, failed = Referee(data, problem, tolerance, limit), begin_at(data, "0", 0), ""
    begun = time.perf_counter()
    try:
        least = run(referee, x)
    except Done:
        least = referee.least
    except RuntimeError as error:  # pytorch-minimize's word where its Krylov space is exhausted
        least, failed = referee.least, str(error)
    return time.perf_counter() - begun if least <= tolerance else np.inf, least, failed


def seconds(source: str, problem: str, quick: bool = False) -> Figures:
    """Let all contestants run from 0 to 1e-6 in turns, and once to 1e-9 with `PATIENCE` times as long."""
    data, rows = load(source, quick), contestants()
    best, failed = dict.fromkeys(rows, np.inf), {}
    for number in range(1 if quick else TURNS):
        # who comes first pays for new memory, so another one does in each turn
        order = sorted(rows, key=lambda name: (list(rows).index(name) - number) % len(rows))
        for name in order:
            run = rows[name]
            if number == 0 or np.isfinite(best[name]):  # one that failed would fail again
                took, _, failed[name] = turn(run, data, problem, 1e-6)
                best[name] = min(best[name], took)
    fine = {}
    for name, run in rows.items():
        limit = max(1.0, PATIENCE * best[name]) if np.isfinite(best[name]) else 1.0
        fine[name] = turn(run, data, problem, 1e-9, limit)[1]
    told = {name: time if np.isfinite(time) else None for name, time in best.items()}
    return {"seconds": told, "least": fine, "failed": {name: why for name, why in failed.items() if why}}


def counts(source: str, problem: str, quick: bool = False) -> Figures:
    """Count iterations and Hessians to 1e-6 from three starts, and note whether 1e-9 is reached."""
    data, found = load(source, quick), {}
    for start in STARTS:
        for name in COUNTED:
            marks: dict[str, list[int] | None] = {"1e-6": None, "1e-9": None}
            spent = [0, 0]

            def on_step(state: Any, report: Any, marks: Any = marks, spent: Any = spent) -> None:
                spent[:] = spent[0] + 1, spent[1] + report.hessians
                for tolerance in marks:
                    if marks[tolerance] is None and float(state.g.norm()) <= float(tolerance):
                        marks[tolerance] = list(spent)

            x = begin_at(data, start, 0)
            minimize(oracle(data, problem), x, METHODS[name], tolerance=1e-9, iterations=500, on_step=on_step)
            found.setdefault(start, {})[name] = marks
    return found


def autograd(source: str, problem: str, quick: bool = False) -> Figures:
    """Run the optimizer from 0 to 1e-6 with a loss alone, and with the closed Hessian beside it."""
    data = load(source, quick)
    A = data.A if isinstance(data.A, Tensor) else torch.from_numpy(data.A.toarray())
    closed, robust = oracle(data, problem), problem == "robust"
    b = 2 * data.b - 1 if robust else data.b
    weight = 0.0 if robust else 1e-3 if problem == "logistic 1e-3" else 1 / len(b)
    found: Figures = {}
    for name in ("auto", "callback"):
        p = torch.nn.Parameter(begin_at(data, "0", 0))

        def loss(p: Tensor = p) -> Tensor:
            z = A @ p
            each = ((b - z).square() / 2).log1p() if robust else torch.nn.functional.softplus(z) - b * z
            return each.mean() + weight * (p.square() / (1 + p.square())).sum()

        hessian = (lambda p=p: closed.hessian(p.detach())) if name == "callback" else None
        optimizer, begun, steps = ARC([p], hessian=hessian), time.perf_counter(), 0
        hessians = products = 0
        slope = np.inf
        while slope > 1e-6 and steps < 500 and time.perf_counter() - begun < LIMIT:
            optimizer.step(loss)
            assert optimizer.report is not None
            hessians, products = hessians + optimizer.report.hessians, products + optimizer.report.products
            slope, steps = float(closed.gradient(p.detach())[1].norm()), steps + 1
        found[name] = {
            "seconds": time.perf_counter() - begun,
            "steps": steps,
            "hessians": hessians,
            "products": products,
            "gradient_norm": slope,
            "chosen": {None: "the callback's", True: "exact", False: "krylov"}[optimizer.param_groups[0]["dense"]],
        }
    return found


def table(found: Mapping[str, Figures]) -> Table:
    """Return a line per data and problem: seconds of all, what autograd chose, who reached 1e-9."""
    names = list(dict.fromkeys(name for key, row in found.items() if "seconds, " in key for name in row["seconds"]))
    out = Table(title="seconds from 0 to 1e-6, best of turns; * reaches 1e-9", title_justify="left")
    for head in ("data", *names, "autograd"):
        out.add_column(head, justify="left" if head == "data" else "right")
    for key, row in found.items():
        kind, _, place = key.partition(", ")
        if kind != "seconds":
            continue
        cells = []
        for name in names:
            took, fine = row["seconds"].get(name), row["least"].get(name, np.inf) <= 1e-9
            cells.append(("-" if took is None else f"{took:.3f}") + ("*" if fine else ""))
        alone = found.get(f"autograd, {place}")
        told = "" if alone is None else f"{alone['auto']['seconds']:.2f} {alone['auto']['chosen']}"
        out.add_row(place, *cells, told)
    return out


def aims(found: Mapping[str, Figures]) -> list[Aim]:
    """Return what was wanted; of a9a and w8a where they are known, else of what there is."""
    real = {key: row for key, row in found.items() if any(f", {name}, " in key for name in FILES)} or found
    starts = [runs for key, row in real.items() if key.startswith("counts, ") for runs in row.values()]
    races = {key: row for key, row in real.items() if key.startswith("seconds, ")}

    def mean(one: str, other: str, number: int) -> float | None:
        pairs = [(runs[one]["1e-6"], runs[other]["1e-6"]) for runs in starts]
        ratios = [a[number] / b[number] for a, b in pairs if a and b]
        return geometric_mean(ratios) if ratios and len(ratios) == len(pairs) else None

    def worst(peer: str, where: str = "") -> float | None:
        times = [(row["seconds"].get("ours"), row["seconds"].get(peer)) for key, row in races.items() if where in key]
        ratios = [(mine or np.inf) / theirs for mine, theirs in times if theirs]  # a peer that fails is slower
        return max(ratios, default=None)

    missed = [runs[OURS]["1e-9"] is None for runs in starts]
    return [
        Aim("iterations, default / ARC, geometric mean", mean(OURS, "ARC", 0), 0.65),
        Aim("Hessians, default / ARC", mean(OURS, "ARC", 1), 0.6),
        Aim("Hessians, default / trust region", mean(OURS, "TR", 1), 0.99),
        Aim("iterations, published / ARC of its sigma", mean("ARCm published", "ARC, same sigma", 0), 0.9),
        Aim("seconds, worst, ours / trust-exact", worst("trust-exact"), 1.0),
        Aim("seconds, worst, ours / trust-exact at 1/N", worst("trust-exact", "1/N"), 0.5),
        Aim("seconds, worst, ours / trust-krylov", worst("trust-krylov"), 0.7),
        Aim("seconds, worst, ours / trust-ncg", worst("trust-ncg"), 0.7),
        Aim("starts from which the default does not reach 1e-9", float(sum(missed)) if missed else None, 0.0),
    ]


def _sources() -> dict[str, str]:
    """Return the names of the data and where they are."""
    if FOLDER is not None:
        return {name: str(Path(FOLDER) / name) for name in FILES}
    return {name: name for name in ("synthetic", *(["breast-cancer"] if has_breast_cancer() else []))}


def _trials() -> tuple[Trial, ...]:
    kinds = {"counts": counts, "seconds": seconds, "autograd": autograd}
    return tuple(
        Trial(f"{kind}, {name}, {problem}", run, {"source": source, "problem": problem})
        for kind, run in kinds.items()
        for name, source in _sources().items()
        for problem in PROBLEMS
    )


BENCHMARK = Trials(
    "arcm",
    "Adaptive cubic regularisation beside its peers, float64, one thread",
    _trials(),
    table,
    aims,
    lambda arguments: {**arguments, "quick": True},
    (
        *(() if FOLDER else ("LISSOME_DATA names no folder with a9a and w8a: data that need no file were taken",)),
        "a peer ends at the first gradient that is small enough, also of a step it would have rejected",
        f"1e-9 counts as reached within {PATIENCE} times the seconds to 1e-6, or one second",
        "seconds of automatic differentiation are with A as a dense matrix",
    ),
)
