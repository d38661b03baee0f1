"""Tables of docs/optimizers.md: errors of whole trainings, from scratch and adapted, the worst of all seeds."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.adaptation import lowest
from benchmarks.readme import kept
from benchmarks.readme.number import short
from benchmarks.readme.record import read, stamp
from benchmarks.records import LONG, after

PREFIX = "../benchmarks/results/"
NAMES = {"poisson": "Poisson, d = 2", "allen-cahn-1d": "Allen-Cahn, D = 1e-4", "burgers": "Burgers, nu = 0.01/pi"}
ORDER = {
    "gauss-newton": "Gauss-Newton",
    "ssbroyden": "SSBroyden",
    "ssbfgs": "SSBFGS",
    "bfgs": "BFGS",
    "lbfgs": "L-BFGS",
    "adam": "Adam",
}
TIMES = {"poisson": (5,), "allen-cahn-1d": (120, int(LONG)), "burgers": (120, 300, int(LONG))}
PUBLISHED = re.compile(r"^\| (\S+) \| ([^|]+) \| 20,000 \| (\S+) \|", re.MULTILINE)


def records() -> str:
    """Return errors from scratch after so many seconds, by optimizer."""
    found = kept.load("records")
    rows = []
    for problem, times in TIMES.items():
        for seconds in times:
            told = {name: _worst(found["cells"], problem, name, seconds) for name in ORDER}
            seeds = max(count for _, count in told.values())
            what = NAMES[problem] if seconds == times[0] else ""
            errors = (short(error) if error is not None else "" for error, _ in told.values())
            rows.append((what, str(seconds), str(seeds), *errors))
    trained = sorted({cell["figures"]["trained"] for cell in found["cells"].values()})
    head = (
        f"From scratch, float64, one thread, networks of {trained[0]} to {trained[-1]} numbers; relative L2 error, the "
        "worst of the seeds:"
    )
    return "\n\n".join(
        [
            head,
            kept.table(("equation", "seconds", "seeds", *ORDER.values()), rows),
            "\n".join(f"- {note}" for note in found["notes"]),
            kept.sources([kept.stamp("records", PREFIX)]),
        ]
    )


def _worst(cells: dict[str, Any], problem: str, optimizer: str, seconds: float) -> tuple[float | None, int]:
    """Return the greatest error over the seeds that were run for so long, and how many these are."""
    long = ", ten minutes" if seconds == LONG else ""
    found = [cells[name]["figures"] for name in cells if name.startswith(f"{problem}, {optimizer}{long}, seed")]
    errors = [after(own, seconds) for own in found if own["curve"]["seconds"][-1] >= seconds]
    return max((error for error in errors if error is not None), default=None), len(errors)


def adaptation() -> str:
    """Return squared errors of adapted networks beside the published ones."""
    cells = kept.load("adaptation")["cells"]
    published = _published()
    rows: dict[tuple[str, ...], list[tuple[float, int, float]]] = {}
    for name, cell in cells.items():
        width, number, method, optimizer, _ = name.split(", ")
        curve, trained = cell["figures"]["curve"], cell["figures"]["trained"]
        rows.setdefault((width, number, method, optimizer), []).append(
            (lowest(cell["figures"]), trained, curve["seconds"][-1])
        )
    told = [
        (
            *key,
            f"{found[0][1]:,}",
            str(len(found)),
            f"{max(own[2] for own in found):.0f}",
            short(max(own[0] for own in found)),
            short(published[key[1].removeprefix("c = ")]),
        )
        for key, found in sorted(rows.items(), key=_place)
    ]
    heads = ("network", "to", "method", "optimizer", "numbers", "seeds", "seconds", "squared error", "published")
    text = (
        "10-dimensional Allen-Cahn, adapted from c = 0, one thread; the squared error at the end, the median of the "
        "last three evaluations and the worst of the seeds, beside the better published one after 20,000 steps (arXiv "
        "2211.08760, width 300, soft constraints):"
    )
    record = read("svd-pinns")
    told_by = [kept.stamp("adaptation", PREFIX)]
    if record:
        told_by.append(stamp("svd-pinns", record, PREFIX))
    return "\n\n".join([text, kept.table(heads, told), kept.sources(told_by)])


def _place(item: tuple[tuple[str, ...], Any]) -> tuple[Any, ...]:
    width, number, method, optimizer = item[0]
    return int(width.split()[1]), float(number.split()[2]), method == "full", optimizer != "gauss-newton", optimizer


def _published() -> dict[str, float]:
    """Return the least published error of each c, from the record's own table."""
    text = (kept.RESULTS / "svd-pinns-replication.md").read_text("utf-8")
    found: dict[str, float] = {}
    for number, _, error in PUBLISHED.findall(text):
        found[number] = min(found.get(number, float("inf")), float(error))
    return found
