"""The kept record of a replication: where it is from, and its claims with what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.readme import kept
from benchmarks.readme.number import Spread, numbers

LINE = re.compile(r"^- \*\*(shown|not shown|not measured)\*\* \(([^)]*)\): (.*)$", re.MULTILINE)
FOUND = re.compile(r": (\S+) \((\S+) to (\S+) over seeds; \d+ cells")


class Claim(NamedTuple):
    """A line of a record: its verdict, who claims it, the line, and the number that was measured."""

    verdict: str
    source: str
    text: str
    found: Spread | None


@dataclass(frozen=True)
class Record:
    """What a record says: the command it was made by, its day, machine and commit, and its claims."""

    command: str
    day: str
    machine: str
    commit: str
    claims: tuple[Claim, ...]

    def claim(self, part: str) -> Claim:
        """Return the one claim whose line holds these words.

        Raises:
            LookupError: none does, or several.
        """
        mine = [claim for claim in self.claims if part in claim.text]
        if len(mine) != 1:
            raise LookupError(f"{len(mine)} claims in the record of `{self.command}` hold '{part}'; one is wanted")
        return mine[0]


def read(name: str) -> Record | None:
    """Return the record of a replication, or None where none is kept."""
    path = kept.RESULTS / f"{name}-replication.md"
    if not path.is_file():
        return None
    text = path.read_text("utf-8")
    head = " ".join(text.split("\n\n")[1].split())
    command, day, machine = (
        re.search(want, head) for want in (r"`([^`]+)`", r"\d{4}-\d\d-\d\d", r"AMD \w+|Intel[^,]*")
    )
    commit = re.search(r"commit (\w+)", head)
    return Record(
        command=command[1] if command else f"lissome replicate {name}",
        day=day[0] if day else "",
        machine=machine[0] if machine else "",
        commit=commit[1] if commit else "",
        claims=tuple(map(_claim, LINE.finditer(text))),
    )


def stamp(name: str, record: Record, prefix: str = "benchmarks/results/") -> str:
    """Return where a record is from: command, day, machine, and the commit where it says one."""
    told = [f"`{record.command}`", record.day, record.machine, f"commit {record.commit}" if record.commit else ""]
    return f"{kept.link(f'{name}-replication.md', prefix)}: {', '.join(filter(None, told))}"


def _claim(line: re.Match[str]) -> Claim:
    found = FOUND.search(line[3])
    return Claim(line[1], line[2], line[3], Spread(*map(float, found.groups())) if found else None)


def said(claim: Claim, words: str) -> str:
    """Return words with the measured number in place of `{}`; other numbers among them must be the claim's own.

    Raises:
        LookupError: nothing was measured, or the words bring a number of their own.
    """
    strange = numbers(re.sub(r"\{[^}]*\}", "", words)) - numbers(claim.text)
    if strange or claim.found is None:
        raise LookupError(f"'{words}' says {', '.join(sorted(strange)) or 'a number'}, and '{claim.text}' does not")
    return words.format(claim.found)
