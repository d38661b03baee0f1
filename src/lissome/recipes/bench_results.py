"""The results of a benchmark as a file that other versions can read, compare and merge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lissome._errors import UsageError
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.directory import difference

FORMAT = 1
SAME = ("seconds", "operations", "rank", "start", "network", "points")  # in what may be compared
NEEDED = ("cell", "kind", "family", "seed", "error")
Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What a benchmark found: the format, who made it, of what settings, a row per start and run.

    Attributes:
        origin: rows of other makers have it in `made_by`, and these names here.
    """

    format: int
    lissome: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    origin: tuple[str, ...] = ()

    @property
    def maker(self) -> str:
        """Version and commit."""
        return " ".join(filter(None, [self.lissome, str(self.environment.get("commit") or "")]))

    def told(self) -> Row:
        """Return it as JSON, without curves, which are in `cells.jsonl`."""
        rows = [{key: value for key, value in row.items() if key not in ("curve", "step")} for row in self.rows]
        return asdict(replace(self, rows=[])) | {"rows": rows}


def read(path: Path, settings: BenchSettings) -> Results:
    """Read `results.json`, or that of a directory.

    Raises:
        UsageError: it cannot be read, is of another format, or was made under other budgets than these settings have.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"results '{path}' cannot be read: {error}") from error
    if not isinstance(data, dict) or "format" not in data or not isinstance(data.get("rows"), list):
        raise UsageError(f"'{path}' holds no results of `lissome pde bench`; legal is its results.json")
    if data["format"] != FORMAT:
        raise UsageError(
            f"results '{path}' are of format {data['format']!r}, of lissome {data.get('lissome')}; legal is {FORMAT}"
        )
    if not all(isinstance(row, dict) and set(NEEDED) <= row.keys() for row in data["rows"]):
        raise UsageError(f"results '{path}' have rows without {', '.join(NEEDED)}; they were edited, or cut short")
    theirs = data.get("settings") or {}
    ours = settings.model_dump(mode="json")
    told = difference({key: theirs.get(key) for key in SAME}, {key: ours[key] for key in SAME})
    if told:
        raise UsageError(f"results '{path}' were measured otherwise, {told}: they cannot be compared")
    return Results(
        FORMAT,
        str(data.get("lissome")),
        data.get("environment") or {},
        theirs,
        data["rows"],
        tuple(data.get("origin", ())),
    )


def merged(own: Results, others: Sequence[Results]) -> Results:
    """Return results with those of others: of the same maker what is missing, of another maker all, under its name."""
    rows = {(row.get("made_by", ""), row["cell"]): row for row in own.rows}
    origin = dict.fromkeys(own.origin)
    for other in others:
        for row in other.rows:
            maker = row.get("made_by") or ("" if other.maker == own.maker else other.maker)
            rows.setdefault((maker, row["cell"]), row | ({"made_by": maker} if maker else {}))
            origin |= {maker: None} if maker else {}
    return replace(own, rows=list(rows.values()), origin=tuple(origin))
