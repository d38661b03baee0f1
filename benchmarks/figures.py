"""`python -m benchmarks.figures`: error against seconds, every optimizer in one figure, from the results kept."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from benchmarks.record import RESULTS

Curves = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # label -> one (seconds, error) per seed
ORDER = ("gauss-newton", "ssbroyden", "ssbfgs", "bfgs", "lbfgs", "adam")


def curves(name: str, key: str, panel: Callable[[dict[str, str]], str], label: Callable[[dict[str, str]], str]):
    """Return panel -> label -> curves of a benchmark's results; both are made of a trial's name, cut at its commas."""
    found: dict[str, Curves] = defaultdict(lambda: defaultdict(list))
    for title, cell in json.loads((RESULTS / f"{name}.json").read_text())["cells"].items():
        parts = title.split(", ")
        curve = cell["figures"]["curve"]
        pair = np.asarray(curve["seconds"][1:]), np.asarray(curve[key][1:])
        found[panel(parts)][label(parts)].append(pair)
    return found


def draw(path: str, panels: dict[str, Curves], what: str) -> None:
    """Draw a panel for each problem: a line per seed, thin, in the colour of its optimizer."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.4), squeeze=False, layout="constrained")
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: f"C{index}" for index, name in enumerate(sorted(names, key=_place))}
    for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
        for name in sorted(panel, key=_place):
            for seed, (seconds, error) in enumerate(panel[name]):
                axis.loglog(seconds, error, color=colours[name], lw=1.1, alpha=0.85, label=name if seed == 0 else None)
        axis.xaxis.set_minor_formatter(NullFormatter())
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, high / 120), high)  # two decades at least have labels
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title)
        axis.set_xlabel("seconds on one thread")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(what)
    handles = {text: line for axis in axes[0] for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = min(len(handles), 1 + len(panels))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(RESULTS / path, dpi=110)
    plt.close(figure)


def _place(name: str) -> tuple[int, str]:
    found = [index for index, known in enumerate(ORDER) if known in name.split(" ")]
    return (found[0] if found else len(ORDER)), name


def records(parts: Iterable[str]) -> str:
    """Return the optimizer of a trial's name, and whether it had ten minutes."""
    return " ".join(part for part in list(parts)[1:] if not part.startswith("seed"))


def main() -> None:
    """Draw what there are results of."""
    if (RESULTS / "records.json").exists():
        found = curves("records", "error", lambda parts: parts[0], records)
        draw(
            "records.png",
            {k: found[k] for k in ("poisson", "allen-cahn-1d", "burgers") if k in found},
            "relative L2 error",
        )
    if (RESULTS / "adaptation.json").exists():
        found = curves(
            "adaptation", "squared_error", lambda parts: ", ".join(parts[:2]), lambda parts: " ".join(parts[2:4])
        )
        draw(
            "adaptation.png",
            dict(sorted(found.items(), key=lambda item: [float(word) for word in re.findall(r"[0-9.]+", item[0])])),
            "squared error",
        )


if __name__ == "__main__":
    main()
