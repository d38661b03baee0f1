"""Names and sizes of the replication of SepLLM: the paper's own presets, and those that are run."""

from __future__ import annotations

from dataclasses import dataclass

from lissome.recipes.language_contest import Sizes

FULL, SEPLLM, STREAMING, FIX, RANDOM = "full", "SepLLM", "StreamingLLM", "FixLLM", "random ids"
OTHERS = (STREAMING, FIX, RANDOM)  # beside SepLLM, at as many keys
READERS = (FULL, SEPLLM, *OTHERS)
TRAINED = (FULL, SEPLLM, STREAMING, FIX)  # each trained with its own mask

TEXT, TRAINING, FREE, STREAM, NEEDLE = "text", "training", "training-free", "stream", "needle"  # parts
MASK, CACHE = "mask", "cache"  # ways to read a text within the trained length


@dataclass(frozen=True)
class Sees:
    """The mask of SepLLM: its a first tokens and n neighbours, beside all separators."""

    initial: int
    near: int


@dataclass(frozen=True)
class Keeps:
    """The cache of SepLLM: its a first tokens, s separators, w neighbours, and c tokens at most."""

    initial: int
    separators: int
    local: int
    capacity: int


@dataclass(frozen=True)
class Look:
    """What is run, and how large.

    Attributes:
        sizes: of the decoder and its training.
        vocabulary: byte pairs.
        characters: of the text that are read.
        length: T, tokens of a row of training; also of a window that is read; its second half is scored.
        mask: of SepLLM, in training and within the trained length.
        short: the cache within the trained length.
        long: the cache of the stream.
        stream: tokens, at most.
        windows: that are read, at most.
    """

    sizes: Sizes
    vocabulary: int
    characters: int
    length: int
    mask: Sees
    short: Keeps
    long: Keeps
    stream: int
    windows: int

    @property
    def scored(self) -> int:
        """Tokens at the end of a window that are scored."""
        return self.length // 2


PUBLISHED_MASK = Sees(3, 256)  # arXiv 2412.12094, GSM8K with Llama-3-8B
PUBLISHED_CACHE = Keeps(4, 64, 256, 800)  # PG-19 with Llama-3-8B
RATE = 6e-3
DEFAULT = Look(
    sizes=Sizes(layers=2, width=96, steps=1600, rates=(RATE,), rows=8),
    vocabulary=1024, characters=4_000_000, length=256, mask=Sees(4, 32), short=Keeps(4, 24, 32, 88),
    long=Keeps(4, 32, 64, 192), stream=1 << 17, windows=256,
)  # fmt: skip
QUICK = Look(
    sizes=Sizes(layers=2, width=32, steps=6, rates=(RATE,), rows=8),
    vocabulary=384, characters=400_000, length=64, mask=Sees(2, 8), short=Keeps(2, 6, 8, 24),
    long=Keeps(2, 8, 16, 48), stream=1 << 11, windows=8,
)  # fmt: skip
LARGE = Look(
    sizes=Sizes(layers=6, width=256, steps=6000, rates=(2e-3,), rows=8, heads=8),
    vocabulary=4096, characters=16_000_000, length=1024, mask=PUBLISHED_MASK, short=Keeps(4, 64, 128, 384),
    long=PUBLISHED_CACHE, stream=1 << 18, windows=128,
)  # fmt: skip


def look_of(quick: bool, scale: bool) -> Look:
    """Return what is run."""
    return QUICK if quick else LARGE if scale else DEFAULT
