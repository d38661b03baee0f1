"""Attention of one sentence as maps of colour: what each head scores, corrects and weighs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from lissome.report.document import details, figure, gallery
from lissome.report.drawing import INK, dress, plain
from lissome.report.language_files import Maps

SIDE, ASIDE = 1.95, 1.1  # inches: of a map, and of what is beside the maps
COLUMNS = 4
OPEN = 4  # layers that are seen without a click
LETTERS = 8  # of a label
FONT = 6.5  # points of a label
PITCH = 7.5  # points from label to label
MOST = 0.995  # part of the numbers that the scale of colours holds; what is beyond has its last shade
# seen on white as on black: red below zero, blue above, and a grey that the page shines through at zero
BELOW, ZERO, ABOVE = (0xE0, 0x5A, 0x1E), (0x80, 0x80, 0x80), (0x1F, 0x86, 0xD8)
FAINT = 0.14
LIMIT = 60  # characters of the sentence in a caption


@dataclass(frozen=True)
class Kind:
    """What is drawn.

    Attributes:
        name: of the arrays.
        title: of a figure.
        reading: how it is read.
        root: whether colours follow the square root, so that small shares are seen.
    """

    name: str
    title: str
    reading: str
    root: bool = False


KINDS = (
    Kind("refined", "scores", "blue is more than 0, red less"),
    Kind("correction", "what the refinement adds to score and bias", "blue raises a pair, red lowers it"),
    Kind("weights", "weights", "the denser, the more of a query's attention goes to the key", root=True),
)


def drawings(folder: Path, maps: Maps) -> str:
    """Draw and write the maps of all kept layers; those of deep layers open on a click.

    Args:
        folder: of the figures.
        maps: what the run keeps.
    """
    scales = {kind.name: scale(maps, kind) for kind in KINDS}
    first, later = list[str](), list[str]()
    with warnings.catch_warnings():
        # the page's own fonts write what matplotlib's, which only measures, has no shape for
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        for place, (layer, own) in enumerate(maps.layers.items()):
            shown = [
                figure(
                    folder,
                    f"layer-{layer + 1}-{kind.name}",
                    heads(maps, layer, kind, scales[kind.name]),
                    caption(maps, layer, kind),
                )
                for kind in KINDS
                if kind.name in own
            ]
            if place < OPEN:
                first += shown
            else:
                later.append(details(f"Layer {layer + 1}", gallery(shown)))
    return "\n".join([gallery(first), *later])


def caption(maps: Maps, layer: int, kind: Kind) -> str:
    """Say what is seen, and how it is read."""
    shared = "the scale is the same in all layers" if len(maps.layers) > 1 else "the scale is the same for all heads"
    root = ", by the square root" if kind.root else ""
    title = kind.title + (_after(maps.layers[layer]) if kind.name == "refined" else "")
    return (
        f"Layer {layer + 1}, {title}, of each head: the query in a row, the keys that it sees in its columns; "
        f"{kind.reading}{root}. Pairs that are not seen are blank; {shared}."
    )


def _after(own: Mapping[str, np.ndarray]) -> str:
    """Say which stages scores have passed."""
    passed = [name for key, name in (("bias", "bias"), ("correction", "refinement")) if key in own]
    return f" after {' and '.join(passed)}" if passed else ""


def sentence(maps: Maps) -> str:
    """Say which sentence was read, and what is left out."""
    text = "".join(maps.pieces) if "text" not in maps.told else str(maps.told["text"])
    text = _seen(" ".join(text.split()))
    text = text if len(text) <= LIMIT else f"{text[: LIMIT - 1]}…"
    told = [f"What the model does with “{text}”, {len(maps.pieces)} tokens"]
    if maps.told.get("cut"):
        told.append(f"{maps.told['cut']:,} more were left out")
    for kept, key, name in ((maps.layers, "depth", "layers"), (maps.heads, "width", "heads")):
        if len(kept) < int(maps.told.get(key) or 0):
            told.append(f"{len(kept)} of its {maps.told[key]} {name} are shown, evenly spaced")
    return "; ".join(told) + "."


def scale(maps: Maps, kind: Kind) -> tuple[float, float]:
    """Return the ends of the colours of a kind, over all kept layers: about zero, or from zero where none is below."""
    values = [_rooted(own[kind.name], kind)[..., own["valid"] > 0] for own in maps.layers.values() if kind.name in own]
    every = np.concatenate([value.reshape(-1) for value in values]) if values else np.zeros(1)
    every = every[np.isfinite(every)]
    if not every.size:
        return (-1.0, 1.0)
    end = float(np.quantile(np.abs(every), 1.0 if kind.root else MOST)) or 1.0
    return (0.0, end) if kind.root and every.min() >= 0 else (-end, end)


def heads(maps: Maps, layer: int, kind: Kind, ends: tuple[float, float]) -> Figure:
    """Draw what is kept of a layer, a map for each head, in one scale of colours.

    Args:
        maps: what the run keeps.
        layer: from 0.
        kind: what is drawn.
        ends: of the colours, as `scale` returns them.
    """
    own, many, size = maps.layers[layer], len(maps.heads), len(maps.pieces)
    columns = next((c for c in (COLUMNS, 3) if many % c == 0), min(many, COLUMNS))
    side = SIDE if columns > 2 else 3.0  # inches
    unit = size / side / 72  # tokens of a point
    right, down = size + 9 * unit, size + 18 * unit  # from a map to the next
    rows = -(-many // columns)
    drawn = Figure(figsize=((side + 0.13) * columns + ASIDE, (side + 0.25) * rows + 0.8), layout="constrained")
    axes, colours = dress(drawn.add_subplot()), _colours(ends)
    for number, head in enumerate(maps.heads):
        x, y = number % columns * right, number // columns * down
        values = np.where((own["valid"] > 0) & np.isfinite(own[kind.name][number]), own[kind.name][number], np.nan)
        values = np.ma.masked_invalid(_rooted(values, kind))
        box = (x - 0.5, x + size - 0.5, y + size - 0.5, y - 0.5)
        axes.imshow(values, cmap=colours, norm=Normalize(*ends), extent=box, interpolation="none")
        axes.text(x + size / 2, y - 4 * unit, f"head {head + 1}", ha="center", fontsize=9, color=INK)
    labels = names(maps.pieces, 0.95 * side * 72)
    words = [plain(word) for _, word in labels]
    full = columns if many % columns == 0 or rows == 1 else many % columns  # that reach the lower edge
    axes.set_xticks([right * i + place for i in range(full) for place, _ in labels], words * full)
    axes.set_yticks([down * i + place for i in range(rows) for place, _ in labels], words * rows)
    axes.tick_params(length=2, pad=1.5, labelsize=FONT)
    axes.tick_params(axis="x", rotation=90)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, right * (columns - 1) + size - 0.5), ylim=(down * (rows - 1) + size - 0.5, -18 * unit))
    drawn.get_layout_engine().set(h_pad=0.09)  # type: ignore[union-attr, call-arg]
    _bar(drawn, axes, colours, ends, kind, 28 * rows)
    return drawn


def names(pieces: Sequence[str], room: float) -> list[tuple[float, str]]:
    """Return (place, label) along an axis: of each token where they fit, else of some; of words if tokens are letters.

    Args:
        pieces: text of each token.
        room: points.

    >>> names(["a", " b"], 100)
    [(0, 'a'), (1, 'b')]
    >>> names(list("to be"), 16)
    [(0.5, 'to'), (3.5, 'be')]
    """
    every = room / len(pieces)
    if every >= PITCH:
        return [(place, _short(piece)) for place, piece in enumerate(pieces)]
    if len("".join(pieces)) >= 1.5 * len(pieces):
        step = math.ceil(PITCH / every)
        return [(place, _short(pieces[place])) for place in range(0, len(pieces), step)]
    words, start, held = [], 0, ""
    for place, piece in enumerate([*pieces, " "]):
        if piece[:1].isspace() and held.strip():
            words.append(((start + place - 1) / 2, _short(held)))
            held = ""
        if not held.strip():
            start, held = place, ""
        held += piece
    kept = list[tuple[float, str]]()
    for place, word in words:
        if not kept or (place - kept[-1][0]) * every >= PITCH:
            kept.append((place, word))
    return kept


def _short(piece: str) -> str:
    seen = _seen(piece.strip(" ") or "␣" * bool(piece))
    return seen if len(seen) <= LETTERS else f"{seen[: LETTERS - 1]}…"


def _seen(text: str) -> str:
    """Return text in which nothing is without a shape."""
    shapes = {"\n": "⏎", "\t": "⇥"}
    return "".join(letter if letter.isprintable() else shapes.get(letter, "·") for letter in text)


def _rooted(values: np.ndarray, kind: Kind) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values)) if kind.root else values


def _colours(ends: tuple[float, float]) -> ListedColormap:
    """Return colours through which the page shines at zero; what is masked is nothing at all."""
    values = np.linspace(*ends, 255) / max(abs(ends[0]), abs(ends[1]))  # (255,), zero among them
    far = np.abs(values)[:, None]
    ink = np.where(values[:, None] < 0, BELOW, ABOVE) / 255
    mixed = (1 - far**0.5) * np.array(ZERO) / 255 + far**0.5 * ink
    return ListedColormap(np.concatenate((mixed, FAINT + (1 - FAINT) * far), 1))


def _bar(
    drawn: Figure, axes: Axes, colours: ListedColormap, ends: tuple[float, float], kind: Kind, slender: float
) -> None:
    """Draw the scale of colours beside the maps."""
    bar = drawn.colorbar(axes.images[0], ax=axes, fraction=0.035, pad=0.015, aspect=slender)
    if bar.solids is not None:
        bar.solids.remove()  # its strips overlap, which is seen where they are not opaque
    column = np.linspace(*ends, 255)[:, None]
    bar.ax.imshow(
        column,
        cmap=colours,
        norm=Normalize(*ends),
        extent=(0, 1, *ends),
        aspect="auto",
        origin="lower",
        interpolation="none",
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    if kind.root:
        steps = [x for x in (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 4) if math.sqrt(x) <= ends[1] * 1.001]
        signs = [-x for x in steps[1:] if ends[0] < 0]
        bar.set_ticks(
            [math.copysign(math.sqrt(abs(x)), x) for x in (*signs, *steps)], labels=[f"{x:g}" for x in (*signs, *steps)]
        )
    bar.ax.tick_params(color=INK, labelcolor=INK, labelsize=8, length=2)
