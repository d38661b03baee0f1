"""The reference: a page per package, of the names that it makes public."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args

from docs._ext.links import GENERATED
from docs._ext.papers import cell

PLACE = GENERATED / "reference"
ROOMS = ("adapt", "allocation", "attention", "calculus", "models", "optim", "pde", "language", "recipes", "report")
# bridges want other people's libraries, each file its own: these are what the pages import
BRIDGES = ("transformers", "peft", "trainer", "sepcache", "separators", "lm_eval")
MODULES = (*ROOMS, *(f"bridges.{name}" for name in BRIDGES), "testing", "_errors")


def pages() -> dict[Path, str]:
    """Return all pages of the reference: place and text."""
    found = {PLACE / f"{name}.md": _page(importlib.import_module(f"lissome.{name}")) for name in MODULES}
    return found | {PLACE / "index.md": _index()}


def public(module: ModuleType) -> list[str]:
    """Return the public names of a module: those of `__all__`, else what it defines without an underscore."""
    own = [name for name, thing in vars(module).items()
           if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
           and (inspect.isclass(thing) or inspect.isfunction(thing))]  # fmt: skip
    return sorted(getattr(module, "__all__", own), key=str.lower)


def names(modules: Iterable[str] = MODULES) -> dict[str, dict[str, str]]:
    """Return for each module what stands in backticks of its docstrings -> the full name of what is meant.

    `adapt.select_ranks` is one wherever it stands. `Tucker` is one where no other package has the name, or in its own;
    words in small letters are names of methods and of arguments as often, and mean no link.
    """
    listed = {name: public(importlib.import_module(f"lissome.{name}")) for name in modules}
    full = {f"{room}.{name}": f"lissome.{room}.{name}" for room, own in listed.items() for name in own}
    homes: dict[str, list[str]] = {}
    for room, own in listed.items():
        for name in filter(_class, own):
            homes.setdefault(name, []).append(f"lissome.{room}.{name}")
    alone = {name: places[0] for name, places in homes.items() if len(places) == 1}
    return {
        room: full | alone | {name: f"lissome.{room}.{name}" for name in own if _class(name)}
        for room, own in listed.items()
    }


def _class(name: str) -> bool:
    return name[0].isupper() and not (name.isupper() and len(name) > 4)


def _page(module: ModuleType) -> str:
    things = {name: getattr(module, name) for name in public(module)}
    summary, _, rest = (inspect.getdoc(module) or "").partition("\n")
    rows = "\n".join(f"| {_link(module, name)} | {cell(_first(thing))} |" for name, thing in things.items())
    parts = [f"# {module.__name__}", f"**{summary}**", rest.strip(), f"| name | |\n| :--- | :--- |\n{rows}"]
    parts += [_entry(module, name, thing) for name, thing in things.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _link(module: ModuleType, name: str) -> str:
    return f"{{py:obj}}`{name} <{module.__name__}.{name}>`"


def _first(thing: Any) -> str:
    """Return the first sentence about a thing, or the names that a table of it holds."""
    if isinstance(thing, UnionType):
        return " or ".join(f"`{kind.__name__}`" for kind in get_args(thing)) + "."
    if _plain(thing):
        named = ", ".join(f"`{name}`" for name in thing) if _named(thing) else ""
        kind = type(thing).__name__
        return f"Names: {named}." if named else f"`{thing}`." if isinstance(thing, str) else f"A `{kind}`."
    text = inspect.getdoc(thing) or ""
    return re.sub(r"([*<])", r"\\\1", text.split("\n\n")[0].replace("\n", " ").strip())


def _plain(thing: Any) -> bool:
    return not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing))


def _named(thing: Any) -> bool:
    return isinstance(thing, Iterable) and not isinstance(thing, str)


def _entry(module: ModuleType, name: str, thing: Any) -> str:
    full = f"{module.__name__}.{name}"
    if inspect.ismodule(thing):
        return _settings(full, thing)
    if _plain(thing):
        told = _first(thing).replace("`", "``")
        return _rst(f".. py:data:: {full}\n\n   {told}")
    if inspect.isclass(thing):
        return _rst(f".. autoclass:: {full}\n   :members:\n   :show-inheritance:")
    return _rst(f".. autofunction:: {full}")


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"


def _settings(full: str, module: ModuleType) -> str:
    """Return the tables of a module of settings: a field, its default, what it means."""
    parts = [_rst(f".. py:data:: {full}\n\n   {inspect.getdoc(module)}")]
    for name, thing in vars(module).items():
        described = getattr(thing, "model_fields", None)
        if not described or thing.__module__ != module.__name__:
            continue
        rows = [f"| `{key}` | {_default(own)} | {cell(own.description or '')} |" for key, own in described.items()]
        head = f"## {name}\n\n{_first(thing)}"
        parts.append("\n".join([head, "", "| field | default | |", "| :--- | :--- | :--- |", *rows]))
    return "\n\n".join(parts)


def _default(field: Any) -> str:
    if field.is_required():
        return "asked for"
    value = field.get_default(call_default_factory=True)
    return "see there" if hasattr(value, "model_fields") else f"`{cell(repr(value))}`"


def _index() -> str:
    listed = "\n".join(("commands", *MODULES))
    told: Mapping[str, str] = {name: _first(importlib.import_module(f"lissome.{name}")) for name in MODULES}
    rows = "\n".join(f"| [lissome.{name}]({name}.md) | {cell(text)} |" for name, text in told.items())
    return (
        "# Reference\n\nMade from the docstrings, whose examples the tests run. Shapes are told by the letters of the "
        "[vocabulary](../../vocabulary.md). A name that no page here shows may change without a word.\n\n"
        f"| | |\n| :--- | :--- |\n| [The command line](commands.md) | All verbs and their options. |\n{rows}\n\n"
        f":::{{toctree}}\n:hidden:\n\n{listed}\n:::\n"
    )
