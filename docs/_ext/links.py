"""Pages as GitHub shows them, read by Sphinx as well: links, pictures, names of files that blocks are written to.

A page below `docs/` and a guest from elsewhere (`README.md`, the kept records) link to one another by their places in
the repository. Here a link to a guest becomes one to its copy in `_generated`; what is no page is offered as a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "_generated"
RECORDS = ROOT / "benchmarks" / "results"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"<picture>\s*(.*?)</picture>", re.DOTALL)
FILE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def guests() -> dict[Path, Path]:
    """Return the pages from outside of `docs/`, each with the place of its copy."""
    named = {
        "README.md": "tour.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changes.md",
        "benchmarks/README.md": "benchmarks.md",
    }
    found = {ROOT / source: GENERATED / copy for source, copy in named.items()}
    return found | {path: GENERATED / "records" / path.name for path in sorted(RECORDS.glob("*.md"))}


def relative(target: Path, page: Path) -> str:
    """Return the way from a page to a file."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def readable(text: str, source: Path, page: Path) -> str:
    """Return the text of `source` as Sphinx reads it at the place `page`."""
    parts = FENCED.split(text)
    return "".join(_block(part) if place % 2 else _prose(part, source, page) for place, part in enumerate(parts))


def _block(text: str) -> str:
    """Show the name of the file that a block is written to above it."""
    return FILE.sub(r"```{code-block} \1\n:caption: \2\n", text, count=1)


def _prose(text: str, source: Path, page: Path) -> str:
    copies = guests()

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[1]).resolve()
        return f"]({relative(copies.get(target, target), page)}{found[2] or ''})"

    def picture(found: re.Match[str]) -> str:
        dark, light, alt, width = (
            re.search(pattern, found[1])
            for pattern in (r'srcset="([^"]+)"', r'src="([^"]+)"', r'alt="([^"]+)"', r'width="(\d+)"')
        )
        if not (dark and light and alt):
            raise ValueError(f"a picture of {source} lacks srcset, src or alt")
        return "\n".join(
            _image(relative((source.parent / file[1]).resolve(), page), alt[1], width[1] if width else "760", shown)
            for file, shown in ((light, "only-light"), (dark, "only-dark"))
        )

    return PICTURE.sub(picture, LINK.sub(link, text))


def _image(file: str, alt: str, width: str, shown: str) -> str:
    return f":::{{image}} {file}\n:alt: {alt}\n:width: {width}px\n:class: {shown}\n:::\n"


def copies() -> dict[Path, str]:
    """Return what is to be written of the guests: place and text."""
    found = {page: readable(source.read_text("utf-8"), source, page) for source, page in guests().items()}
    return found | {GENERATED / "records.md": _records()}


def _records() -> str:
    listed = "\n".join(f"records/{path.stem}" for path in sorted(RECORDS.glob("*.md")))
    return (
        "# Kept records\n\nRuns of the papers' experiments and of comparisons, as they are kept beside the code: "
        f"claims, machine, tables.\n\n:::{{toctree}}\n:maxdepth: 1\n\n{listed}\n:::\n"
    )
