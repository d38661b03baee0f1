"""The table of papers: what shows of each, by how much, and what does not, as its kept record says."""

from __future__ import annotations

import re

from docs._ext.papers import GUIDES

from benchmarks.readme import kept
from benchmarks.readme.headlines import HEADLINES
from benchmarks.readme.record import Record, read, said, stamp
from lissome.recipes.catalogue import CATALOGUE, Entry
from lissome.recipes.replication import BESIDE

HEADS = ("paper, and how it is run again", "how it is used", "what shows", "what does not")


def block() -> str:
    """Return the table, and where its records are from."""
    names = [name for entry in CATALOGUE for name in _parts(entry)]
    found = {name: record for name in names if (record := read(name))}
    count = _count(list(found.values()))
    note = (
        f"{count} Numbers are ratios to what is named, least and greatest over seeds in brackets, and a claim is on "
        "the side where its record puts it."
    )
    return "\n\n".join(
        [
            kept.table(HEADS, [_row(entry, found) for entry in CATALOGUE]),
            note,
            kept.sources(stamp(name, record) for name, record in found.items()),
        ]
    )


def _parts(entry: Entry) -> list[str]:
    """Return the names that a paper is replicated by."""
    return [entry.name, *(name for name, paper in BESIDE.items() if paper.arxiv == entry.arxiv)]


def _count(records: list[Record]) -> str:
    verdicts = [claim.verdict for record in records for claim in record.claims]
    shown, missed, left = (verdicts.count(kind) for kind in ("shown", "not shown", "not measured"))
    told = f", {left} could not be measured" if left else ""
    return f"Of {len(verdicts)} claims, the papers' and our own, {shown} show, {missed} do not{told}."


def _row(entry: Entry, found: dict[str, Record]) -> tuple[str, ...]:
    parts = _parts(entry)
    title = re.split(r"[:,(]", entry.title)[0].strip()
    told: dict[str, list[str]] = {"shown": [], "not shown": [], "not measured": []}
    for name in parts:
        for part, words in HEADLINES[name].items() if name in found else ():
            claim = found[name].claim(part)
            told[claim.verdict].append("" if claim.found is None else said(claim, words))
    records = ", ".join(
        f"[{_shown(found[name])}](benchmarks/results/{name}-replication.md)" for name in parts if name in found
    )
    again = "<br>".join(f"`lissome replicate {name}`" for name in parts)
    first = (
        f"**{title}**, [{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})<br>{again}<br>{records or 'no record yet'}"
    )
    use = f"`{GUIDES[entry.name].commands[0].removeprefix('lissome ')}`"
    return (
        first,
        use,
        *("<br>".join(f"• {words}" for words in told[kind] if words) or "–" for kind in ("shown", "not shown")),
    )


def _shown(record: Record) -> str:
    return f"{sum(claim.verdict == 'shown' for claim in record.claims)} of {len(record.claims)} claims"
