"""The page of a choice of ranks: a map of the layers, and the loss along the budget."""

from __future__ import annotations

import re
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
from lissome.report.drawing import COLOURS, INK, blank, legend, plain, whole
from lissome.report.numerals import quantity

NUMBER = re.compile(r"^(.*?)\.(\d+)\.(.*)$")
SHOWN = 12  # layers that the terminal lists
CELL = 0.42  # inches of a cell of the map


def places(layers: Sequence[str]) -> tuple[list[str], list[str], dict[str, tuple[int, int]]]:
    """Lay layers out as a map: rows by kind, columns by number.

    Returns:
        names of the rows, names of the columns, and layer -> (row, column).

    >>> places(["h.0.q", "h.0.v", "h.1.q"])
    (['h.q', 'h.v'], ['0', '1'], {'h.0.q': (0, 0), 'h.0.v': (1, 0), 'h.1.q': (0, 1)})
    """
    told = {}
    for layer in layers:
        found = NUMBER.match(layer)
        told[layer] = (f"{found[1]}.{found[3]}", found[2]) if found else (layer, "")
    kinds = list(dict.fromkeys(kind for kind, _ in told.values()))
    numbers = sorted({number for _, number in told.values()}, key=lambda text: (len(text), text))
    return kinds, numbers, {layer: (kinds.index(k), numbers.index(n)) for layer, (k, n) in told.items()}


def heat(layers: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw how many terms each layer keeps: a map of kinds against numbers, each cell with its figure.

    Args:
        layers: layer -> `rank`, kept, of `terms`.
    """
    kinds, numbers, where = places(list(layers))
    kept = np.full((len(kinds), len(numbers)), np.nan)  # (rows, columns)
    for layer, each in layers.items():
        kept[where[layer]] = each["rank"]
    longest = max(len(kind) for kind in kinds)
    drawn, axes = blank(1.2 + 0.085 * longest + max(CELL * len(numbers), 1.5), 0.8 + 0.34 * len(kinds))
    most = max(each["terms"] for each in layers.values())
    axes.imshow(kept, cmap="Blues", vmin=0, vmax=1.4 * most, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(numbers)), numbers)
    axes.set_yticks(range(len(kinds)), [plain(kind) for kind in kinds])
    if numbers != [""]:
        axes.set_xlabel("layer")
    for (row, column), value in np.ndenumerate(kept):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="#101010")
    return drawn


def curve(rows: Sequence[Mapping[str, Any]], before: float, chosen: int) -> Figure:
    """Draw the loss along the budget: as predicted, as measured, and on text that was held out."""
    drawn, axes = blank()
    budgets = [row["budget"] for row in rows]
    looks = (
        ("predicted", "predicted", COLOURS["svd"], "--", "o"),
        ("measured", "measured", COLOURS["full"], "-", "s"),
        ("held out", "held", COLOURS["lora-xs"], "-.", "^"),
    )
    for label, key, colour, dash, marker in looks:
        axes.plot(budgets, [row[key] for row in rows], dash, color=colour, marker=marker, markersize=4, label=label)
    axes.axhline(before, color=INK, alpha=0.4, linewidth=1)
    axes.axvline(chosen, color=INK, alpha=0.4, linewidth=1)
    finite = [row[key] for row in rows for key in ("measured", "held")]
    low, high = min(finite), max(finite)
    axes.set_ylim(low - 0.15 * (high - low or 1), high + 0.15 * (high - low or 1))  # a wild prediction may leave it
    whole(axes.xaxis)
    axes.set(xlabel="terms that stay", ylabel="loss")
    legend(drawn, axes)
    return drawn


def lead(found: Mapping[str, Any]) -> str:
    """Say in one sentence what was chosen and what it does."""
    return (
        f"{found['budget']} of {found['terms']} terms stay, in {len(found['rank_pattern'])} of {len(found['layers'])} "
        f"layers: the loss goes from {found['before']:.4f} to {found['after']:.4f} where it was weighed, and from "
        f"{found['held_before']:.4f} to {found['held_after']:.4f} on text held out, before any further training."
    )


def page(out: Path, found: Mapping[str, Any], settings: str, environment: Mapping[str, Any]) -> Path:
    """Write figures/*.svg and index.html of a choice of ranks; return the path of the page.

    Args:
        out: its directory.
        found: as `recipes.rank` returns it.
        settings: YAML.
        environment: versions and machine.
    """
    folder = out / "figures"
    shown = [
        figure(folder, "ranks", heat(found["layers"]), "Terms that each layer keeps"),
        figure(
            folder,
            "budget",
            curve(found["curve"], found["before"], found["budget"]),
            "Loss along the budget; the lines are the loss before, and the chosen budget",
        ),
    ]
    numbers = [
        ("terms that stay", f"{found['budget']}", f"of {found['terms']}"),
        ("loss before", f"{found['before']:.4f}", ""),
        ("loss after", f"{found['after']:.4f}", f"predicted {found['predicted']:.4f}"),
        ("held out, before", f"{found['held_before']:.4f}", ""),
        ("held out, after", f"{found['held_after']:.4f}", ""),
        ("seconds", quantity(found["seconds"]), ""),
    ]
    use = (
        "from peft import LoraConfig, PeftModel\n"
        "import json\n\n"
        '# the cut adapter, as it was trained:  PeftModel.from_pretrained(base, "adapter")\n'
        "# or a new one of these ranks:\n"
        'ranks = json.load(open("ranks.json"))["config"]\n'
        "config = LoraConfig(target_modules=..., **ranks)\n"
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(layer)}</th><td>{each["rank"]}</td><td>{each["terms"]}</td></tr>'
        for layer, each in found["layers"].items()
    )
    table = (
        '<div class="wide"><table><thead><tr><th>layer</th><th>stay</th><th>of</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    certificate = found["certificate"]
    spread = f"Over batches the gradient varies by {found['gradient_spread']:.0%} of its size, the Hessian by "
    spread += f"{found['hessian_spread']:.0%}."
    body = [
        "<h1>Ranks by layer</h1>",
        f'<p class="lead">{escape(lead(found))}</p>',
        tiles(numbers),
        gallery(shown),
        f"<p>{escape(certificate[:1].upper() + certificate[1:])}. {escape(spread)}</p>",
        "<h2>Use</h2>",
        f"<pre>{escape(use)}</pre>",
        details("All layers", table, paper=True),
        details("Settings", f"<pre>{escape(settings)}</pre>", paper=True),
        details("Environment", pairs(dict(environment)), paper=True),
        "<footer>Written by Lissome; the figures are also in figures/ as SVG files.</footer>",
    ]
    return write(out / "index.html", document("Ranks by layer", "\n".join(body)))


def terminal(found: Mapping[str, Any]) -> Group:
    """Return what the terminal shows: the layers that keep most, and the sentence of the page."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("layer")
    table.add_column("stay", justify="right")
    table.add_column("of", justify="right")
    ordered = sorted(found["layers"].items(), key=lambda item: -item[1]["rank"])
    for layer, each in ordered[:SHOWN]:
        table.add_row(layer, str(each["rank"]), str(each["terms"]))
    more = len(ordered) - SHOWN
    tail = [Text(f"and {more} more in ranks.json", style="dim")] if more > 0 else []
    return Group(table, *tail, Text(lead(found)), Text(found["certificate"], style="dim"))
