"""The table of a comparison: one list of lines, shown in the terminal or as HTML."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lissome.report.drawing import Style, themed
from lissome.report.numerals import ABSENT, count, quantity, seconds, setting, share
from lissome.report.read import Row, finite

COLUMNS = (
    "parameter",
    "method",
    "trained numbers",
    "seconds",
    "relative L2 error",
    "train loss",
    "fresh loss",
    "vs best",
)
SHORT = ("equation", "method", "numbers", "of all", "seconds", "error", "train", "fresh", "vs best")  # 80 columns wide
MEASURES = ("trained", "total", "seconds", "error", "loss", "fresh", "reach")
LEVEL = 1.05  # errors closer than this factor are called level


@dataclass(frozen=True)
class Line:
    """One line of the table: a run, or the median of its repetitions over seeds."""

    parameter: str
    label: str
    method: str
    trained: float | None
    total: float | None
    seconds: float | None
    error: float | None
    loss: float | None
    fresh: float | None
    reach: float | None  # the part of what training all weights did that the form can follow
    lowest: float | None
    highest: float | None
    factor: float | None
    best: bool
    known: bool  # whether there is a solution to be told an error from
    finished: bool
    runs: tuple[int, ...]
    link: str

    @property
    def standing(self) -> str:
        """Say how far the line is from the best of its parameter."""
        if not self.finished:
            return "running"
        if self.error is None:
            return "failed" if self.known else ABSENT
        return "best" if self.best else f"{quantity(self.factor)}×"

    @property
    def figures(self) -> tuple[str, ...]:
        """Seconds, error, train loss and fresh loss, as written."""
        return (seconds(self.seconds), quantity(self.error), quantity(self.loss), quantity(self.fresh))

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells, in the order of COLUMNS."""
        part = share(self.trained, self.total)
        trained = f"{count(self.trained)} ({part})" if part else count(self.trained)
        label = self.label if len(self.runs) == 1 else f"{self.label} (median of {len(self.runs)})"
        return (self.parameter, label, trained, *self.figures, self.standing)

    @property
    def short(self) -> tuple[str, ...]:
        """The cells, in the order of SHORT."""
        label = self.label if len(self.runs) == 1 else f"{self.label} ×{len(self.runs)}"
        part = share(self.trained, self.total)
        return (self.parameter, label, count(self.trained), part, *self.figures, self.standing)


def order(value: object) -> tuple[int, float, str]:
    """Sort numbers before words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1, 0.0, str(value)
    return 0, float(value), ""


def features(row: Row) -> dict[str, object]:
    """Return what names the equation of a row: family, dimension and parameters."""
    return {"family": row.get("family"), "dimension": row.get("dimension"), **(row.get("parameters") or {})}


def parameters(rows: Sequence[Row]) -> list[str]:
    """Name the equation of each row by what differs between rows, or by its parameters if nothing does.

    >>> parameters([{"parameters": {"c": 1.0, "b": 3}}, {"parameters": {"c": 2.0, "b": 3}}])
    ['c = 1', 'c = 2']
    """
    described = [features(row) for row in rows]
    keys = list(dict.fromkeys(key for item in described for key in item))
    varied = [key for key in keys if len({str(item.get(key)) for item in described}) > 1]
    if not varied:
        varied = [key for key in keys if key not in ("family", "dimension")] or ["family"]
    names = []
    for item in described:
        parts = []
        for key in varied:
            value = item.get(key)
            if value is not None:
                short = {"family": "", "dimension": "d = "}.get(key, f"{key} = ")
                parts.append(short + setting(value))
        names.append(", ".join(parts) or "all")
    return names


def grouped(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the indices of the rows of each parameter value, in ascending order of the values."""
    groups: dict[str, list[int]] = {}
    names = parameters(rows)
    for index in sorted(range(len(rows)), key=lambda i: [order(value) for value in features(rows[i]).values()]):
        groups.setdefault(names[index], []).append(index)
    return groups


