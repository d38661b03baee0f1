"""`python -m benchmarks [NAME...] [--quick] [--again] [--only TEXT]`: run what is not yet known here, and keep it."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import record, trials
from benchmarks.memory import peak
from benchmarks.race import race
from benchmarks.registry import Benchmark, Cell, DisagreementError
from lissome.optim import keep_memory

# a module is loaded when it is asked for: not every machine has every peer
RACES = (
    "pde-step",
    "laplacian",
    "gauss-newton-step",
    "together",
    "ranks",
    "gates",
    "kan",
    "decoder",
    "dape",
    "self-adjust",
    "compact",
    "training",
    "caches",
    "gpu-attention",
    "looped",
)
TRIALS = (
    "records",
    "adaptation",
    "arcm",
    "combinations",
)
BENCHMARKS = (*RACES, *TRIALS)


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="3 rounds of each cell, and nothing is kept")
    parser.add_argument("--again", action="store_true", help="run cells that are known, too")
    parser.add_argument("--only", default="", help="of the trainings, those whose name holds this text")
    parser.add_argument("--jobs", type=int, default=0, help="trainings at once; 0 is one per core")
    asked = parser.parse_args()
    for name in asked.name:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")
    console, refused = Console(), 0
    for name in asked.name or BENCHMARKS:
        benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}").BENCHMARK
        if name in RACES:
            refused += run(benchmark, console, quick=asked.quick, again=asked.again)
        else:
            how = {"quick": asked.quick, "again": asked.again, "only": asked.only, "jobs": asked.jobs}
            refused += trials.run(benchmark, console, **how)
    return 1 if refused else 0


def run(benchmark: Benchmark, console: Console, *, quick: bool, again: bool) -> int:
    """Run a benchmark cell by cell; return how many cells were refused because a contestant is wrong."""
    console.rule(benchmark.title)
    kept, refused = record.read(benchmark), 0
    stamp = record.source(benchmark)
    for cell in benchmark.cells:
        known = kept["cells"].get(cell.name)
        here = known and known["source"] == stamp and known["machine"]["cpu"] == record.machine()["cpu"]
        if here and not (quick or again):
            console.print(table(cell, known))
            continue
        try:
            found = measure(cell, 3 if quick else cell.rounds) | {"source": stamp}
        except DisagreementError as error:
            console.print(f"[red]{cell.name}: no time is given, {error}[/red]")
            refused += 1
            continue
        console.print(table(cell, found))
        if not quick:
            kept["cells"][cell.name] = found
            record.write(benchmark, kept)
    if not (benchmark.cells or quick):
        record.write(benchmark, kept)  # notes say why nothing could be measured here
    for note in benchmark.notes:
        console.print(f"- {note}")
    return refused


def measure(cell: Cell, rounds: int) -> dict[str, Any]:
    """Run one race, on two threads whatever the machine has, in a compiler's cache of its own."""
    torch.compiler.reset()
    keep_memory()  # as the command line does; the peers gain by it too
    before, contestants = os.getloadavg()[0], cell.prepare()
    times = race(contestants, rounds=rounds, burst=cell.burst)
    found = record.summary(cell, times, (round(before, 2), round(os.getloadavg()[0], 2)))
    peaks = {name: round(peak(call) / 1e6, 1) for name, call in contestants.items()} if cell.memory else {}
    return found | ({"peak_mb": peaks} if peaks else {})


def table(cell: Cell, found: dict[str, Any]) -> Table:
    """Return a table of times and of ratios to the cell's unit."""
    rounds = len(next(iter(found["raw_ms"].values())))
    out = Table(title=f"{cell.name}, {rounds} rounds, {found['date'][:10]}", title_justify="left")
    out.add_column("contestant")
    for head in ("median ms", "fastest ms", f"x {cell.unit}", "quartiles", "fastest / fastest"):
        out.add_column(head, justify="right")
    peaks = found.get("peak_mb", {})
    if peaks:
        out.add_column("peak MB", justify="right")
    for name, ratio in sorted(found["ratio"].items(), key=lambda item: -item[1]["median"]):
        out.add_row(
            name,
            f"{found['median_ms'][name]:.2f}",
            f"{found['fastest_ms'][name]:.2f}",
            f"{ratio['median']:.2f}",
            f"{ratio['low']:.2f} to {ratio['high']:.2f}",
            f"{ratio['fastest']:.2f}",
            *([f"{peaks[name]:.1f}" if name in peaks else ""] if peaks else []),
        )
    said = []
    for target in found["targets"]:
        bound = f"at least {target['least']}" if target["least"] is not None else f"at most {target['most']}"
        met = "[green]met[/green]" if target["met"] else "[red]missed[/red]"
        said.append(f"{target['slow']} / {target['fast']}: {target['found']:.2f}, wanted {bound}: {met}")
    out.caption = "\n".join(said) or None
    return out


if __name__ == "__main__":
    raise SystemExit(main())
