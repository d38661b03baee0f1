"""How numbers are written: two or three significant digits, thousands separated."""

from __future__ import annotations

from typing import Any

ABSENT = "–"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def quantity(value: float | None) -> str:
    """Write an error or a loss with two significant digits.

    >>> [quantity(x) for x in (0.01234, 0.5, 3.14, 312.0, 12345.0, 0.0, None)]
    ['1.2e-2', '0.50', '3.1', '310', '1.2e4', '0', '–']
    """
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = int(exponent)
    if -1 <= power < 3:
        return f"{float(f'{value:.1e}'):.{max(1 - power, 0)}f}"
    return f"{mantissa}e{power}"


def count(value: float | None) -> str:
    """Write a whole number with its thousands separated.

    >>> count(12737)
    '12,737'
    """
    return ABSENT if value is None else f"{round(value):,}"


def seconds(value: float | None) -> str:
    """Write seconds without their unit: two digits below ten, whole numbers above.

    >>> [seconds(x) for x in (0.0123, 0.2, 8.46, 41.2, 4321.0)]
    ['0.012', '0.20', '8.5', '41', '4,321']
    """
    if value is None:
        return ABSENT
    return count(value) if value >= 9.95 or value == 0 else f"{value:#.2g}"


def share(part: float | None, whole: float | None) -> str:
    """Write part of whole in per cent.

    >>> share(961, 12737), share(1, 10**6), share(5, 5), share(45, 100000)
    ('7.5%', '1.0e-4%', '100%', '0.045%')
    """
    if part is None or not whole:
        return ""
    value = 100 * part / whole
    if value >= 9.95:
        return f"{value:.0f}%"
    return f"{value:.2g}%" if value >= 0.01 else f"{quantity(value)}%"


def setting(value: Any) -> str:
    """Write the value of an equation's parameter as a person would.

    >>> setting(2.0), setting(0.1 + 0.2), setting(1e-7), setting("periodic"), setting(100000)
    ('2', '0.3', '1e-7', 'periodic', '100,000')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = f"{value:,.6g}" if abs(value) < 1e6 else f"{value:.6g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def power(value: float) -> str:
    """Write a tick of a logarithmic axis.

    >>> power(1e-3), power(2e-3), power(1.0), power(0.1), power(50.0), power(0.0125)
    ('10⁻³', '2×10⁻³', '1', '0.1', '50', '1.25×10⁻²')
    """
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    if -1 <= int(exponent) < 3:
        return f"{value:.3g}"
    tail = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    return tail if mantissa == "1" else f"{mantissa}×{tail}"
