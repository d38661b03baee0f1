"""Read a long text as one stream through a bounded cache, in a run directory."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissome import report
from lissome._door import door
from lissome._errors import Interrupted, UsageError
from lissome._files import legal, write, write_json
from lissome.language.memory import available_memory
from lissome.language.stream import Progress, Stream, stream
from lissome.optim import checkpoint
from lissome.optim.machine import stoppable
from lissome.recipes import directory
from lissome.recipes.language.archive import check_language
from lissome.recipes.language.stream_model import Opened
from lissome.recipes.language.stream_settings import FREE, StreamSettings, lasting
from lissome.recipes.language.stream_summary import facts_of, summary_of
from lissome.recipes.language.stream_text import TOKENS, begin_of, read_text, write_text
from lissome.recipes.progress import Bar
from lissome.recipes.training import device_of
from lissome.report.language_files import is_language

# a folder of transformers loads transformers, and a run does not
_OPENERS, _ = door(
    __name__,
    {
        "open_run": "lissome.recipes.language.stream_model",
        "open_folder": "lissome.recipes.language.stream_folder",
    },
)
CONFIG = "config.json"
GIB = 1 << 30
ROOM = 2  # times the bytes of a cache that grows: it is copied to a larger place


def stream_language(
    settings: StreamSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Measure the perplexity of a text that a model reads as one stream, and write its run directory.

    Args:
        settings: the model, the text and the cache; paths are kept in full.
        out: directory, not there yet; with `resume` the one to go on with.
        resume: go on from the checkpoint in `out`, which holds the whole cache, to the last bit on the same machine.
        progress: show a bar.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UsageError: a model or text that is missing or cannot be read, a cache that does not fit the model or the
            memory, a directory that exists, a checkpoint that is damaged or of another model.
        RunError: a file could not be written.
        Interrupted: Ctrl-C; a checkpoint is left.
    """
    out, settings = Path(out), lasting(settings)
    with directory.claimed(out, settings, resume=resume, free=FREE), _undone(out, resume), stoppable() as stop:
        device = device_of(settings.device)
        with Bar(progress) as bar, _opened(settings, device) as opened:
            run = _prepare(out, settings, opened, device, resume)
            bar.expect(run.total - run.progress.all.tokens)
            ended = run.read(opened, bar, lambda: bool(stop.name))
        if not ended:
            raise Interrupted(
                f"stopped by {stop.name} after {run.progress.all.tokens:,} of {run.total:,} tokens: "
                f"`lissome lm stream --resume --out {out}`"
            )
        found = summary_of(run.facts, run.progress, settings)
        write_json(out / "summary.json", found)
        report.stream_page(out)
        return found


