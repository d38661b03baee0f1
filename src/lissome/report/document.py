"""The shell of a page: one HTML file with its style inside, written in one stroke."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lissome._files import write
from lissome.report.drawing import svg, themed

BROAD = 6.0  # inches; what is wider does not stand beside another figure


def document(title: str, body: str) -> str:
    """Return a whole HTML page; title is text, body is HTML."""
    style = files("lissome.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def figure(folder: Path, name: str, drawn: Figure | None, caption: str) -> str:
    """Write a figure as folder/name.svg and return it as HTML, over the whole width if it is wide; nothing for None."""
    if drawn is None:
        return ""
    text = svg(drawn, name, caption)
    write(folder / f"{name}.svg", text)
    kind = ' class="broad"' if drawn.get_figwidth() > BROAD else ""
    return f"<figure{kind}>\n{themed(text)}<figcaption>{escape(caption)}</figcaption>\n</figure>"


def gallery(figures: Iterable[str]) -> str:
    """Put figures side by side as the width allows."""
    inside = "\n".join(item for item in figures if item)
    return f'<div class="gallery">\n{inside}\n</div>' if inside else ""


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """Return (name, value, remark) as large numbers in a row."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
        + (f"<small>{escape(remark)}</small>" if remark else "")
        + "</dd></div>"
        for name, value, remark in items
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def pairs(mapping: dict[str, Any]) -> str:
    """Return a mapping as a table of two columns; nested keys are joined by dots."""

    def flat(value: Any, name: str) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from flat(item, f"{name}.{key}" if name else str(key))
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in flat(mapping, "")
    )
    return f'<div class="wide"><table class="pairs">{rows}</table></div>'


def details(summary: str, inside: str, *, paper: bool = False) -> str:
    """Return a block that opens on a click, and if asked on paper; inside is HTML."""
    kind = ' class="paper"' if paper else ""
    return f"<details{kind}>\n<summary>{escape(summary)}</summary>\n{inside}\n</details>"
