"""What Sphinx is told: pages are written before it reads, links are set right as it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docs._ext import commands, docstrings, links, papers, reference
from sphinx.ext.autodoc.mock import mock


class Site:
    """What is known while it is built: public names -> full ones."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, str]] = {}

    def write(self, app: Any) -> None:
        """Write the generated pages; one that did not change is left alone, so that it is not built again."""
        with mock(app.config.autodoc_mock_imports):
            found = links.copies() | papers.pages() | commands.pages() | reference.pages()
            self.names = reference.names()
        for place, text in found.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists() or place.read_text("utf-8") != text:
                place.write_text(text, encoding="utf-8")
        for place in set(links.GENERATED.rglob("*.md")) - found.keys():
            place.unlink()

    def reword(self, app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        """Reword a docstring in place, before napoleon reads its sections."""
        room = next((room for room in reference.MODULES if name.startswith(f"lissome.{room}.")), "")
        untyped = kind in ("attribute", "property", "data")
        lines[:] = docstrings.reworded(lines, self.names.get(room, {}), attribute=untyped)


def read(app: Any, name: str, source: list[str]) -> None:
    """Set the links of a page of `docs/` right; those of generated pages are."""
    page = Path(app.srcdir) / f"{name}.md"
    if links.GENERATED not in page.parents:
        source[0] = links.readable(source[0], page, page)


def restore(app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Give a docstring its colons back, behind napoleon."""
    lines[:] = docstrings.restored(lines)


def skip(app: Any, kind: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class tells."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    site = Site()
    app.connect("builder-inited", site.write)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", site.reword, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-skip-member", skip)
    app.add_css_file("lissome.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