@dataclass
class _Run:
    """A stream that is under way.

    Attributes:
        out: the run directory.
        settings: as they were asked.
        text: what is read.
        progress: so far.
        total: tokens that will be scored.
        facts: what the summary says beside what was measured.
        device: of the model.
    """

    out: Path
    settings: StreamSettings
    text: Stream
    progress: Progress
    total: int
    facts: dict[str, Any]
    device: torch.device

    def read(self, opened: Opened, bar: Bar, stopped: Any) -> bool:
        """Read on, with a checkpoint now and then; say whether it came to its end."""
        last, told = time.monotonic(), self.progress.all.tokens
        marks = np.zeros(opened.size, dtype=bool)
        marks[list(opened.separators)] = True

        def note(now: Progress) -> bool:
            nonlocal last, told
            part = now.open if now.open.tokens else now.all
            bar.say(f"loss {part.nats / max(1, part.tokens):.3f}")
            bar.advance(now.all.tokens - told)
            told = now.all.tokens
            if time.monotonic() - last >= self.settings.checkpoint:
                self.keep(opened)
                last = time.monotonic()
            return stopped()

        bar.say("reading")
        ended = stream(
            opened,
            self.text,
            self.progress,
            tokens=self.total,
            chunk=self.settings.chunk,
            interval=-(-self.total // self.settings.intervals),
            marks=marks,
            device=self.device,
            on_part=note,
        )
        self.keep(opened)
        return ended

    def keep(self, opened: Opened) -> None:
        """Write the rows so far, and a checkpoint with the whole cache."""
        lines = (json.dumps(legal(row)) + "\n" for row in self.progress.rows)
        write(self.out / "metrics.jsonl", "".join(lines))
        state = {"print": opened.print, "progress": self.progress.state(), "cache": opened.cache.state()}
        checkpoint.write(self.out / "checkpoint", {}, state)


def _prepare(out: Path, settings: StreamSettings, opened: Opened, device: torch.device, resume: bool) -> _Run:
    """Encode the text where that was not done yet, and take up a checkpoint if there is one."""
    begin = begin_of(opened.vocabulary, opened.begin, settings.protocol)
    kept = resume and checkpoint.exists(out / "checkpoint")
    if not kept:
        write_text(out, settings.text, opened.vocabulary, begin, settings.protocol, settings.tokens)
    tokens = read_text(out, opened.vocabulary, begin)
    pairs = tokens.count - (1 if begin is None else tokens.documents)
    total = pairs if settings.tokens is None else min(pairs, settings.tokens)
    _check_room(settings, opened, total, device)
    progress = _taken_up(out, opened, device) if kept else Progress()
    facts = facts_of(settings, opened, tokens, begin) | {"ended": total < (settings.tokens or 0)}
    return _Run(out, settings, Stream(tokens, begin), progress, total, facts, device)


def _taken_up(out: Path, opened: Opened, device: torch.device) -> Progress:
    """Put what a checkpoint holds into the cache, and return how far the stream was.

    Raises:
        UsageError: it is damaged, or of another model.
    """
    state = checkpoint.read(out / "checkpoint").state
    if state.get("print") != opened.print:
        raise UsageError(f"the model has changed since '{out}' was begun; put it back, or begin in another directory")
    try:
        opened.cache.restore(_moved(state["cache"], device))
        return Progress.of(state["progress"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise UsageError(
            f"the checkpoint '{out / 'checkpoint'}' is damaged ({error}); put it back, or begin in another directory"
        ) from error


def _check_room(settings: StreamSettings, opened: Opened, total: int, device: torch.device) -> None:
    """Refuse a cache that holds more than there is memory for."""
    room, full = available_memory(device), settings.cache == "full"
    most = total if full else min(total, settings.capacity)
    if room is None or ROOM * opened.bytes * most <= room:
        return
    fits = room // (ROOM * opened.bytes)
    told = f"cache full keeps all of {most:,}" if full else f"capacity {settings.capacity:,} holds up to {most:,}"
    cure = f"--tokens up to {fits:,}, or a cache that drops some" if full else f"a capacity up to {fits:,}"
    raise UsageError(
        f"{told} tokens, which takes about {ROOM * opened.bytes * most / GIB:,.1f} GiB, and {room / GIB:,.1f} GiB of "
        f"memory are left; legal are {cure}"
    )


def _opened(settings: StreamSettings, device: torch.device) -> contextlib.AbstractContextManager[Opened]:
    """Return what opens the model: a run, or a folder of transformers."""
    place = Path(settings.model)
    if not is_language(place) and (place / CONFIG).is_file():
        return _OPENERS("open_folder")(settings, device)
    if not place.is_dir() or not (place / "settings.yaml").is_file():
        there = f"'{place}' holds no model" if place.is_dir() else f"there is no folder '{place}'"
        raise UsageError(
            f"{there}; legal is the directory of a run of `lissome lm train`, or a local folder of a transformers "
            f"model with {CONFIG}"
        )
    check_language(place)
    if settings.tokenizer is not None:
        raise UsageError(
            f"'{place}' is a run with a vocabulary of its own, and tokenizer '{settings.tokenizer}' is asked for; "
            "leave it out, or name a folder of transformers"
        )
    return _OPENERS("open_run")(settings, device)


def _moved(tree: Any, device: torch.device) -> Any:
    """Return a tree whose tensors are on a device."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: _moved(value, device) for key, value in tree.items()}
    return [_moved(value, device) for value in tree] if isinstance(tree, list | tuple) else tree


@contextlib.contextmanager
def _undone(out: Path, resume: bool) -> Iterator[None]:
    """Remove the encoded text if a new run turns out to be asked wrongly."""
    try:
        yield
    except UsageError:
        if not resume:
            for name in (TOKENS, f"{TOKENS}.json"):
                (out / name).unlink(missing_ok=True)
        raise
