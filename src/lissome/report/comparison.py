"""The page of several runs side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from lissome._errors import UsageError
from lissome._files import write, write_json
from lissome.report.document import details, document, figure, gallery, pairs
from lissome.report.drawing import Style, palette, themed
from lissome.report.figures import Curve, cost, overview, progress, slices, spectra
from lissome.report.read import Row, Run, drawable, layers, read_json, read_run, series, under_way, variant
from lissome.report.table import Line, choices, lines, parts, table_html, verdict


def is_comparison(path: Path) -> bool:
    """Whether a directory holds a comparison and not a run."""
    return (path / "comparison.json").is_file()


def listed(path: Path) -> tuple[list[Path], str | None]:
    """Return the runs of a comparison directory and its title."""
    old = read_json(path / "comparison.json")
    rows = old.get("rows")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("path"), str) for row in rows
    ):
        raise UsageError(f"'{path / 'comparison.json'}' lists no rows with a path each; compare the runs anew")
    return [path / row["path"] for row in rows], old.get("title")


def again(path: Path) -> Path:
    """Compare again the runs of a comparison directory."""
    runs, title = listed(path)
    return compare(runs, path, title=title)


def expanded(directories: Iterable[str | Path]) -> list[Path]:
    """Return run directories, those of a comparison in its place."""
    given = map(Path, directories)
    return [run for path in given for run in (listed(path)[0] if is_comparison(path) else [path])]


def named(run: Run, out: Path) -> Row:
    """Return the row of a run with its place as seen from the comparison."""
    row = run.row()
    row["path"] = Path(os.path.relpath(run.path.resolve(), out.resolve())).as_posix()
    return row


def name_of(rows: Sequence[Row]) -> str:
    """Make a title of what all rows share."""
    families = {str(row.get("family") or "runs") for row in rows}
    dimensions = {row.get("dimension") for row in rows}
    only = dimensions.pop() if len(dimensions) == 1 else None
    where = "" if only is None else f" in {only} dimension{'' if only == 1 else 's'}"
    methods = len({str(row.get("method")) for row in rows})
    what = f"{methods} methods" if methods > 1 else f"{len(rows)} {'runs' if len(rows) > 1 else 'run'}"
    return f"{what} on {', '.join(sorted(families))}{where}"


def errors(run: Run, line: Line, x: str) -> Curve:
    """Return the curve of a run's error against "step" or "seconds"."""
    return Curve(line.label, *series(run.metrics, x, "error"))


def dot(line: Line, x: float | None) -> Curve:
    """Return the error of a line as one point, or as none when there is no number to show."""
    shown = line.finished and x is not None and line.error is not None and drawable(line.error)
    pair = ([x], [line.error]) if shown else ([], [])
    return Curve(line.label, np.asarray(pair[0], dtype=float), np.asarray(pair[1], dtype=float))


def widest(shown: Sequence[tuple[Line, Run]], styles: dict[str, Style]) -> tuple[dict, list[str]]:
    """Return the singular values of each run's widest layer by label, where any moved, and their colours."""
    found = {
        line.label: [pair for pair in layers(run).values() if not np.array_equal(*pair)]  # frozen ones say nothing
        for line, run in shown
    }
    most = {label: max(pairs, key=lambda pair: len(pair[0])) for label, pairs in found.items() if pairs}
    return most, [styles[label].colour for label in most]


def section(number: int, part: Sequence[Line], runs: Sequence[Run], folder: Path, styles: dict[str, Style]) -> str:
    """Draw the figures of one parameter value; of repetitions, the first run stands for its line."""
    title = part[0].parameter
    stem = f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') or 'all'}"[:60]
    shown = sorted(part, key=lambda line: line.label)
    pairs_of = [(line, runs[line.runs[0]]) for line in shown]
    known = [(line, run) for line, run in pairs_of if {"slice_x", "slice_network"} <= run.curves.keys()]
    along = None
    if known:
        curves = [Curve(line.label, run.curves["slice_x"], run.curves["slice_network"]) for line, run in known]
        first = known[0][1].curves
        along = slices(first["slice_x"], first.get("slice_exact"), curves, styles)
    figures = [
        figure(
            folder,
            f"{stem}-error-steps",
            progress([errors(run, line, "step") for line, run in pairs_of], x="steps", styles=styles),
            f"Error against steps, {title}",
        ),
        figure(
            folder,
            f"{stem}-error-seconds",
            progress([errors(run, line, "seconds") for line, run in pairs_of], x="seconds", styles=styles),
            f"Error against seconds, {title}",
        ),
        figure(folder, f"{stem}-slice", along, f"A slice of the solution, {title}"),
        figure(
            folder,
            f"{stem}-cost",
            cost([dot(line, line.trained) for line in shown], styles),
            f"Error against trained numbers, {title}",
        ),
        figure(
            folder,
            f"{stem}-singular-values",
            spectra(*widest(pairs_of, styles)),
            f"Singular values of each method's widest layer before and after, {title}",
        ),
    ]
    inside = gallery(figures)
    return f"<h2>{escape(title)}</h2>\n{inside}" if inside else ""


