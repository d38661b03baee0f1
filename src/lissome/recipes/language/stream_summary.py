"""What the summary of a stream says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissome.language import TokenFile
from lissome.language.stream import Progress
from lissome.recipes.language.stream_model import Opened
from lissome.recipes.language.stream_settings import StreamSettings

TENTHS = 10
STEADY = ("perplexity", "tokens_per_second", "tokens_per_processor_second", "resident_mb")  # what should be level


def facts_of(settings: StreamSettings, opened: Opened, tokens: TokenFile, begin: int | None) -> dict[str, Any]:
    """Return what is known before anything is read."""
    dropping = settings.cache != "full"
    return {
        "kind": "stream",
        "model": settings.model,
        "data": Path(settings.text).name,
        "documents": tokens.documents - (begin is not None),
        "digest": tokens.digest,
        "cache": settings.cache,
        "initial": settings.initial if dropping else None,
        "separators_kept": settings.kept if dropping else None,
        "local": settings.local if dropping else None,
        "capacity": settings.capacity if dropping else None,
        "every": settings.every if settings.cache == "fixed" else None,
        "positions": settings.placed,
        "protocol": settings.protocol,
        "chunk": settings.chunk,
        "begin": begin,
        "length": opened.length,
    }


def summary_of(facts: dict[str, Any], progress: Progress, settings: StreamSettings) -> dict[str, Any]:
    """Return facts and what was measured: of all, and of the first and the last tenth of the rows."""
    own, rows = progress.all, progress.rows
    share = own.marked / own.tokens
    kept = 1 / settings.every if settings.cache == "fixed" else share
    part = max(1, len(rows) // TENTHS)
    first, last = ({key: _mean(some, key) for key in STEADY} for some in (rows[:part], rows[-part:]))
    return {
        **facts,
        "tokens": own.tokens,
        **own.told(),
        "seconds": own.seconds,
        "separator_share": share,
        "reach": settings.kept / kept if settings.kept and kept and settings.cache != "full" else None,
        "first_tenth": first,
        "last_tenth": last,
    }


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None
