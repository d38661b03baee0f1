"""Two texts as bytes: from files, or of two small grammars with words of their own."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lissome._errors import UsageError

HELD = 10  # one part in so many of the second text is held out
LEAST = 10_000  # bytes of a file
MADE = 200_000  # bytes of a text that is made

FIRST = {
    "subject": ["the miller", "a sailor", "her brother", "the old king", "a tired horse", "the river", "my neighbour"],
    "verb": ["carries", "has lost", "remembers", "looks for", "will sell", "mends", "was afraid of"],
    "object": ["the grain", "a lantern", "seven coins", "the long winter", "his boots", "an open door", "the bell"],
    "where": ["by the mill", "in the harbour", "under the bridge", "at night", "before the feast", "far from home"],
    "pattern": [
        "{subject} {verb} {object} {where}.",
        "{where} {subject} {verb} {object}, and {subject} {verb} {object}.",
    ],
}
SECOND = {
    "subject": ["PLL_CLK", "ADC0", "uart1", "the DMA channel", "SPI bus 2", "watchdog", "FIFO_A"],
    "verb": ["raises", "masks", "polls", "overruns", "latches", "drops", "acknowledges"],
    "object": ["IRQ 17", "0x3F8", "bit 5", "a stop bit", "the CRC word", "0xDEAD", "every 4th sample"],
    "where": ["after reset", "within 12 us", "while EN=0", "on the falling edge", "if BUSY=1", "at 115200 baud"],
    "pattern": [
        "[{where}] {subject} {verb} {object};\n",
        "{subject}: {verb} {object}, {where}\n",
        "{object} <- {subject}\n",
    ],
}


def check(data: Sequence[str]) -> None:
    """Refuse files that are not two, cannot be read or are too short.

    Raises:
        UsageError: one of these.
    """
    if data and len(data) != 2:
        raise UsageError(
            f"sublora takes two texts, to train on and to adapt to, and {len(data)} came; give --data twice"
        )
    texts(tuple(data))


def texts(data: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the bytes of both texts, (length,) each, int64; made ones where there are no files."""
    if not data:
        return _made(0), _made(1)
    first, second = (_read(path) for path in data)
    return first, second


@functools.cache
def _read(path: str) -> Tensor:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from error
    if len(content) < LEAST:
        raise UsageError(f"'{path}' has {len(content):,} bytes; legal are texts of at least {LEAST:,}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


@functools.cache
def _made(which: int) -> Tensor:
    """Return a text of a grammar whose words are drawn more often the earlier they stand."""
    grammar, draw = (FIRST, SECOND)[which], random.Random(which)
    parts, length = list[str](), 0
    while length < MADE:
        sentence = draw.choice(grammar["pattern"])
        while "{" in sentence:
            word = sentence[sentence.index("{") + 1 : sentence.index("}")]
            choices = grammar[word]
            chosen = draw.choices(choices, weights=range(len(choices), 0, -1))[0]
            sentence = sentence.replace("{" + word + "}", chosen, 1)
        parts.append(sentence if sentence.endswith("\n") else sentence + " ")
        length += len(parts[-1])
    return torch.tensor(list("".join(parts).encode()), dtype=torch.int64)