def repetitions(rows: Sequence[Row], indices: list[int]) -> list[list[int]]:
    """Put together the rows that differ in their seed alone."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in indices:
        row = rows[index]
        same = ("method", "label", "trained", "rank", "variant", "finished")
        groups.setdefault(tuple(str(row.get(key)) for key in same), []).append(index)
    found: list[list[int]] = []
    for group in groups.values():
        seeds = [str(rows[index].get("seed")) for index in group]
        apart = len(set(seeds)) < len(seeds)
        found += [[index] for index in group] if apart else [group]
    return found


def labels(rows: Sequence[Row], groups: list[list[int]]) -> list[str]:
    """Name each group by its method, and by its rank or its path where that is not enough."""
    names = [str(rows[group[0]].get("label") or rows[group[0]].get("method") or "run") for group in groups]
    for key, form in (("rank", "{} rank {}"), ("path", "{} {}")):
        twice = {name for name in names if names.count(name) > 1}
        tails = [rows[group[0]].get(key) for group in groups]
        names = [
            form.format(name, tail) if name in twice and tail is not None else name
            for name, tail in zip(names, tails, strict=True)
        ]
    return names


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return the lines of the table: parameters ascending, and within each the least error first."""
    found = []
    for parameter, indices in grouped(rows).items():
        groups = repetitions(rows, indices)
        part = []
        for group, label in zip(groups, labels(rows, groups), strict=True):
            values = {key: [finite(rows[index], key) for index in group] for key in MEASURES}
            middle = {
                key: statistics.median(v for v in x if v is not None) if any(v is not None for v in x) else None
                for key, x in values.items()
            }
            errors = [value for value in values["error"] if value is not None]
            if len(errors) < len(group):
                middle["error"] = None  # a repetition that failed must not be left out of a median in silence
            part.append((group, label, middle, errors))
        legal = [m["error"] for g, _, m, _ in part if m["error"] is not None and rows[g[0]].get("finished", True)]
        least = min(legal, default=None)
        part.sort(
            key=lambda item: (
                not rows[item[0][0]].get("finished", True),
                item[2]["error"] is None,
                item[2]["error"] or 0.0,
            )
        )
        for group, label, middle, errors in part:
            row, error = rows[group[0]], middle["error"]
            finished = bool(row.get("finished", True))
            factor = error / least if finished and error is not None and least else None
            best = finished and error is not None and error == least
            found.append(
                Line(
                    parameter=parameter,
                    label=label,
                    method=str(row.get("method") or row.get("label") or "run"),
                    **middle,
                    lowest=min(errors, default=None),
                    highest=max(errors, default=None),
                    factor=1.0 if best else factor,
                    best=best,
                    known=any("error" in rows[index] for index in group),
                    finished=finished,
                    runs=tuple(group),
                    link=str(row.get("link") or ""),
                )
            )
    return found


def verdict(part: Sequence[Line]) -> str:
    """Say in one sentence which method is best for one parameter value; part are its lines, best first."""
    where = f"for {part[0].parameter}, "
    legal = [line for line in part if line.finished and line.error is not None]
    if not legal:
        known = any(line.known for line in part)
        return where + f"no {'finished run' if known else 'solution is known, so no run'} has an error to compare."
    first, rest = legal[0], legal[1:]
    trained = count(first.trained)
    if first.total:
        trained = f"all {trained}" if first.trained == first.total else f"{trained} of {count(first.total)}"
    means = [f"with {trained} numbers"] if first.trained is not None else []
    means += [f"in {seconds(first.seconds)} s"] if first.seconds is not None else []
    error = f"error {quantity(first.error)}"
    tail = ", ".join([error, " ".join(means)]) if means else error
    if not rest:
        text = f"only {first.label} can be judged: {tail}"
    else:
        factor = rest[0].factor
        if factor is None:
            distance = f"the next is {rest[0].label} at {quantity(rest[0].error)}"
        elif factor < LEVEL:
            distance = f"level with the next ({rest[0].label})"
        else:
            distance = f"{quantity(factor)} times below the next ({rest[0].label})"
        text = f"{first.label} is best: {', '.join([error, distance, *([' '.join(means)] if means else [])])}"
    left = [
        f"{line.label} {'has not finished' if not line.finished else 'failed' if line.known else 'has no known error'}"
        for line in part
        if line not in legal
    ]
    reaches = [f"{line.label} {line.reach:.0%}" for line in part if line.reach is not None]
    kept = [f"of what full did to the hidden matrices could follow: {', '.join(reaches)}"] if reaches else []
    return f"{where}{'; '.join([text, *([', '.join(left)] if left else []), *kept])}."


