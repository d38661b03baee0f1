"""Text that holds data: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
from typing import Any

import yaml

MOST = 100_000  # values that a text may hold, each counted as often as it is named


class _Plain(yaml.SafeLoader):
    """Plain values; a key that stands twice in one mapping is refused, where YAML would take the last."""

    def __init__(self, text: str):
        super().__init__(text)
        self.deep_construct = True  # so that a value which holds itself is refused

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if isinstance(node.value, str) and "\0" in node.value:
            raise yaml.MarkedYAMLError(problem="a text there holds a NUL", problem_mark=node.start_mark)
        return super().construct_scalar(node)


def yaml_of(text: str) -> Any:
    """Return the value that a text of YAML holds.

    Raises:
        yaml.YAMLError: it is none, names a key twice, nests too deeply or in itself, holds more than 100,000 values, or
            one that is not of its own kind.

    >>> yaml_of("rate: 0.1")
    {'rate': 0.1}
    """
    try:
        value = yaml.load(text, Loader=_Plain)
        if (size := _size(value, {})) > MOST:
            raise yaml.YAMLError(f"it holds {size:,} values; legal are {MOST:,} at most")
        return value
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of a number, a date, a tag
        raise yaml.YAMLError(f"it holds a value that is none of its kind ({error})") from error


def _size(value: Any, known: dict[int, int]) -> int:
    """Count the single values in one; those that are named again and again are gone through once."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if id(value) not in known:
        known[id(value)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(value)]


def json_of(text: str | bytes) -> Any:
    """Return the value that a text of JSON holds.

    Raises:
        ValueError: it is none, is not UTF-8, nests too deeply, or holds a number of more digits than Python reads.

    >>> json_of("[1, 2]")
    [1, 2]
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
