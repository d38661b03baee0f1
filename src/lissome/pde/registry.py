"""Families by name, or from a person's own file."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from lissome._errors import LissomeError, UsageError, unknown
from lissome.pde.family import Family
from lissome.pde.zoo import FAMILIES


def families() -> dict[str, type[Family]]:
    """Return the families of the zoo by name.

    >>> sorted(families())[:2]
    ['allen-cahn', 'allen-cahn-1d']
    """
    return {family.name: family for family in FAMILIES}


def load_family(name: str) -> type[Family]:
    """Return a family by its name, or the one family that a Python file defines; the file is run.

    Raises:
        UsageError: an unknown name; a file that is missing, does not run, or does not define exactly one family.
    """
    if name.endswith(".py") or "/" in name or "\\" in name:
        return _from_file(Path(name))
    zoo = families()
    found = zoo.get(name.replace("_", "-"))
    if found is None:
        raise unknown("family", name, [*zoo, "or the path of a .py file"])
    return found


@contextlib.contextmanager
def guard(family: Family, what: str) -> Iterator[None]:
    """Turn an error in a family's own code into one sentence with its file and line."""
    try:
        yield
    except Exception as error:
        file = inspect.getfile(type(family))
        line = _line(error, file)
        if line is None:
            method = getattr(type(family), what)
            line = inspect.unwrap(method).__code__.co_firstlineno if method.__code__.co_filename == file else None
        place = f"{file}, line {line}" if line else file
        raise UsageError(f"{place}: {what} of family '{family.name}' failed: {_said(error)}") from error


def _from_file(path: Path) -> type[Family]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"family file '{path}' cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"{path}, line {getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}"
        ) from error
    module_name = f"lissome_family_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"family file '{path}' is no Python file; legal is a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and error messages look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UsageError(f"{path}, line {_line(error, str(path)) or 1}: {_said(error)}") from error
    mine = [
        c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Family) and c.__module__ == module_name
    ]
    lines = {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    concrete = [c for c in dict.fromkeys(mine) if not inspect.isabstract(c)]
    if len(concrete) > 1:
        listed = ", ".join(f"{c.__name__} (line {lines.get(c.__name__, '?')})" for c in concrete)
        raise UsageError(f"{path} defines {len(concrete)} families, {listed}; legal is one")
    if not concrete:
        for c in mine:
            missing = ", ".join(sorted(c.__abstractmethods__))
            raise UsageError(f"{path}, line {lines.get(c.__name__, 1)}: family {c.__name__} does not say its {missing}")
        raise UsageError(f"{path}, line 1: there is no family here; legal is one class derived from lissome.pde.Family")
    if not isinstance(getattr(concrete[0], "name", None), str):
        raise UsageError(
            f"{path}, line {lines.get(concrete[0].__name__, 1)}: family {concrete[0].__name__} has no name"
        )
    return concrete[0]


def _line(error: BaseException, file: str) -> int | None:
    """Return the last line of a file that an error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _said(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, LissomeError) else f"{type(error).__name__}: {text}"
