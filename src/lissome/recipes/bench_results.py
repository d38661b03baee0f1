"""The results of a benchmark as a file that other versions can read, compare and merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lissome._errors import UsageError
from lissome._parsed import json_of
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.directory import difference

FORMAT = 1
SAME = ("seconds", "operations", "rank", "start", "network", "points", "weights")  # in what may be compared
EARLIER = {"weights": 100.0}  # of results that do not say
Row = dict[str, Any]


class _Loose(BaseModel):
    """What a file of results must have; what else it has is kept."""

    model_config = ConfigDict(extra="allow")


class _Other(_Loose):
    cell: str
    kind: Literal["start", "abreast"]
    family: str
    seed: int
    error: float | None


class _Run(_Other):
    kind: Literal["run"]  # pyright: ignore[reportIncompatibleVariableOverride]
    target: str
    adapter: str
    optimizer: str
    budget: Literal["seconds", "operations"]
    trained: int
    total: int = Field(gt=0)
    seconds: float | None


class _File(_Loose):
    format: int
    lissome: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Annotated[_Run | _Other, Field(discriminator="kind")]]
    origin: list[str] = []


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
        data = json_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"results '{path}' cannot be read: {error}") from error
    if not isinstance(data, dict) or "format" not in data or "rows" not in data:
        raise UsageError(f"'{path}' holds no results of `lissome pde bench`; legal is its results.json")
    if data["format"] != FORMAT:
        raise UsageError(
            f"results '{path}' are of format {data['format']!r}, of lissome {data.get('lissome')}; legal is {FORMAT}"
        )
    try:
        _File.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"results '{path}' were edited, or cut short: '{where}': {first['msg'].lower()}") from error
    theirs = data["settings"]
    ours = settings.model_dump(mode="json")
    told = difference({key: theirs.get(key, EARLIER.get(key)) for key in SAME}, {key: ours[key] for key in SAME})
    if told:
        raise UsageError(f"results '{path}' were measured otherwise, {told}: they cannot be compared")
    return Results(FORMAT, data["lissome"], data["environment"], theirs, data["rows"], tuple(data.get("origin", ())))


def made_by(version: str, environment: Mapping[str, Any]) -> str:
    """Return who measures: version, commit and processor.

    >>> made_by("0.1.0", {"commit": "abc", "processor": "AMD EPYC"})
    '0.1.0 abc AMD EPYC'
    """
    parts = [version, *(str(environment.get(key) or "") for key in ("commit", "processor"))]
    return " ".join(filter(None, parts))


def merged(own: Results, others: Sequence[Results]) -> Results:
    """Return results with those of others: of the same maker what is missing, of another maker all, under its name.

    What was measured from a tree with changes of its own is another maker's each time.
    """
    rows = {(row.get("made_by", ""), row["cell"]): row for row in own.rows}
    origin = dict.fromkeys(own.origin)
    ours = made_by(own.lissome, own.environment)
    for other in others:
        for row in other.rows:
            by = row.get("made_by") or row.get("by") or made_by(other.lissome, other.environment)
            maker = "" if by == ours and "-dirty" not in by else by
            rows.setdefault((maker, row["cell"]), row | ({"made_by": maker} if maker else {}))
            origin |= {maker: None} if maker else {}
    return replace(own, rows=list(rows.values()), origin=tuple(origin))
