"""Tables of SepLLM: who keeps what, how many keys that is as measured, and what a token then costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lissome.language.score import perplexity
from lissome.recipes.language_contest_seeds import written
from lissome.recipes.paper import Row, Sheet, of
from lissome.recipes.sepllm_claims import WAYS, beside, fair
from lissome.recipes.sepllm_drawings import drawings
from lissome.recipes.sepllm_names import FULL, NEEDLE, READERS, SEPLLM, STREAM, TEXT, TRAINED
from lissome.report.numerals import ABSENT, count

__all__ = ["drawings", "tables"]

NOTES = {
    "by mask": "Not trained further: all keys are kept, and the mask hides some. Keys: that a scored query sees.",
    "by cache": "Not trained further: keys are dropped. Keys: that are held after a forward.",
    "as a stream": "Keys: that are held after a forward. Full attention reads windows of the trained length, half of "
    "each scored; what it is beyond is below.",
    "trained with its own mask": "Each from the start, as many steps. Keys: that a scored query sees.",
}


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return tables of the parts that have rows."""
    made = [*(_way(rows, way) for way in WAYS), _tenths(of(rows, STREAM)), _beyond(of(rows, STREAM, label=FULL)),
            _needle(of(rows, NEEDLE)), _text(of(rows, TEXT))]  # fmt: skip
    return [sheet for sheet in made if sheet.rows]


def _way(rows: Sequence[Row], way: str) -> Sheet:
    here, lines, alike = [row for row in of(rows, **WAYS[way]) if "nats" in row], [], fair(rows, way)
    for label in READERS:
        own = of(here, label=label)
        if not own:
            continue
        apart = None if label == SEPLLM else beside(alike, label, SEPLLM)
        told = [written(apart.each, "{:+.4f}".format) if apart else ABSENT,
                f"{apart.t:+.1f}" if apart and not math.isnan(apart.t) else ABSENT]  # fmt: skip
        lines.append([label, _known(own, "window", count), _known(own, "used", "{:.1f}".format),
                      _known(own, "share", "{:.1%}".format), _known(own, "most", count),
                      written([perplexity(row["nats"]) for row in own], "{:.3f}".format), *told,
                      _known([{"ms": 1e6 * row["each"]} for row in own if way != "trained with its own mask"], "ms",
                             "{:.0f}".format)])  # fmt: skip
    heads = ["", "window", "keys", "share of all", "most", "perplexity", "nats above SepLLM", "t", "s a million tokens"]
    return Sheet(f"A text, {way}", heads, lines, NOTES[way])


def _known(rows: Sequence[Row], key: str, write) -> str:
    return written([row[key] for row in rows if row.get(key) is not None], write)


def _tenths(rows: Sequence[Row]) -> Sheet:
    own = {label: of(rows, label=label) for label in READERS}
    lines = [[label, *(written([perplexity(row["tenths"][k]) for row in found], "{:.2f}".format)
                       for k in range(len(found[0]["tenths"])))] for label, found in own.items() if found]  # fmt: skip
    heads = ["", *(f"{k + 1}" for k in range(len(rows[0]["tenths"]) if rows else 0))]
    many = f"{max(row['tokens'] for row in rows):,} tokens. " if rows else ""
    return Sheet("A stream: perplexity of each tenth", heads, lines,
                 f"{many}That it stays level says nothing of recalling what was read long ago.")  # fmt: skip


def _beyond(rows: Sequence[Row]) -> Sheet:
    lengths = list(rows[0]["beyond"]) if rows else []
    lines = [[FULL, *(written([perplexity(row["beyond"][n]) for row in rows], "{:.2f}".format) for n in lengths)]]
    heads, note = (
        ["", *(count(int(n)) for n in lengths)],
        "First the trained length; the same tokens are scored at each.",
    )
    return Sheet("Full attention beyond its trained length: perplexity", heads, lines if rows else [], note)


def _needle(rows: Sequence[Row]) -> Sheet:
    lines, full = [], [row for row in of(rows, label=FULL) if "free" in row]
    for label in READERS:
        own = [row for row in of(rows, label=label) if "accuracy" in row]
        used = written([row["free used"][label] for row in full], "{:.1f}".format)
        free = written([row["free"][label] for row in full], "{:.3f}".format)
        trained = written([row["accuracy"] for row in own], "{:.3f}".format)
        reach = ABSENT if label == FULL else _known(own, "reach", count)
        lines += [[label, used, reach, free, trained if label in TRAINED else ABSENT]] if own or full else []
    chance = next((row["chance"] for row in rows if "chance" in row), math.nan)
    heads = ["", "keys", "windows reach", "trained with full attention, read so", "trained so"]
    note = (
        f"A guess is right: {chance:.3g}. Windows do not reach the facts: StreamingLLM's row checks that nothing leaks."
    )
    return Sheet("Facts beyond the window: accuracy", heads, lines, note)


def _text(rows: Sequence[Row]) -> Sheet:
    heads = ["characters", "tokens", "held out", "ids that are separators", "share of the tokens"]
    lines = [[*(count(row[key]) for key in ("characters", "tokens", "held", "separators")), f"{row['share']:.1%}"]
             for row in rows]  # fmt: skip
    return Sheet("The text", heads, lines)
