"""The table of combinations: methods of several papers at once, beside the same without one of them."""

from __future__ import annotations

import statistics

from benchmarks.combinations import COMBINATIONS, SEEDS, Beside, Combination, beside, rows_of
from benchmarks.combined.ways import Rows
from benchmarks.readme import kept
from benchmarks.readme.number import plain

HEADS = ("together", "mean of the seeds", "better than, beyond chance", "not told apart from", "worse than")


def block() -> str:
    """Return the table of those whose seeds are all there, or a sentence where none is."""
    found = {name: cell["figures"] for name, cell in kept.load("combinations")["cells"].items()}
    told = [(one, rows) for name, one in COMBINATIONS.items() if len(rows := rows_of(found, name)) == len(SEEDS)]
    if not told:
        return "None is measured yet."
    notes = "; ".join(kept.load("combinations")["notes"])
    words = (
        "Each beside itself without one of its parts, from the same start; the mean (of ratios the geometric one) and, "
        "in brackets, least and greatest over the seeds, of the other's error over that of the combination, or of its "
        "nats less those. "
        f"To know: {notes}."
    )
    table = kept.table(HEADS, [_row(one, rows) for one, rows in told])
    return "\n\n".join([table, words, kept.sources([kept.stamp("combinations")])])


def _row(one: Combination, rows: list[Rows]) -> tuple[str, ...]:
    sides: dict[str, list[str]] = {"better": [], "level": [], "worse": []}
    for way in one.ways[1:]:
        found = beside(rows, one, way)
        sides[_side(one, found)].append(_told(one, way, found))
    own = plain(statistics.mean(beside(rows, one, one.ways[0]).figures))
    return one.title, f"{own} {one.unit}, {len(rows)} seeds", *("<br>".join(told) or "–" for told in sides.values())


def _side(one: Combination, found: Beside) -> str:
    """Return where a way stands: the combination is better than it where the way's figure is the greater."""
    if not found.shown:
        return "level"
    return "better" if found.mean > (1 if one.ratio else 0) else "worse"


def _told(one: Combination, way: str, found: Beside) -> str:
    ends = [plain(number) if one.ratio else f"{number:+.3f}" for number in (found.mean, found.least, found.greatest)]
    return f"{way}: {ends[0]} ({ends[1]} to {ends[2]})"
