"""The page of a diagnosis: spectrum, forecast against measurement, networks beside each other, and advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lissome._files import write
from lissome.report.document import details, document, figure, gallery, pairs, tiles
from lissome.report.drawing import COLOURS, INK, blank, legend, logarithmic, whole
from lissome.report.numerals import ABSENT, count, quantity, seconds, setting, share

VERDICTS = {"bad": "#D55E00", "mind": "#E69F00", "good": "#009E73"}
OWN, OTHER = COLOURS["svd"], COLOURS["full"]
LINE = {"color": INK, "alpha": 0.4, "linewidth": 1}
NAMES = {"kan": "KAN", "slim-kan": "Slim KAN"}
LEAST = 1e-16  # part of a loss that is drawn
Found = Mapping[str, Any]


def spectrum(found: Found) -> Figure:
    """Draw the eigenvalues, the largest first, above a line at rounding."""
    drawn, axes = blank()
    told = found["spectrum"]
    values = np.sort(np.asarray(told["eigenvalues"]))[::-1]
    seen = values > 0
    label = "eigenvalues" if told["whole"] else "Ritz values"
    axes.plot(np.arange(1, len(values) + 1)[seen], values[seen], ".", color=OWN, markersize=4, label=label)
    axes.axhline(told["rounding"], **LINE)
    axes.annotate("rounding", (1, told["rounding"]), (0, 3), textcoords="offset points", color=INK, fontsize=8)
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="number, the largest first", ylabel=label)
    return drawn


def course(found: Found) -> Figure:
    """Draw the norm of the residual as it was foretold and as it was measured, relative to the start."""
    drawn, axes = blank()
    told = found["course"]
    first = told["measured"][0] or 1.0
    looks = (("measured", OWN, "-", 2.0), ("predicted", OTHER, "--", 1.6), ("bound", COLOURS["scratch"], ":", 1.4))
    names = {"bound": "bound of the theorem"}
    for key, colour, dash, size in looks:
        values = np.asarray(told[key]) / first
        values[~np.isfinite(values) | (values > 10 * max(told["predicted"]) / first)] = np.nan  # where it diverged
        if np.isfinite(values).any():
            axes.plot(values, dash, color=colour, linewidth=size, label=names.get(key, key))
    logarithmic(axes, "y")
    whole(axes.xaxis)
    axes.set(xlabel="step of gradient descent", ylabel="norm of the residual")
    legend(drawn, axes)
    return drawn


def shares(found: Found) -> Figure | None:
    """Draw which part of the loss lies in each eigendirection, and from where directions stand still."""
    told, plateau = found["spectrum"], found["plateau"]
    values, parts = np.asarray(told["eigenvalues"]), np.asarray(told["shares"])
    edge = math.log(2) / (found["steps"]["taken"] * plateau["steps"])  # (1 - step edge)^steps = 1/2
    seen = (values > 0) & (parts > LEAST)
    if not seen.any():
        return None
    drawn, axes = blank()
    for moves, colour, mark, label in (
        (True, OWN, "o", "moves"),
        (False, OTHER, "v", f"less than half of it moves in {count(plateau['steps'])} steps"),
    ):
        which = seen & ((values >= edge) == moves)
        if which.any():
            axes.plot(values[which], parts[which], mark, color=colour, markersize=3, label=label)
    axes.set_ylim(parts[seen].min() / 2, 2)
    logarithmic(axes, "x", "y")
    axes.set(xlabel="eigenvalue", ylabel="part of the loss")
    legend(drawn, axes)
    return drawn


def networks(found: Found) -> Figure | None:
    """Draw how far the kernel moves, and how far off the forecast is, along the size of networks; one is no figure."""
    rows = found["widths"]
    if len(rows) < 2:
        return None
    drawn, axes = blank()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind, colour, mark in zip(kinds, (OWN, OTHER, COLOURS["lora-xs"]), "os^", strict=False):
        own = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["numbers"])
        for key, dash, label in (("drift", "-", "kernel moves"), ("error", "--", "forecast off")):
            values = [row[key] if 0 < row[key] < math.inf else math.nan for row in own]
            sizes = [row["numbers"] for row in own]
            axes.plot(sizes, values, dash, color=colour, marker=mark, markersize=4, label=f"{kind}: {label}")
    logarithmic(axes, "x", "y", crowd=1.5)
    axes.set(xlabel="numbers of the network", ylabel="relative to the start")
    legend(drawn, axes)
    return drawn


def many(steps: int) -> str:
    """Write a number of steps: whole below a million.

    >>> many(12345), many(223497725)
    ('12,345', '2.2e8')
    """
    return count(steps) if steps < 1_000_000 else quantity(steps)


def title(found: Found) -> str:
    """Return the heading: the equation's member, and what was looked at."""
    values = ", ".join(f"{key} = {setting(value)}" for key, value in found["parameters"].items())
    space = "1 dimension" if found["dimension"] == 1 else f"{found['dimension']} dimensions"
    return f"Will it train? {found['family']} in {space}{f', {values}' if values else ''}, {_kind(found)}"


def lead(found: Found) -> str:
    """Say in one sentence what was looked at."""
    rows, network = found["rows"], found["network"]
    where = "as it was trained" if found["run"] else "at its start"
    sides = f"{count(rows['inside'])} rows inside, "
    sides += f"{count(rows['outside'])} of boundary or initial values" if rows["outside"] else "all other values exact"
    kind = _kind(found)
    return (
        f"The tangent kernel of {'an' if kind == 'MLP' else 'a'} {kind} of width {network['width']} and depth "
        f"{network['depth']}, {count(found['numbers'])} numbers, {where}: {sides}, loss {quantity(found['loss'])}."
    )


