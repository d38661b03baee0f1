"""The table of speeds beside named peers, and every target that was missed, whether the table has it or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.race import ratio
from benchmarks.readme import kept
from benchmarks.readme.number import numbers, times
from benchmarks.readme.races import FILES, RACES, Race

HEADS = ("what", "beside", "speed, theirs = 1", "wanted")
SOLVERS = {"trust-exact": "scipy trust-exact", "L-BFGS-B": "scipy L-BFGS-B", "torch LBFGS": "torch LBFGS"}


class Missed(NamedTuple):
    """A target that was not met: where, between whom, the speed, and what was wanted."""

    file: str
    cell: str
    pair: frozenset[str]
    text: str


def block() -> str:
    """Return the table, what was missed beside it, and where the files are from."""
    races = [*RACES, *_targets("gpu-attention")]
    rows = [_row(race) for race in races]
    there = {(race.file, race.cell, frozenset((race.theirs, race.ours))) for race in races}
    left = [one.text for one in missed() if (one.file, one.cell, one.pair) not in there]
    others = [kept.sources(left, f"Targets that were missed and are not in the table: {len(left)}")] if left else []
    place = max(number for number, race in enumerate(races) if race.file == "together") + 1
    rows[place:place] = _solvers()
    known = [name for name in FILES if kept.load(name)["cells"]]
    told = [_unmeasured(name) for name in FILES if name not in known and kept.load(name).get("notes")]
    return "\n\n".join(
        [
            kept.table(HEADS, rows),
            "Medians over rounds, quartiles in brackets; above 1 ours is faster.",
            *told,
            *others,
            kept.sources(kept.stamp(name) for name in known),
        ]
    )


def _targets(name: str) -> Iterator[Race]:
    """Return a row for each pair that a file has a target for, in the file's own words."""
    for title, cell in kept.load(name)["cells"].items():
        for one in cell["targets"]:
            ours, theirs = _pair(one)
            yield Race(name, title, theirs, ours, f"on a GPU, {title}, {ours}", theirs)


def _pair(target: dict[str, Any]) -> tuple[str, str]:
    """Return what is ours of a target, and the peer: a least ratio is theirs over ours, a most ours over theirs."""
    slow, fast = target["slow"], target["fast"]
    return (fast, slow) if target["least"] is not None else (slow, fast)


def _row(race: Race) -> tuple[str, str, str, str]:
    cell = kept.cell(race.file, race.cell)
    strange = numbers(race.what) - numbers(f"{race.cell} {race.theirs}")
    if strange:
        raise LookupError(f"'{race.what}' says {', '.join(sorted(strange))}, and the cell is '{race.cell}'")
    found = ratio(cell["raw_ms"], race.theirs, race.ours)
    target = next((one for one in cell["targets"] if {one["slow"], one["fast"]} == {race.theirs, race.ours}), None)
    low, high = times(found.low), times(found.high)
    speed = times(found.median) + (f" ({low} to {high})" if low != high else "")
    return race.what, race.peer, speed, _wanted(target, race.ours) if target else "–"


def _wanted(target: dict[str, Any], ours: str) -> str:
    """Return the least speed that a target asks for, and whether it is there."""
    bound = target["least"] if target["least"] is not None else target["most"]
    least = bound if target["fast"] == ours else 1 / bound
    return f"{times(least)}, {'met' if target['met'] else '**missed**'}"


def _solvers() -> Iterator[tuple[str, str, str, str]]:
    """Return rows of cubic regularisation: how many times as long each solver takes, over all problems."""
    cells = [
        cell["figures"]["seconds"] for name, cell in kept.load("arcm")["cells"].items() if name.startswith("seconds, ")
    ]
    for number, (peer, name) in enumerate(SOLVERS.items()):
        found = [cell[peer] / cell["ours"] for cell in cells if cell[peer] is not None]
        what = "" if number else f"regression by ARC, {len(cells)} problems"
        yield what, name, f"{times(min(found))} to {times(max(found))}", "–"


def missed() -> Iterator[Missed]:
    """Return every target that a kept race missed, and every aim that trainings missed."""
    for name in FILES:
        found = kept.load(name)
        for title, cell in found["cells"].items():
            for target in cell.get("targets", ()):
                if not target["met"]:
                    yield _missed(name, title, target)
        for aim in found.get("aims", ()):
            if not aim["met"]:
                yield Missed(
                    name, aim["what"], frozenset(), f"{name}, {aim['what']}: {aim['found']:.3g} of {aim['most']:.3g}"
                )


def _missed(name: str, title: str, target: dict[str, Any]) -> Missed:
    ours, theirs = _pair(target)
    speed = target["found"] if target["least"] is not None else 1 / target["found"]
    bound = target["least"] if target["least"] is not None else 1 / target["most"]
    text = f"{name}, {title}, {ours} beside {theirs}: {speed:.2f} of {bound:.2f}"
    return Missed(name, title, frozenset((ours, theirs)), text)


def _unmeasured(name: str) -> str:
    """Return what a file without figures says of it."""
    notes = [note for note in kept.load(name)["notes"] if note.startswith("not measured")]
    return f"{kept.link(f'{name}.json')}: {'; '.join(notes)}."
