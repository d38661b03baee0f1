"""What the page of every single run has around its own figures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

from lissome._files import write
from lissome.report.document import details, document, pairs, tiles
from lissome.report.read import Row, Run


def run_page(
    run: Run,
    row: Row,
    title: str,
    lead: str,
    numbers: Sequence[tuple[str, str, str]],
    *,
    shown: Sequence[str],
    made: Sequence[str] = (),
    told: Collection[str],
) -> Path:
    """Write index.html of a run and return its path.

    Args:
        run: finished or in progress.
        row: what is told of it; `told` of its keys stand elsewhere on the page, and the others under further numbers.
        title: in one line.
        lead: what came out, in a sentence.
        numbers: name, value and remark of each tile.
        shown: HTML of the middle of the page, figures above all.
        made: HTML of how it was made, before settings and environment.
        told: keys of the row.
    """
    note = '<p class="note">This run has not finished: the numbers are those of its latest evaluation.</p>'
    more = {key: value for key, value in row.items() if key not in told and value is not None}
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p>',
        "" if run.finished else note,
        tiles(numbers),
        *shown,
        "<h2>How it was made</h2>",
        *made,
        details("Further numbers", pairs(more), paper=True) if more else "",
        details("Settings", f"<pre>{escape(run.settings_text)}</pre>", paper=True),
        details("Environment", pairs(run.environment), paper=True) if run.environment else "",
        "<footer>Written by Lissome; the figures are also in figures/ as SVG files.</footer>",
    ]
    return write(run.path / "index.html", document(title, "\n".join(part for part in body if part)))
