"""A run directory: claimed once, written file by file, each under a temporary name first."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save
from torch import Tensor

from lissome._errors import RunError, UsageError
from lissome._files import check_room, reason, write, write_json
from lissome._version import __version__
from lissome.recipes.lock import LOCK, locked
from lissome.recipes.settings import dump, load
from lissome.report.read import read_json, read_settings, read_text

BUDGET = ("training.steps", "training.seconds")
OURS = {"settings.yaml", "environment.json", "metrics.jsonl"}


@contextlib.contextmanager
def claimed(out: Path, settings: BaseModel, *, resume: bool = False, free: Collection[str] = BUDGET) -> Iterator[None]:
    """Make a directory for a run, with its settings and environment, for what happens inside the `with`.

    If that finds that something was asked wrongly before it kept anything, what was made here is removed again, so
    that the next try does not hear that the directory exists. Meanwhile no other process may claim the directory.

    Args:
        out: the directory.
        settings: complete, as they are to be read again.
        resume: the directory is there, and was begun with these settings.
        free: settings that may be others then; steps and seconds unless told otherwise.

    Raises:
        UsageError: it exists and holds something; it is to be resumed and holds no run, or one of other settings; or
            another process writes it.
        RunError: it cannot be written.
    """
    made = list[Path]() if resume else _make(out)
    if resume:
        _check_same(out, settings, free)
        read_json(out / "environment.json")  # the page tells it: what is damaged is said before anything is begun
    with locked(out):
        yield from _begun(out, settings, resume, free, made)


def _begun(out: Path, settings: BaseModel, resume: bool, free: Collection[str], made: list[Path]) -> Iterator[None]:
    before = dict[Path, bytes]()
    summary, kept = out / "summary.json", out / "settings.yaml"
    if resume:
        old = _check_same(out, settings, free)
        before = {path: path.read_bytes() for path in (summary, kept) if path.is_file()}
        summary.unlink(missing_ok=True)  # it would speak of other weights than those of the next checkpoint
    else:
        old = None
        _check_empty(out)  # another process may have begun there meanwhile
    if old != settings:
        write(kept, dump(settings))
    if not (out / "environment.json").is_file():
        write_json(out / "environment.json", environment())
    try:
        yield
    except (UsageError, OSError) as error:
        wrong = isinstance(error, UsageError) or error.errno == errno.ENAMETOOLONG  # a name that no file can have
        if not wrong or summary.is_file():  # what is wrong came to light after all was kept
            raise
        for path, content in before.items():
            write(path, content)
        if not resume:
            _undo(out, made)
        raise


def holds(out: Path) -> bool:
    """Say whether a run was begun in a directory."""
    return (out / "settings.yaml").is_file()


def finished(out: Path, settings: BaseModel) -> bool:
    """Say whether a run of just these settings is there to its last file, and has not failed."""
    summary = read_json(out / "summary.json")
    return (
        bool(summary)
        and not summary.get("failed")
        and (out / "index.html").is_file()
        and holds(out)
        and load(type(settings), file=out / "settings.yaml", given={}) == settings
    )


def _make(out: Path) -> list[Path]:
    """Make a directory and those above it; return those that were made, the innermost first."""
    try:
        check_room(out)
        _check_empty(out)
        made = [place for place in (out, *out.parents) if not place.exists()]
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"'{out}' cannot be made: {reason(error)}") from error
    return made


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or _visible(out)):
        raise UsageError(f"'{out}' exists; name another directory by --out, or go on with it by --resume")


def _undo(out: Path, made: Iterable[Path]) -> None:
    """Remove what a claim wrote, if nothing else is there, and then the directories that are empty."""
    left = _visible(out)
    if all(path.name in OURS or (path.is_file() and not path.stat().st_size) for path in left):
        for path in left:
            path.unlink(missing_ok=True)
        (out / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not ours to remove
            for place in made:
                place.rmdir()


def _visible(out: Path) -> list[Path]:
    """Return what is in a directory, without its lock and the unfinished files of a writer that was killed."""
    unfinished = set(out.glob(".*.part"))
    return [path for path in out.iterdir() if path.name != LOCK and path not in unfinished]


def _check_same(out: Path, settings: BaseModel, free: Collection[str]) -> BaseModel:
    """Return the settings that a run was begun with, after a check that they are these but for what is free."""
    kept = out / "settings.yaml"
    if not kept.is_file():
        raise UsageError(f"'{out}' cannot be resumed: it holds no settings.yaml")
    if not read_settings(kept, read_text(kept)):  # all of them would be the usual ones
        raise UsageError(f"'{kept}' is damaged: it is empty; put it back from a copy, or begin anew elsewhere")
    old = load(type(settings), file=kept, given={})
    found = difference(old.model_dump(), settings.model_dump(), free=free)
    if found:
        raise UsageError(f"'{out}' was started with other settings: {found}; `--resume --out {out}` alone takes them")
    return old


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], path: str = "", free: Collection[str] = BUDGET
) -> str:
    """Name the first setting that differs, but for those that are free, as a resumed run's budget is; else nothing.

    >>> difference({"seed": 1, "training": {"rate": 0.1, "steps": 1}}, {"seed": 1, "training": {"rate": 1, "steps": 2}})
    "'training.rate' was 0.1 and is 1 now"
    """
    for key, value in now.items():
        name, old = f"{path}{key}", before.get(key)
        if name in free or old == value:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.keys() == old.keys():
            if found := difference(old, value, f"{name}.", free):
                return found
        else:
            return f"'{name}' was {old!r} and is {value!r} now"
    return ""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors whole or not at all."""
    write(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def environment() -> dict[str, Any]:
    """Return versions, machine, command and commit."""
    packages = ("torch", "numpy", "scipy", "accelerate", "safetensors")
    return {
        "lissome": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["lissome", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _processor() -> str:
    """Return the processor's name, or its kind where the system does not tell it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree this runs from, or None for an installed package.

    A package that is installed below a person's own repository is no part of it: git has to know its files.
    """
    here = Path(__file__).resolve()
    if not _git(here.parent, "ls-files", "--error-unmatch", here.name):
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12") or None


def _git(place: Path, *words: str) -> str:
    """Return what git says in a directory; nothing where it is not there, or where it refuses."""
    try:
        done = subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