def times(found: Found) -> str:
    """Say what the diagnosis took, beside an epoch of training."""
    took = found["seconds"]
    others = f", other networks {seconds(took['widths'])} s" if len(found["widths"]) > 1 else ""
    return (
        f"Kernel {seconds(took['kernel'])} s, gradient descent {seconds(took['descent'])} s{others}. All points once "
        f"in batches of {found['steps']['batch']} take {seconds(took['epoch'])} s in training: the kernel costs "
        f"{quantity(took['kernel'] / took['epoch'])} such epochs, the whole look "
        f"{quantity(took['total'] / took['epoch'])}."
    )


def page(out: Path, found: Found, settings: str, environment: Mapping[str, Any]) -> Path:
    """Write figures/*.svg and index.html of a diagnosis; return the path of the page.

    Args:
        out: its directory.
        found: as `recipes.diagnose` returns it.
        settings: YAML.
        environment: versions and machine.
    """
    folder = out / "figures"
    steps = count(found["plateau"]["steps"])
    shown = [
        figure(folder, "spectrum", spectrum(found), "Spectrum of the tangent kernel"),
        figure(
            folder,
            "course",
            course(found),
            f"Gradient descent from the same start at a rate of {quantity(found['steps']['taken'])}, relative to it",
        ),
        figure(
            folder, "shares", shares(found), f"Part of the loss in each eigendirection, and what moves in {steps} steps"
        ),
        figure(folder, "drift", networks(found), "How far the kernel moves, and the forecast is off, by size"),
    ]
    body = [
        f"<h1>{escape(title(found))}</h1>",
        f'<p class="lead">{escape(lead(found))}</p>',
        _advice(found["advice"]),
        tiles(_numbers(found)),
        gallery(shown),
        "<h2>Networks</h2>",
        _table(found["widths"]),
        f"<p>{escape(times(found))}</p>",
        details("Settings", f"<pre>{escape(settings)}</pre>", paper=True),
        details("Environment", pairs(dict(environment)), paper=True),
        "<footer>Written by Lissome; the figures are also in figures/ as SVG files, all numbers in diagnosis.json."
        "</footer>",
    ]
    return write(out / "index.html", document(title(found), "\n".join(body)))


def terminal(found: Found) -> Group:
    """Return what the terminal shows: the networks, and the advice."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for index, name in enumerate(HEADS):
        table.add_column(name, justify="right" if index else "left", no_wrap=index < 3)
    for row in found["widths"]:
        table.add_row(*_cells(row), style="bold" if row["diagnosed"] and len(found["widths"]) > 1 else "")
    told = [Text(f"{each['topic']}: {each['says']}") for each in found["advice"]]
    return Group(Text(lead(found)), table, *told, Text(times(found), style="dim"))


HEADS = ("network", "width", "numbers", "smallest", "largest", "kernel moves", "forecast off")


def _cells(row: Mapping[str, Any]) -> list[str]:
    off = "diverged" if row["diverged"] else share(row["error"], 1.0)
    return [
        row["kind"],
        count(row["width"]) + (", trained" if row["trained"] else ""),
        count(row["numbers"]),
        _signed(row["smallest"]),
        quantity(row["largest"]),
        share(row["drift"], 1.0) if row["drift"] < math.inf else ABSENT,
        off,
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    bodies = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own, lines = [row for row in rows if row["kind"] == kind], []
        for row in own:
            first = f'<th scope="rowgroup" rowspan="{len(own)}">{escape(kind)}</th>' if not lines else ""
            style = ' class="best"' if row["diagnosed"] and len(rows) > 1 else ""
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)[1:])
            lines.append(f"<tr{style}>{first}{cells}</tr>")
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    return f'<div class="wide"><table class="lines"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'


def _advice(advice: Sequence[Mapping[str, str]]) -> str:
    items = "".join(
        f'<li style="border-left-color: {VERDICTS[each["verdict"]]}"><strong>{escape(each["topic"])}</strong>: '
        f"{escape(each['says'])}</li>"
        for each in advice
    )
    return f'<ul class="verdicts">{items}</ul>'


def _numbers(found: Found) -> list[tuple[str, str, str]]:
    told, steps = found["spectrum"], found["steps"]
    hundredth = next(each["steps"] for each in found["forecast"] if each["fraction"] == 0.01)
    low, high = (
        "" if told["whole"] else f"within {quantity(max(told[key], told['rounding']))}"
        for key in ("smallest_bound", "largest_bound")
    )
    rounding = f"{count(told['at_rounding'])} at rounding" if told["at_rounding"] else low
    return [
        ("largest eigenvalue", quantity(told["largest"]), high),
        ("smallest", _signed(told["smallest"]), rounding),
        ("condition", quantity(told["condition"]) if told["condition"] < math.inf else "∞", ""),
        ("largest stable rate", quantity(steps["largest"]), "gradient descent on the loss"),
        ("of SGD", quantity(steps["stochastic"]), f"batches of {steps['batch']}"),
        (
            "steps to 1% of the loss",
            "never" if hundredth is None else many(hundredth),
            f"at {quantity(steps['taken'])}",
        ),
    ]


def _kind(found: Found) -> str:
    kind, basis = found["network"]["kind"], found["network"]["basis"]
    return "MLP" if kind == "mlp" else f"{NAMES.get(kind, kind)} ({basis})"


def _signed(value: float) -> str:
    return f"−{quantity(-value)}" if value < 0 else quantity(value)
