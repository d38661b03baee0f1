"""Names that both replications of DAPE share; loads neither torch nor anything heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# who is compared -> its position and its refinement, as `lissome.attention.attention` reads them
CONTESTANTS: dict[str, tuple[str, str]] = {
    "rotary": ("rotary", "none"),
    "NoPE": ("none", "none"),
    "Kerple": ("kerple", "none"),
    "FIRE": ("fire", "none"),
    "NoPE + DAPE": ("none", "dape"),
    "Kerple + DAPE": ("kerple", "dape"),
    "FIRE + DAPE": ("fire", "dape"),
    "rotary + V2": ("rotary", "dape(3)"),
    "NoPE + V2": ("none", "dape(3)"),
    "Kerple + V2": ("kerple", "dape(3)"),
    "Kerple + V2, k=5": ("kerple", "dape(5)"),
    "Kerple + V2, published": ("kerple", "dape(3, hidden=published)"),
}
STATIC, DAPE, V2 = "Kerple", "Kerple + DAPE", "Kerple + V2"  # of which most claims speak
AS_LONG = "Kerple, seconds of "  # and the contestant whose seconds it is given

RECALL, EARLIEST, RECENT, PAIRS, BYTES = "recall", "earliest", "recent", "even pairs", "bytes"  # parts
CHOMSKY = ("parity", "modular", "copy", "duplicate", "reverse", "sort")  # parts of a large look, as tasks are named
LENGTH = 64  # bytes of a row of training
LENGTHS = (64, 128, 256, 512, 1024)  # that are evaluated
FAR = (2048, 4096, 8192)  # and in a large look


@dataclass(frozen=True)
class Sizes:
    """How large a model is and how it is trained.

    Attributes:
        layers: of the decoder.
        width: of the decoder.
        steps: of training.
        rates: each contestant has the best of them by the first seed.
        heads: of the decoder.
        rows: of a batch.
    """

    layers: int
    width: int
    steps: int
    rates: tuple[float, ...]
    heads: int = 4
    rows: int = 32


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
