"""The picture of language models: attention over the length, and decoding by three caches; one light, one dark."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.race import ratio
from benchmarks.readme import kept
from benchmarks.readme.doors import megabytes
from benchmarks.readme.number import times
from benchmarks.readme.races import BOTH, DECODING

IMAGES = kept.ROOT / "docs" / "images"
SHADES = {  # those of a run's page: ink, paper, lines, two colours
    "light": ("#1c1f24", "#ffffff", "#c8ccd2", "#005a8e", "#d95f02"),
    "dark": ("#e6e9ee", "#15181c", "#454b54", "#7cc4f0", "#f0a35e"),
}
LENGTHS = ("1,024", "4,096", "16,384", "32,768")
CACHES = {"DynamicCache": "DynamicCache", "StaticCache": "StaticCache", "SepCache": "SepCache, a cycle"}
KEY = "Source"  # of a text in the picture: a digest of the numbers it draws


def numbers() -> dict[str, Any]:
    """Return what is drawn: speeds over lengths, tokens a second and megabytes of each cache."""
    cells = kept.load("compact")["cells"]
    speeds = {
        what: [
            round(ratio(cells[f"T = {length}, {what}"]["raw_ms"], "causal SDPA", "compact").median, 3)
            for length in LENGTHS
        ]
        for what in ("forward", BOTH)
    }
    raw = kept.cell("caches", DECODING)["median_ms"]
    whole, bounded = megabytes()
    return {
        "speeds": speeds,
        "tokens": {name: round(1e3 / raw[key], 2) for name, key in CACHES.items()},
        "megabytes": {name: bounded if name == "SepCache" else whole for name in CACHES},
    }


def digest() -> str:
    """Return a digest of what is drawn."""
    return hashlib.sha256(json.dumps(numbers(), sort_keys=True).encode()).hexdigest()[:16]


def differences() -> list[str]:
    """Return a sentence for each picture that draws other numbers than those that are kept."""
    found = []
    for shade in SHADES:
        path = IMAGES / f"language-{shade}.png"
        with Image.open(path) as picture:
            if picture.info.get(KEY) != digest():
                found.append(f"docs/images/{path.name} draws other numbers than the results")
    return found


def draw() -> None:
    """Draw both pictures, where they do not draw these numbers yet."""
    for shade in SHADES:
        path = IMAGES / f"language-{shade}.png"
        if path.is_file():
            with Image.open(path) as picture:
                if picture.info.get(KEY) == digest():
                    continue
        path.write_bytes(drawn(shade))


def drawn(shade: str) -> bytes:
    """Return a picture as PNG."""
    ink, paper, lines, one, other = SHADES[shade]
    told = numbers()
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    look: Any = {
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), lines),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), paper),
        "font.size": 11,
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(10, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        _lengths(left, told["speeds"], one, other, ink)
        _caches(right, told, (lines, lines, one), ink)
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={KEY: digest(), "Software": None})
    return buffer.getvalue()


def _lengths(axis: Axes, speeds: dict[str, list[float]], one: str, other: str, ink: str) -> None:
    axis.set_title("Attention to separators and neighbours", loc="left", fontsize=12, weight="bold")
    upper = [max(each) for each in zip(*speeds.values(), strict=True)]
    for (what, found), colour, mark in zip(speeds.items(), (one, other), "os", strict=True):
        label = "with gradient" if what == BOTH else "forward"
        axis.plot(range(len(LENGTHS)), found, color=colour, marker=mark, lw=2, label=label)
        for place, value in enumerate(found):
            spot = (0, 8) if value == upper[place] else (12, -12)  # below a line that rises
            axis.annotate(
                times(value),
                (place, value),
                spot,
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=9.5,
            )
    axis.axhline(1, color=ink, lw=1, ls="--")
    axis.annotate(
        "causal attention of torch",
        (len(LENGTHS) - 1, 1),
        (0, -12),
        textcoords="offset points",
        ha="right",
        fontsize=9.5,
    )
    axis.set_yscale("log")
    axis.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axis.set_yticks([], minor=True)
    axis.set_ylim(0.75, 16)
    axis.set_xticks(range(len(LENGTHS)), LENGTHS)
    axis.set_xlim(-0.3, len(LENGTHS) - 0.7)
    axis.set_xlabel("tokens")
    axis.set_ylabel("times as fast")
    axis.grid(axis="y", alpha=0.5, lw=0.6)
    axis.legend(frameon=False, loc="upper left", labelcolor="linecolor")


def _caches(axis: Axes, told: dict[str, Any], colours: tuple[str, str, str], ink: str) -> None:
    axis.set_title(
        f"Decoding at {DECODING.partition(' ')[0]} tokens of context", loc="left", fontsize=12, weight="bold"
    )
    names = list(told["tokens"])
    speeds = list(told["tokens"].values())
    axis.barh(range(len(names)), speeds, color=colours, height=0.62)
    for place, (name, speed) in enumerate(told["tokens"].items()):
        text = f"{speed:.1f} tokens/s, {told['megabytes'][name]} MB held"
        inside = speed > 0.6 * max(speeds)
        colour = axis.get_facecolor() if inside else ink
        spot, way, side = (speed, -8, "right") if inside else (speed, 6, "left")
        axis.annotate(text, (spot, place), (way, 0), textcoords="offset points", va="center", ha=side, color=colour)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("tokens a second, one thread")
    axis.tick_params(axis="y", length=0)
