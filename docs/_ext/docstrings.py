"""Docstrings as the house writes them, for people and for Markdown, as reStructuredText that napoleon reads.

An indented block is shown as it stands; a star, a bar, an underscore at the end of a word mean themselves; what stands
in backticks is a public name of the library where there is one, else code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example|Examples):$")
CODE = re.compile(r"(`+[^`]+`+)")
SPECIAL = re.compile(r"([*|\\])|(?<=\w)(_)(?!\w)")
ITEM = re.compile(r"(^\s*|: )(\w|\d+)(?=\.($| ))")  # "H." begins no list
FLAG = re.compile(r"(?<!\S)--[a-z][\w-]*")  # whose dashes stay two
ERROR = re.compile(r"^    (LissomeError|UsageError|RunError|Interrupted):")
COLON = "\x01"  # for a colon that napoleon would take for the end of a type


def reworded(lines: list[str], names: Mapping[str, str], *, attribute: bool = False) -> list[str]:
    r"""Return the lines of a docstring as reStructuredText; `restored` gives its colons back behind napoleon.

    Args:
        lines: of the docstring.
        names: what may stand in backticks -> the full name of what is meant.
        attribute: it tells an attribute, whose first words napoleon would take for a type.

    >>> reworded(["Return `x` * y.", "", "    W = U V"], {})
    ['Return \\ ``x``\\  \\* y.', '', '.. code-block:: text', '', '    W = U V']
    """
    found: list[str] = []
    section, block, example = "", False, False
    for place, line in enumerate(lines):
        indented, blank = line.startswith(" "), not line.strip()
        if not indented and not blank:
            section, block = line.strip(":") if SECTION.match(line) else "", False
        if line.lstrip().startswith(">>>"):
            example = True
        elif blank:
            example = False
        if indented and not (section or block or example or blank) and place and not lines[place - 1].strip():
            block = True
            found += [".. code-block:: text", ""]
        plain = block or example or bool(SECTION.match(line))
        told = line if plain else _line(line, names)
        if section == "Raises" and not plain:
            told = ERROR.sub(r"    ~lissome._errors.\1:", told)
        untyped = not plain and (section == "Returns" or (attribute and not section))
        found.append(told.replace(":", COLON) if untyped else told)
    return found


def restored(lines: list[str]) -> list[str]:
    """Return the lines with their colons."""
    return [line.replace(COLON, ":") for line in lines]


def _line(line: str, names: Mapping[str, str]) -> str:
    parts = CODE.split(line)
    return "".join(_code(part, names) if place % 2 else _plain(part) for place, part in enumerate(parts))


def _plain(text: str) -> str:
    return FLAG.sub(r"``\g<0>``", ITEM.sub(r"\1\\\2", SPECIAL.sub(r"\\\g<0>", text)))


def _code(text: str, names: Mapping[str, str]) -> str:
    inner = text.strip("`")
    marked = f":py:obj:`{inner} <{names[inner]}>`" if inner in names else f"``{inner}``"
    return rf"\ {marked}\ "
