"""`python -m benchmarks.readme [--check]`: fill in what the kept results say, or say where a page differs from them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.readme import combinations, doors, optimizers, papers, picture, speed
from benchmarks.readme.kept import ROOT
from benchmarks.readme.page import Blocks, differing, filled

PAGES: Mapping[Path, Blocks] = {
    ROOT / "README.md": {
        "equations": doors.equations,
        "language": doors.language,
        "papers": papers.block,
        "combinations": combinations.block,
        "speed": speed.block,
    },
    ROOT / "docs" / "optimizers.md": {"records": optimizers.records, "adaptation": optimizers.adaptation},
}


def differences() -> list[str]:
    """Return a sentence for each page, and for the picture, that is not what the results say."""
    found = []
    for path, blocks in PAGES.items():
        text = path.read_text("utf-8")
        names = differing(text, filled(text, blocks))
        if names:
            what = "block" if len(names) == 1 else "blocks"
            found.append(f"{path.relative_to(ROOT)} differs from the results in {what} {', '.join(names)}")
    return found + picture.differences()


def main() -> int:
    """Write the pages and the picture, or check them.

    Returns:
        0, or 1 where `--check` found a difference or a result that is told is not there.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where something differs")
    try:
        if parser.parse_args().check:
            found = differences()
            if found:
                print(f"{'; '.join(found)}: run `make readme`", file=sys.stderr)
            return 1 if found else 0
        for path, blocks in PAGES.items():
            path.write_text(filled(path.read_text("utf-8"), blocks), encoding="utf-8")
        picture.draw()
    except LookupError as error:
        print(f"what is told of a result is not in it: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
