"""Families by name, or from a person's own file."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

from lissome._errors import LissomeError, UsageError, unknown
from lissome.pde.family import Family, declared
from lissome.pde.zoo import FAMILIES


def families() -> dict[str, type[Family]]:
    """Return the families of the zoo by name.

    >>> sorted(families())[:2]
    ['allen-cahn', 'allen-cahn-1d']
    """
    return {family.name: family for family in FAMILIES}


def load_family(name: str | Path) -> type[Family]:
    """Return a family by its name, or the one family that a Python file defines; the file is run.

    Args:
        name: a name of `families`, or a path that ends in .py or has a slash in it.

    Raises:
        UsageError: an unknown name; a file that is missing, does not run, or does not define exactly one family.
    """
    name, zoo = str(name), families()
    if name.endswith(".py") or "/" in name or "\\" in name:
        return _from_file(Path(name))
    found = zoo.get(name.replace("_", "-"))
    if found is None:
        raise unknown("family", name, [*zoo, "or the path of a .py file"])
    return found


def member(name: str | Path, dimension: int | None, parameters: dict[str, float]) -> Family:
    """Return one member of a family, by the family's name or file.

    Raises:
        UsageError: as `load_family`; a dimension or parameter that the family does not have; or a person's own
            `__init__` fails, which has to take `dimension=None, **parameters` and pass them on.
    """
    kind = load_family(name)
    try:
        return kind(dimension, **parameters)
    except UsageError:
        raise
    except Exception as error:
        place = _place(kind, "__init__", error)
        raise UsageError(f"{place}: __init__ of family '{kind.name}' failed: {_said(error)}") from error


@contextlib.contextmanager
def guard(family: Family, what: str) -> Iterator[None]:
    """Turn an error in a family's own code into one sentence with its file and line."""
    try:
        yield
    except Exception as error:
        place = _place(type(family), what, error)
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
    module = ModuleType(f"lissome_family_{path.stem}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(tree, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        _, line = _last(error, {str(path)}) or (path, 1)
        raise UsageError(f"{path}, line {line}: {_said(error)}") from error
    lines = {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    mine = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    mine = [c for c in dict.fromkeys(mine) if issubclass(c, Family)]
    concrete = [c for c in mine if not inspect.isabstract(c)]
    if len(concrete) > 1:
        listed = ", ".join(f"{c.__name__} (line {lines.get(c.__name__, '?')})" for c in concrete)
        raise UsageError(f"{path} defines {len(concrete)} families, {listed}; legal is one")
    if not mine:
        raise UsageError(f"{path}, line 1: there is no family here; legal is one class derived from lissome.pde.Family")
    family = (concrete or mine)[0]
    try:
        declared(family)
    except UsageError as error:
        raise UsageError(f"{path}, line {lines.get(family.__name__, 1)}: {error}") from error
    return family


def _place(family: type[Family], what: str, error: BaseException) -> str:
    """Return file and line of the family's own code: the last that an error passed through, else where it begins."""
    bodies = [body for c in family.__mro__ if issubclass(c, Family) and c is not Family for body in vars(c).values()]
    files = {body.__code__.co_filename for body in bodies if inspect.isfunction(body)}
    code = getattr(inspect.unwrap(getattr(family, what)), "__code__", None)
    found = _last(error, files)
    if found is None and code is not None and code.co_filename in files:
        found = code.co_filename, code.co_firstlineno
    return f"{found[0]}, line {found[1]}" if found else ", ".join(sorted(files))


def _last(error: BaseException, files: Collection[str]) -> tuple[str, int | None] | None:
    """Return the last place in some files that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(((frame.filename, frame.lineno) for frame in reversed(frames) if frame.filename in files), None)


def _said(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, LissomeError) else f"{type(error).__name__}: {text}".removesuffix(": ")
