"""The page of one run: its numbers, its figures, its settings."""

from __future__ import annotations

from pathlib import Path

from lissome.report.comparison import again, is_comparison
from lissome.report.document import figure, gallery
from lissome.report.drawing import palette
from lissome.report.edges import edges
from lissome.report.figures import LAYERS, Curve, progress, residuals, slices, spectra
from lissome.report.numerals import count, quantity, seconds, setting, share
from lissome.report.read import Row, Run, finite, layers, read_run, series
from lissome.report.run_page import run_page

VERBS = {"solve": "Solving", "adapt": "Adapting"}
TOLD = {
    "kind",
    "family",
    "dimension",
    "parameters",
    "method",
    "error",
    "trained",
    "total",
    "seconds",
    "steps",
    "loss",
    "fresh",
    "finished",
    "inputs",
    "outputs",
}


def heading(row: Row) -> str:
    """Name a run in one line."""
    verb = VERBS.get(str(row.get("kind")), "Run:")
    method = f" by {row['method']}" if row.get("method") not in (None, row.get("kind")) else ""
    return f"{verb} {equation(row)}{method}"


def equation(row: Row) -> str:
    """Name the member of a family.

    >>> equation({"family": "heat", "dimension": 1, "parameters": {"kappa": 0.1}})
    'heat (d = 1, kappa = 0.1)'
    """
    told = {"d": row.get("dimension"), **(row.get("parameters") or {})}
    values = ", ".join(f"{key} = {setting(value)}" for key, value in told.items() if value is not None)
    return f"{row.get('family') or 'a problem'}{f' ({values})' if values else ''}"


def lead(run: Run, row: Row) -> str:
    """Say in one sentence what came out."""
    error = finite(row, "error")
    if run.finished and "error" not in row:
        return f"No solution is known, so no error; the fresh loss is {quantity(finite(row, 'fresh'))}."
    if error is None:
        return (
            "There is no evaluation with a finite error yet."
            if not run.finished
            else "The run ended without a finite error."
        )
    took = f"after {count(finite(row, 'steps'))} steps and {seconds(finite(row, 'seconds'))} s"
    trained, total = finite(row, "trained"), finite(row, "total")
    part = f" ({share(trained, total)} of {count(total)})" if total and trained != total else ""
    numbers = "" if trained is None else f" with {count(trained)} trained numbers{part}"
    return f"Relative L2 error {quantity(error)} {took}{numbers}."


def overfit(row: Row) -> str:
    """Compare the loss on fresh points with that of training."""
    loss, fresh = finite(row, "loss"), finite(row, "fresh")
    return f"{quantity(fresh / loss)} times the train loss" if loss and fresh is not None and loss > 0 else ""


def drawings(run: Run, row: Row) -> str:
    """Draw and write every figure for which the run has data."""
    method = str(row.get("method") or "run")
    styles, folder = palette([(method, method)]), run.path / "figures"
    by_steps, by_seconds = (Curve(method, *series(run.metrics, x, "error")) for x in ("step", "seconds"))
    train = Curve("training points", *series(run.metrics, "step", "loss"))
    fresh = Curve("fresh points", *series(run.metrics, "step", "fresh"))
    x, exact, network = (run.curves.get(f"slice_{name}") for name in ("x", "exact", "network"))
    along = slices(x, exact, [Curve(method, x, network)], styles) if x is not None and network is not None else None
    weights = layers(run)
    some = f"; the first {LAYERS} of {len(weights)} layers" if len(weights) > LAYERS else ""
    shown = [
        figure(folder, "error-steps", progress([by_steps], x="steps", styles=styles), "Error against steps"),
        figure(folder, "error-seconds", progress([by_seconds], x="seconds", styles=styles), "Error against seconds"),
        figure(
            folder,
            "residual",
            residuals(train, fresh, styles[method].colour),
            "Residual loss on training and on fresh points",
        ),
        figure(folder, "slice", along, f"A slice of the solution{'' if exact is None else ': network and exact'}"),
        figure(
            folder,
            "singular-values",
            spectra(weights, [styles[method].colour] * len(weights)),
            f"Singular values of the weights before and after{some}",
        ),
        *edges(folder, run.curves, row.get("inputs"), row.get("outputs"), styles[method].colour),
    ]
    return gallery(shown) or "<p>No evaluations yet, so there are no figures.</p>"


def page(directory: str | Path) -> Path:
    """Write figures/*.svg and index.html of a run, finished or in progress, and return the path of the page.

    A comparison directory is legal too: it is compared again from its runs.

    Raises:
        UsageError: the directory is no run, or one of its files is broken.
    """
    path = Path(directory)
    if is_comparison(path):
        return again(path)
    run = read_run(path)
    row = run.row()
    trained = share(finite(row, "trained"), finite(row, "total"))
    numbers = [
        ("relative L2 error", quantity(finite(row, "error")), ""),
        (
            "trained numbers",
            count(finite(row, "trained")),
            f"{trained} of {count(finite(row, 'total'))}" if trained and trained != "100%" else "",
        ),
        ("seconds", seconds(finite(row, "seconds")), ""),
        ("steps", count(finite(row, "steps")), ""),
        ("train loss", quantity(finite(row, "loss")), ""),
        ("fresh loss", quantity(finite(row, "fresh")), overfit(row)),
    ]
    return run_page(run, row, heading(row), lead(run, row), numbers, shown=[drawings(run, row)], told=TOLD)
