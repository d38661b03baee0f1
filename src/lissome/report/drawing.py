"""How figures look: styles of methods, axes, ticks, and SVG that takes its ink from the page."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator

from lissome.report.numerals import power

INK = "#010203"  # replaced by the colour of the page's text
# Okabe and Ito's colours, told apart by colour-blind eyes (jfly.uni-koeln.de/color), without yellow: it fades on white.
COLOURS = {
    "svd": "#0072B2",
    "lora": "#E69F00",
    "lora-xs": "#009E73",
    "pissa": "#CC79A7",
    "last": "#56B4E9",
    "full": "#D55E00",
    "scratch": "#8C8C8C",
    "lotra": "#332288",
}
MARKERS = "os^DvPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (3, 1.5)))


@dataclass(frozen=True)
class Style:
    """How one label is drawn everywhere; colour alone never tells two labels apart."""

    colour: str
    dash: Any
    marker: str


def palette(labels: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """Give every (label, method) its style: a method's colour is always the same, others take what is left.

    >>> palette([("svd", "svd"), ("mine", "mine")])["svd"].colour
    '#0072B2'
    """
    known = [*COLOURS, ""]  # the last place is Okabe and Ito's black, here the page's ink
    labels = sorted(set(labels), key=lambda pair: (pair[1] not in COLOURS, pair))
    methods = {method for _, method in labels}
    free = [index for index, name in enumerate(known) if name not in methods]
    strange = sorted(methods - set(known))
    places = {name: known.index(name) for name in methods & set(known)}
    places |= {name: free[index % len(free)] for index, name in enumerate(strange)}
    styles, taken = {}, Counter()
    for label, method in labels:
        place = places[method]
        turn = (place + taken[place]) % len(DASHES)
        taken[place] += 1
        styles[label] = Style(COLOURS.get(known[place], INK), DASHES[turn], MARKERS[turn])
    return styles


class Powers(Formatter):
    """Ticks of a logarithmic axis as plain text; between the powers of ten only on a short axis."""

    def __init__(self, write: Callable[[float], str], crowd: float):
        self.write, self.crowd = write, crowd

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write the tick at x, or nothing."""
        assert self.axis is not None
        low, high = self.axis.get_view_interval()
        decades = math.log10(high / low)
        mantissa = x / 10 ** math.floor(math.log10(x) + 1e-9)
        near = round(mantissa)
        if decades < 0.5:
            shown = True
        elif abs(mantissa - near) > 1e-6:
            shown = False
        else:
            shown = near == 1 or (near in (2, 5) and decades < self.crowd)
        return self.write(x) if shown else ""


def blank(width: float = 4.6, height: float = 3.1) -> tuple[Figure, Axes]:
    """Return an empty figure with one frameless, lightly ruled pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, dress(figure.add_subplot())


def dress(axes: Axes) -> Axes:
    """Rule a pair of axes lightly in the colour of the page's ink."""
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.8)
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9)
    axes.grid(True, color=INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set(color=INK, fontsize=10)
    return axes


def logarithmic(axes: Axes, *which: str, write: Callable[[float], str] = power, crowd: float = 2.0) -> None:
    """Make the axes named "x" or "y" logarithmic; below `crowd` decades 2 and 5 are labelled too."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = axis.get_view_interval()
        if high < 2 * low:  # a shorter axis has no ticks that a person reads
            axes.set(**{f"{name}lim": (low / 2, high * 2)})
        axis.set_major_formatter(Powers(write, crowd))
        axis.set_minor_formatter(Powers(write, crowd))


def whole(axis) -> None:
    """Separate the thousands of a linear axis and keep its ticks few."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))


def legend(figure: Figure, axes: Axes) -> None:
    """Put the names above the axes, where they hide no curve."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    room = 13.3 * figure.get_figwidth()  # characters in a row; a handle and its gaps take 6.7
    columns = len(names)
    if sum(6.7 + len(name) for name in names) > room:
        columns = max(1, min(columns - 1, int(room / (6.7 + max(map(len, names))))))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * (rows - 1))
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=2.6,
        handletextpad=0.5,
        columnspacing=1.0,
    )


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as SVG text that stands alone.

    Its background is transparent, its ink `currentColor`, and its inner ids carry the name, so
    that several fit into one page.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lissome"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = text.replace(INK, "currentColor")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    label = escape(title, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1) + "\n"


def themed(text: str) -> str:
    """Let the page choose the shade of each method's colour in a figure or a dot.

    >>> themed("#0072B2")
    'var(--c0072b2, #0072b2)'
    """
    text = text.replace(INK, "currentColor")
    shades = "|".join(colour[1:] for colour in COLOURS.values())
    return re.sub(f"#({shades})", lambda found: f"var(--c{found[1].lower()}, {found[0].lower()})", text, flags=re.I)


def upright(axes: Axes, x: float, text: str) -> None:
    """Write along a vertical line, from the upper edge down."""
    axes.annotate(
        text,
        (x, 1),
        (3, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=INK,
        fontsize=8,
        rotation=90,
        va="top",
    )


def plain(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")
