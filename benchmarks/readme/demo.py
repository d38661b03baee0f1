"""`python -m benchmarks.readme.demo FOLDER`: keep what `lissome demo --out FOLDER` found, as demo.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.readme import kept

TOLD = ("trained", "total", "steps", "seconds", "error", "fresh")


def read(folder: Path) -> dict[str, Any]:
    """Return the rows of a demonstration and where it was run; nothing of it names a place on a disk."""
    adapted = folder / "adapted"
    made, found = (json.loads((adapted / name).read_text("utf-8")) for name in ("environment.json", "comparison.json"))
    named = ("commit", "started", "processor", "cores", "threads", "torch", "python")
    return {
        "name": "demo",
        "title": found["title"],
        "environment": {"command": "lissome demo", **{key: made[key] for key in named}},
        "rows": [
            {"target": _target(row["parameters"]), "method": row["method"], **{key: row[key] for key in TOLD}}
            for row in found["rows"]
        ],
    }


def _target(parameters: dict[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in parameters.items())


def main() -> None:
    """Keep a demonstration."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="where `lissome demo --out FOLDER` wrote")
    told = json.dumps(read(parser.parse_args().folder), indent=1)
    (kept.RESULTS / "demo.json").write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