def parts(found: Sequence[Line]) -> list[list[Line]]:
    """Cut the lines into those of each parameter value."""
    groups: dict[str, list[Line]] = {}
    for line in found:
        groups.setdefault(line.parameter, []).append(line)
    return list(groups.values())


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Say in one sentence per parameter value which method is best."""
    return [verdict(part) for part in parts(lines(rows))]


def choices(rows: Sequence[Row]) -> list[str]:
    """Return why methods were chosen by a trial, once each; rows say so as `choice`."""
    return list(dict.fromkeys(str(row["choice"]) for row in rows if row.get("choice")))


def column(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return a head and cells for the names of equations: a parameter that all share goes to the head.

    >>> column(["c = 0.5", "c = 2"]), column(["heat", "wave"])
    (('c', ['0.5', '2']), ('equation', ['heat', 'wave']))
    """
    cut = [name.partition(" = ") for name in names]
    if len({head for head, _, _ in cut}) == 1 and all(value and "=" not in value for _, _, value in cut):
        return cut[0][0], [value for _, _, value in cut]
    return SHORT[0], list(names)


def terminal(rows: Sequence[Row]) -> Group:
    """Return the table for the terminal, below it verdicts where there is something to judge, and choices.

    Numbers never wrap; where the terminal is too narrow, names wrap between their words.

    Args:
        rows: summaries of runs, as in `comparison.json`.
    """
    found = parts(lines(rows))
    judged = any(len(part) > 1 for part in found)
    head, names = column([part[0].parameter for part in found])
    heads = (head, *SHORT[1:]) if judged else (head, *SHORT[1:-1])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    words = [[head, *names], [SHORT[1], *(line.short[1] for part in found for line in part)]]
    for text, cells in zip(heads, words, strict=False):
        table.add_column(text, min_width=max(len(word) for cell in cells for word in cell.split()))
    for text in heads[2:]:
        table.add_column(text, justify="right", no_wrap=True)
    for name, part in zip(names, found, strict=True):
        for number, line in enumerate(part):
            texts = (name if number == 0 else "", *line.short[1 : len(heads)])
            style = "bold" if line.best and judged else "dim" if line.error is None or not line.finished else ""
            table.add_row(*(Text(text) for text in texts), style=style, end_section=number == len(part) - 1)
    told = [verdict(part) for part in found] if judged else []
    seeds = sorted({len(line.runs) for part in found for line in part} - {1})
    told += [f"×{number} is the median of {number} seeds." for number in seeds]
    told += choices(rows)
    return Group(table, *(Text(text[0].upper() + text[1:]) for text in told))


def table_html(rows: Sequence[Row], styles: dict[str, Style]) -> str:
    """Return the same table as HTML; styles give each label its dot."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    bodies = []
    for part in parts(lines(rows)):
        body = []
        for number, line in enumerate(part):
            texts = [escape(text) for text in line.texts]
            cells = [f'<th scope="rowgroup" rowspan="{len(part)}">{texts[0]}</th>'] if number == 0 else []
            name = texts[1].replace("+", "+<wbr>")  # a course of optimizers may wrap between them
            name = f'<a href="{escape(quote(line.link), quote=True)}">{name}</a>' if line.link else name
            colour = themed(styles[line.label].colour) if line.label in styles else "currentColor"
            dot = f'<span class="dot" style="background:{colour}"></span>'
            cells.append(f'<td class="name">{dot}{name}</td>')
            cells.append(f'<td class="numbers">{texts[2]}</td>')
            cells += [f"<td>{text}</td>" for text in texts[3:-1]]
            badge = f'<span class="badge">{texts[-1]}</span>' if line.best else texts[-1]
            cells.append(f"<td>{badge}</td>")
            state = "best" if line.best else "faint" if line.standing in ("running", "failed") else ""
            body.append(f'<tr class="{state}">{"".join(cells)}</tr>' if state else f"<tr>{''.join(cells)}</tr>")
        bodies.append(f"<tbody>{''.join(body)}</tbody>")
    return f'<div class="wide"><table class="lines"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'
