"""Pages written by hand, whose numbers stand between markers, `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MARKED = re.compile(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
Blocks = Mapping[str, Callable[[], str]]


def filled(text: str, blocks: Blocks) -> str:
    r"""Return a page with every block made anew.

    >>> filled("a\n<!-- b -->\n<!-- /b -->\n", {"b": lambda: "7"})
    'a\n<!-- b -->\n7\n<!-- /b -->\n'

    Raises:
        LookupError: the page marks other blocks than those that are made.
    """
    marked = [found[1] for found in MARKED.finditer(text)]
    if sorted(marked) != sorted(blocks):
        raise LookupError(f"the page marks {', '.join(marked) or 'nothing'}; what is made is {', '.join(blocks)}")
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{blocks[found[1]]()}\n<!-- /{found[1]} -->", text)


def differing(text: str, other: str) -> list[str]:
    """Return the names of the blocks in which two versions of a page differ."""
    new = {found[1]: found[2] for found in MARKED.finditer(other)}
    return [found[1] for found in MARKED.finditer(text) if new[found[1]] != found[2]]


def prose(text: str) -> str:
    """Return what is written by hand."""
    return MARKED.sub("", text)
