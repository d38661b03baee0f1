"""Names that both replications of DAPE share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lissome.recipes.language_contest import Sizes
from lissome.recipes.language_contest_seeds import SECONDS

# who is compared -> the stages of its attention, as a `DecoderShape` names them
CONTESTANTS: dict[str, dict[str, str]] = {
    "rotary": {"position": "rotary"},
    "NoPE": {"position": "none"},
    "Kerple": {"position": "kerple"},
    "FIRE": {"position": "fire"},
    "NoPE + DAPE": {"position": "none", "refine": "dape"},
    "Kerple + DAPE": {"position": "kerple", "refine": "dape"},
    "FIRE + DAPE": {"position": "fire", "refine": "dape"},
    "rotary + V2": {"position": "rotary", "refine": "dape(3)"},
    "NoPE + V2": {"position": "none", "refine": "dape(3)"},
    "Kerple + V2": {"position": "kerple", "refine": "dape(3)"},
    "Kerple + V2, k=5": {"position": "kerple", "refine": "dape(5)"},
    "Kerple + V2, published": {"position": "kerple", "refine": "dape(3, hidden=published)"},
}
STATIC, DAPE, V2 = "Kerple", "Kerple + DAPE", "Kerple + V2"  # of which most claims speak
AS_LONG = f"{STATIC}{SECONDS}"  # and the contestant whose seconds it is given

RECALL, EARLIEST, RECENT, PAIRS, BYTES = "recall", "earliest", "recent", "even pairs", "bytes"  # parts
CHOMSKY = ("parity", "modular", "copy", "duplicate", "reverse", "sort")  # parts of a large look, as tasks are named
LENGTH = 64  # bytes of a row of training
LENGTHS = (64, 128, 256, 512, 1024)  # that are evaluated
FAR = (2048, 4096, 8192)  # and in a large look


@dataclass(frozen=True)
class Trial:
    """A task with its settings, and the sizes of those who try it."""

    task: str
    sizes: Sizes
    settings: dict[str, Any] = field(default_factory=dict)


_LOOKUP = Sizes(layers=1, width=32, steps=600, rates=(3e-3, 1e-2))
_CHOMSKY = Sizes(layers=5, width=64, steps=10_000, rates=(1e-3, 3e-3), rows=64)
TRIALS: dict[str, Trial] = {
    RECALL: Trial("recall", Sizes(layers=1, width=32, steps=400, rates=(3e-3, 1e-2))),
    EARLIEST: Trial("lookup", _LOOKUP, {"which": "earliest"}),
    RECENT: Trial("lookup", _LOOKUP, {"which": "recent"}),
    PAIRS: Trial("even-pairs", Sizes(layers=2, width=32, steps=1000, rates=(1e-3, 3e-3)),
                 {"train": (1, 20), "test": (20, 100)}),
    **{name: Trial(name, _CHOMSKY, {"test": (40, 500)}) for name in CHOMSKY},
}  # fmt: skip