def over_parameters(found: Sequence[Line], folder: Path, styles: dict[str, Style]) -> str:
    """Draw the error of every method over all parameter values, where there are several."""
    names = list(dict.fromkeys(line.parameter for line in found))
    if len(names) < 2:
        return ""
    points = []
    for label in sorted({line.label for line in found}):
        dots = [dot(line, names.index(line.parameter)) for line in found if line.label == label]
        points.append(Curve(label, np.concatenate([d.x for d in dots]), np.concatenate([d.y for d in dots])))
    return gallery(
        [figure(folder, "overview", overview(names, points, styles), "Error of each method, all parameters")]
    )


def origins(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """Return settings and environment of every run; an environment that all share is shown once."""
    shared = all(run.environment == runs[0].environment for run in runs)
    blocks = []
    for run, row in zip(runs, rows, strict=True):
        own = pairs(run.environment) if run.environment and not shared else ""
        blocks.append(details(row["path"], f"<pre>{escape(run.settings_text)}</pre>{own}"))
    common = details("Environment of all runs", pairs(runs[0].environment)) if shared and runs[0].environment else ""
    return (
        details("Settings of each run" if shared else "Settings and environment of each run", "\n".join(blocks))
        + common
    )


def compare(directories: Iterable[str | Path], out: str | Path, title: str | None = None) -> Path:
    """Write comparison.json, figures/*.svg and index.html into out and return the path of the page.

    Runs that differ in their seed alone become one line, their median; runs in progress are
    shown and not judged; of cells that are trained at once in `out` a sentence says how far they are.

    Args:
        directories: run directories, or comparisons, which stand for their runs; one given twice counts once.
        out: directory of the comparison; made if it does not exist.
        title: heading of the page; made from the runs if not given.

    Raises:
        UsageError: no directory was given, or one of them is no run or is broken.
    """
    out = Path(out)
    given = {path.resolve(): path for path in expanded(directories)}
    if not given:
        raise UsageError("there is nothing to compare: name at least one run directory")
    runs = [read_run(path) for path in given.values()]
    rows = [named(run, out) for run in runs]
    title = title or name_of(rows)
    write_json(out / "comparison.json", {"title": title, "rows": rows})
    shown = []
    for run, row in zip(runs, rows, strict=True):
        link = f"{row['path']}/index.html" if (run.path / "index.html").is_file() else ""
        shown.append(row | {"variant": variant(run.settings), "link": link})
    found = lines(shown)
    styles = palette((line.label, line.method) for line in found)
    several = any(len(line.runs) > 1 for line in found)
    remark = "Lines with several seeds show medians, and curves the first seed." if several else "Each line is one run."
    sections = [
        section(number, part, runs, out / "figures", styles) for number, part in enumerate(parts(found), start=1)
    ]
    told = "".join(
        f'<li style="border-color:{themed(styles[part[0].label].colour)}">{escape(verdict(part))}</li>'
        for part in parts(found)
    )
    told += "".join(f"<li>{escape(why)}</li>" for why in choices(shown))
    left = under_way(out)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(remark)} Errors are relative L2 errors on test points.</p>',
        f'<p class="note">{escape(left)}.</p>' if left else "",
        f'<ul class="verdicts">{told}</ul>',
        table_html(shown, styles),
        "<h2>All parameters</h2>" if len(sections) > 1 else "",
        over_parameters(found, out / "figures", styles),
        *sections,
        "<h2>How it was made</h2>",
        origins(runs, rows),
        "<footer>Written by Lissome; the same numbers are in comparison.json, the figures in figures/.</footer>",
    ]
    return write(out / "index.html", document(title, "\n".join(part for part in body if part)))
