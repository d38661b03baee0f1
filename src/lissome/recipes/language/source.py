"""The text of a run: its vocabulary and its tokens, kept so that a run that is gone on with meets the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lissome._errors import UsageError
from lissome._files import reason, write_json
from lissome.language import (
    Bpe,
    Bytes,
    Corpus,
    TokenFile,
    Vocabulary,
    check_vocabulary,
    describe_vocabulary,
    keep_tokens,
    read_corpus,
    read_tokens,
    read_vocabulary,
)
from lissome.recipes.language.settings import LanguageSettings
from lissome.report.language_files import TEXT
from lissome.report.read import read_json

VOCABULARY, TOKENS = "vocabulary.json", "tokens.bin"  # in a run directory


@dataclass(frozen=True)
class Source:
    """What a run reads.

    Attributes:
        name: of the text, as sentences name it.
        vocabulary: what its tokens are written in.
        tokens: all of them, those that are held out too.
    """

    name: str
    vocabulary: Vocabulary
    tokens: TokenFile


def lasting(settings: LanguageSettings) -> LanguageSettings:
    """Return settings whose paths are whole, so that they hold in whatever directory they are read again."""
    given = {"data": settings.data, "tokens": settings.tokens, "start": settings.start}
    whole = {name: os.path.realpath(path) for name, path in given.items() if path is not None}
    if settings.vocabulary not in ("bytes", "bpe"):
        whole["vocabulary"] = os.path.realpath(settings.vocabulary)
    return settings.model_copy(update=whole)


def prepare(out: Path, settings: LanguageSettings, *, resume: bool = False, progress: bool = False) -> None:
    """Write the vocabulary, the tokens and what is known of the text, where they do not stand yet.

    Args:
        out: the run directory.
        settings: with whole paths.
        resume: what stands there has to be of the same text.
        progress: say on a terminal what is done.

    Raises:
        UsageError: a text or vocabulary that cannot be read, or that has changed since the run was begun.
        RunError: the system refused to write.
    """
    corpus = read_corpus(settings.data)
    kept = read_json(out / TEXT) if resume else {}
    console = Console(stderr=True)
    shown = console.status(f"reading {corpus.name}") if progress and console.is_terminal else contextlib.nullcontext()
    with shown:
        vocabulary = kept_vocabulary(out, kept) if kept else _new_vocabulary(out, corpus, settings)
        place = _place(out, settings, corpus, vocabulary)
        tokens = keep_tokens(place, corpus, vocabulary, digest=kept.get("digest"))
    facts = {
        "name": corpus.name,
        "files": len(corpus.files),
        "documents": tokens.documents,
        "count": tokens.count,
        "digest": tokens.digest,
        "tokens": str(tokens.path.relative_to(out)) if settings.tokens is None else str(tokens.path),
        "vocabulary": describe_vocabulary(vocabulary),
    }
    if facts != kept:
        write_json(out / TEXT, facts)


def opened(out: Path) -> Source:
    """Return what `prepare` wrote.

    Raises:
        UsageError: something of it is missing, damaged or of another run.
    """
    facts = read_json(out / TEXT)
    vocabulary = kept_vocabulary(out, facts)
    tokens = read_tokens(out / facts["tokens"], vocabulary)
    if tokens.digest != facts["digest"]:
        raise UsageError(f"'{tokens.path}' is of another text than the run '{out}'; `--resume --out {out}` mends it")
    return Source(facts["name"], vocabulary, tokens)


def kept_vocabulary(out: Path, facts: dict[str, Any]) -> Vocabulary:
    """Return the vocabulary of a run directory.

    Raises:
        UsageError: it is missing or damaged, or was put in place of the one that the run was begun with.
    """
    vocabulary = read_vocabulary(out / VOCABULARY)
    check_vocabulary(vocabulary, facts.get("vocabulary", {}), f"the run '{out}'")
    return vocabulary


@contextlib.contextmanager
def undone(out: Path, *others: str, resume: bool) -> Iterator[None]:
    """Remove what `prepare` wrote, and other files, if a new run turns out to be asked wrongly."""
    try:
        yield
    except UsageError:
        if not resume and not (out / "summary.json").is_file():
            for name in (TEXT, VOCABULARY, TOKENS, f"{TOKENS}.json", *others):
                (out / name).unlink(missing_ok=True)
        raise


def _new_vocabulary(out: Path, corpus: Corpus, settings: LanguageSettings) -> Vocabulary:
    if settings.start is not None:
        start = Path(settings.start)
        vocabulary = kept_vocabulary(start, read_json(start / TEXT))
    elif settings.vocabulary == "bytes":
        vocabulary = Bytes()
    elif settings.vocabulary == "bpe":
        vocabulary = Bpe.train(corpus.texts(), settings.vocabulary_size)
    else:
        vocabulary = read_vocabulary(settings.vocabulary)
    vocabulary.save(out / VOCABULARY)
    return vocabulary


def _place(out: Path, settings: LanguageSettings, corpus: Corpus, vocabulary: Vocabulary) -> Path:
    if settings.tokens is None:
        return out / TOKENS
    folder = Path(settings.tokens)
    legal = "tokens takes a folder that can be written, or null"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder '{folder}' cannot be made ({reason(error)}); {legal}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder '{folder}' cannot be written; {legal}")
    return folder / f"{corpus.sources[:16]}-{vocabulary.digest[:16]}.bin"
