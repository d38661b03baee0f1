"""The page of a stream: perplexity, cache, speed and memory along a long text."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.text import Text

from lissome.report.document import figure, gallery
from lissome.report.drawing import COLOURS, dress, whole
from lissome.report.numerals import ABSENT, count, seconds, share
from lissome.report.read import Row, Run, finite, read_json, read_run
from lissome.report.run_page import run_page

NAMES = {
    "separators": "first tokens, separators and neighbours (SepLLM)",
    "sinks": "first tokens and neighbours (StreamingLLM)",
    "fixed": "first tokens, every {every}th token and neighbours (FixLLM)",
    "full": "all tokens",
}
PANELS = (
    ("perplexity", "perplexity", "full"),
    ("cache_mean", "entries in the cache", "svd"),
    ("tokens_per_second", "tokens a second", "lora-xs"),
    ("resident_mb", "resident memory, MB", "pissa"),
)
TOLD = {
    "kind",
    "cache",
    "perplexity",
    "nats",
    "tokens",
    "cache_mean",
    "cache_most",
    "tokens_per_second",
    "tokens_per_processor_second",
    "seconds",
    "reach",
    "separator_share",
    "first_tenth",
    "last_tenth",
    "finished",
    "parameters",
}
# what should be level, its name and unit
LEVEL = (
    ("perplexity", "perplexity", ""),
    ("tokens_per_second", "tokens a second", ""),
    ("tokens_per_processor_second", "tokens a second of a core", ""),
    ("resident_mb", "resident memory", " MB"),
)
OWN = {"protocol", "intervals"}  # settings that runs of other kinds have not


def is_stream(path: Path) -> bool:
    """Whether a directory holds a run of `lissome lm stream`, finished or not."""
    if read_json(path / "summary.json").get("kind") == "stream":
        return True
    return (path / "settings.yaml").is_file() and read_run(path).settings.keys() >= OWN


def stream_page(directory: str | Path) -> Path:
    """Write figures/stream.svg and index.html of a stream, finished or in progress; return the path of the page.

    Raises:
        UsageError: the directory is no run, or one of its files is broken.
    """
    run = read_run(directory)
    row = stream_row(run)
    last = row.get("last_tenth") or {}
    numbers = [
        ("perplexity", precise(finite(row, "perplexity")), f"{precise(finite(last, 'perplexity'))} in the last tenth"),
        ("tokens", count(finite(row, "tokens")), "read as one stream" if row.get("protocol") == "text" else "of lines"),
        ("cache entries", count(finite(row, "cache_mean")), f"mean; {count(finite(row, 'cache_most'))} at most"),
        ("tokens a second", count(finite(row, "tokens_per_second")), f"{seconds(finite(row, 'seconds'))} s in all"),
        ("resident memory", f"{count(finite(last, 'resident_mb'))} MB", "in the last tenth"),
        ("reach", count(finite(row, "reach")), "tokens, about, of what is kept beside the newest"),
    ]
    caption = "Along the text, one dot an interval; dashed: the most entries of it"
    drawn = figure(run.path / "figures", "stream", drawing(run.metrics), caption)
    shown = [gallery([drawn]) or "<p>No interval is over yet, so there is no figure.</p>"]
    shown += [f"<p>{escape(text)}</p>" for text in notes(row)]
    return run_page(run, row, heading(row), lead(row), numbers, shown=shown, told=TOLD)


def stream_row(run: Run) -> Row:
    """Return the summary of a stream, or what its settings and latest interval tell while it is in progress."""
    if run.finished:
        return run.row()
    latest = dict(run.metrics[-1]) if run.metrics else {}
    latest["perplexity"], latest["tokens"] = latest.get("perplexity_so_far"), latest.pop("step", None)
    names = ("model", "cache", "every", "protocol", "chunk")
    told = {name: run.settings.get(name) for name in names}
    return {"kind": "stream", **told, **latest, "data": Path(str(run.settings.get("text"))).name, "finished": False}


def stream_terminal(row: Row) -> Group:
    """Return what the terminal shows: the sentences of the page."""
    return Group(Text(heading(row)), Text(lead(row)), *(Text(text, style="dim") for text in notes(row)))


def drawing(rows: list[dict[str, Any]]) -> Figure | None:
    """Draw four quantities along the text, in panels below one another; a missing one leaves its panel out."""
    found = []
    for key, label, colour in PANELS:
        points = [(finite(row, "step"), finite(row, key)) for row in rows]
        kept = np.array([(x, y) for x, y in points if x is not None and y is not None]).reshape(-1, 2)
        if len(kept):
            found.append((kept, key, label, COLOURS[colour]))
    if not found:
        return None
    drawn = Figure(figsize=(9.3, 1.55 * len(found) + 0.4), layout="constrained")
    axes: Any = None
    for number, (kept, key, label, colour) in enumerate(found, 1):
        axes = dress(drawn.add_subplot(len(found), 1, number, sharex=axes))
        axes.plot(kept[:, 0], kept[:, 1], "o-", color=colour, markersize=3.5, linewidth=1.4)
        axes.set_ylabel(label.replace(" ", "\n", 1) if len(label) > 12 else label)
        most = max((value for row in rows if (value := finite(row, "cache_most")) is not None), default=0.0)
        axes.set_ylim(0, 1.15 * max(float(kept[:, 1].max()), most if key == "cache_mean" else 0.0))
        if key == "cache_mean":
            tops = [finite(row, "cache_most") for row in rows]
            axes.plot(kept[:, 0], tops, "--", color=colour, linewidth=1.1)
        whole(axes.yaxis)
        whole(axes.xaxis)
        axes.tick_params(labelbottom=number == len(found))
    axes.set_xlabel("tokens")
    drawn.align_ylabels()
    return drawn


def heading(row: Row) -> str:
    """Name a stream in one line."""
    kept = NAMES.get(str(row.get("cache")), str(row.get("cache"))).format(every=row.get("every"))
    return f"A text as one stream; the cache keeps {kept}"


def lead(row: Row) -> str:
    """Say in one sentence what came out."""
    if finite(row, "perplexity") is None:
        return "No interval is over yet."
    ended = ", where the text ends, fewer than were asked for" if row.get("ended") else ""
    return (
        f"Perplexity {precise(finite(row, 'perplexity'))} over {count(finite(row, 'tokens'))} tokens of "
        f"'{row.get('data')}'{ended}, with {count(finite(row, 'cache_mean'))} entries in the cache on average and "
        f"{count(finite(row, 'cache_most'))} at most, at {count(finite(row, 'tokens_per_second'))} tokens a second."
    )


def notes(row: Row) -> list[str]:
    """Say what the figures mean, and what they do not."""
    found = []
    first, last = row.get("first_tenth") or {}, row.get("last_tenth") or {}
    told = [f"{name} {_from(first, last, key, unit)}" for key, name, unit in LEVEL if finite(last, key) is not None]
    if told and first != last:  # of more than one interval
        found.append(f"From the first tenth to the last: {'; '.join(told)}.")
    tokens, reach = finite(row, "tokens"), finite(row, "reach")
    if row.get("cache") != "full" and tokens is not None:
        kept = "No separators are kept: what is dropped leaves no trace."
        if reach is not None and row.get("cache") == "fixed":
            kept = f"The newest {row['separators_kept']} of every {row['every']}th token reach"
        elif reach is not None:
            rate = share(finite(row, "separator_share"), 1)
            kept = f"Separators are {rate} of the tokens, and the newest {row['separators_kept']} of them reach"
        kept += "" if reach is None else f" back over about {count(reach)} tokens."
        many = count(tokens)
        found.append(f"{kept} A level perplexity over {many} tokens is not recall over {many} tokens.")
    found.append(
        f"Each token was scored given what the cache held. Forwards brought up to {count(finite(row, 'chunk'))} "
        "tokens, which see one another, and the cache drops between them: other parts give other figures."
    )
    if row.get("protocol") == "lines":
        found.append(
            f"Each line was a text of its own, begun by token {row.get('begin')}, and the cache was carried on: only "
            "to be compared with figures that were published so, since what begins a line is told by nothing before it."
        )
    length, most = finite(row, "length"), finite(row, "cache_most" if row.get("positions") == "cache" else "tokens")
    if length is not None and most is not None and most > length:
        whose, cure = ("text", "--positions cache") if row.get("positions") == "text" else ("cache", "--capacity")
        found.append(
            f"Positions are those in the {whose}, up to {count(most)}, and the model was trained for {count(length)}: "
            f"what that costs is among the figures; {cure} keeps them within."
        )
    return found


def _from(first: Row, last: Row, key: str, unit: str) -> str:
    before, now = finite(first, key), finite(last, key)
    write = precise if key == "perplexity" else count
    change = "" if not before or now is None else f" ({100 * (now / before - 1):+.1f}%)"
    return f"{write(before)} to {write(now)}{unit}{change}"


def precise(value: float | None) -> str:
    """Write a perplexity with four digits.

    >>> precise(3.14159), precise(302.6), precise(None)
    ('3.142', '302.6', '–')
    """
    return ABSENT if value is None else f"{value:#.4g}" if value < 1e4 else f"{value:.3g}"
