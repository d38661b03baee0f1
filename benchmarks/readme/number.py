"""Numbers as a reader wants them: three digits, with what seeds or rounds say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass


def plain(value: float) -> str:
    """Return a number with three digits, or two and a power of ten.

    >>> plain(0.0728), plain(1.0), plain(1474.2), plain(5.43e7), plain(8.17e-4), plain(22.18)
    ('0.0728', '1', '1,474', '5.4e7', '8.2e-4', '22.2')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e5 else short(value)


def short(value: float) -> str:
    """Return two digits and a power of ten.

    >>> short(4.352e-6)
    '4.4e-6'
    """
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def times(value: float) -> str:
    """Return a ratio of times.

    >>> times(265.3), times(10.48), times(5.04), times(0.994)
    ('265', '10.5', '5.0', '0.99')
    """
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.9995 else f"{value:.2f}"


def numbers(text: str) -> set[str]:
    """Return the numbers of a text without their commas; digits of a name are none.

    >>> sorted(numbers("DAPE V2 at 1,024 bytes, 64 and 1e-6"))
    ['1024', '1e-6', '64']
    """
    return set(re.findall(r"(?<![A-Za-z\d.])\d(?:[\d.]*\d)?(?:e-?\d+)?", text.replace(",", "")))


@dataclass(frozen=True)
class Spread:
    """A number, and the least and greatest of it over seeds; `f"{spread:.0%}"` gives all three in percent.

    >>> f"{Spread(0.559, 0.53, 0.58)}", f"{Spread(0.107, 0.11, 0.11):.0%}"
    ('0.559 (0.53 to 0.58)', '11%')
    """

    value: float
    low: float
    high: float

    def __format__(self, how: str) -> str:
        """Return the number, with its ends where they differ and their digits say something."""
        value, low, high = (format(one, how) if how else plain(one) for one in (self.value, self.low, self.high))
        told = low != high and not (self.low == 0 < self.value)
        return f"{value} ({low} to {high})" if told else value
