"""Text that lies on this machine, read piece by piece: Python's own library, a file, or a folder."""

from __future__ import annotations

import codecs
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lissome._errors import UsageError
from lissome._files import reason

SUFFIXES = (".md", ".py", ".rst", ".tex", ".text", ".txt")  # of a folder's texts
TESTS = frozenset({"idle_test", "test", "tests"})  # strings that are broken on purpose, and tables
FOREIGN = frozenset({"dist-packages", "site-packages"})  # differ from machine to machine
PIECE = 1 << 16  # bytes
MARK = "\ufeff"  # that some editors write first is no text


@dataclass(frozen=True)
class Corpus:
    """Files of UTF-8 text in a fixed order, each one document.

    Args:
        name: as sentences are to name it.
        root: the folder that the files' names count from.
        files: their paths.
    """

    name: str
    root: Path
    files: tuple[Path, ...]

    def documents(self, size: int = PIECE) -> Iterator[Iterator[str]]:
        """Yield each document as its pieces, which together are its text; about `size` bytes are held at a time.

        Pieces end before the end of a line whose last character is a letter or digit, if there is one: vocabularies
        over bytes, whose words never reach over that place, give the same ids as for the whole text.

        Raises:
            UsageError: a file that cannot be read or is not UTF-8; the sentence has the offset of the byte.
        """
        for path in self.files:
            yield _pieces(path, size)

    def texts(self, size: int = PIECE) -> Iterator[str]:
        """Yield all pieces of all documents."""
        for document in self.documents(size):
            yield from document

    @property
    def sources(self) -> str:
        """SHA-256 of the names, sizes and times of change of the files, in hexadecimal; no file is read for it."""
        found = hashlib.sha256()
        for path in self.files:
            stat = _stat(path)
            line = f"{path.relative_to(self.root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            found.update(line.encode(errors="surrogateescape"))
        return found.hexdigest()


def read_corpus(data: str | os.PathLike[str] | None = None) -> Corpus:
    """Return the corpus of a file or folder; without one, the source of Python's own standard library.

    A file may have any name. Of a folder and the folders in it, files are taken in the order of their names that end in
    .md, .py, .rst, .tex, .text or .txt; hidden ones, whose names begin with a point, are passed over. Of the standard
    library all .py files are taken but its tests and installed packages: 12 MB with Python 3.11.

    Raises:
        UsageError: nothing of that name, a folder without texts, or nothing but empty files.

    >>> read_corpus().name
    "the source of Python's standard library"
    """
    if data is None:
        return _standard_library()
    if not os.fspath(data).strip():
        raise UsageError(f"{os.fspath(data)!r} names no text; legal is a file of UTF-8 text, or a folder of such files")
    path = Path(data)
    if path.is_file():
        return _filled(Corpus(f"'{path}'", path.parent, (path,)))
    if not path.is_dir():
        raise UsageError(f"there is no text '{path}'; legal is a file of UTF-8 text, or a folder of such files")
    files = tuple(_walk(path, SUFFIXES, frozenset()))
    if not files:
        raise UsageError(f"the folder '{path}' holds no text; legal are files that end in {', '.join(SUFFIXES)}")
    return _filled(Corpus(f"'{path}'", path, files))


def _standard_library() -> Corpus:
    root = Path(sysconfig.get_path("stdlib"))
    files = tuple(_walk(root, (".py",), TESTS | FOREIGN))
    if not files:
        raise UsageError(f"Python's standard library has no source in '{root}'; name a file or folder of text")
    return _filled(Corpus("the source of Python's standard library", root, files))


def _walk(root: Path, suffixes: tuple[str, ...], without: frozenset[str]) -> Iterator[Path]:
    """Yield the files below a folder, each folder's own first."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in without and not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)


def _filled(corpus: Corpus) -> Corpus:
    if not any(_stat(path).st_size for path in corpus.files):
        many = f"the {len(corpus.files):,} texts of {corpus.name} are" if len(corpus.files) > 1 else f"{corpus.name} is"
        raise UsageError(f"{many} empty; legal is a file of UTF-8 text, or a folder of such files")
    return corpus


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UsageError(f"the text '{path}' cannot be read: {reason(error)}") from error


def _pieces(path: Path, size: int) -> Iterator[str]:
    decoder, held, at = codecs.getincrementaldecoder("utf-8")(), "", 0
    most = _stat(path).st_size + 1  # a read of more takes memory for it
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(min(size, most))
                start = at - len(decoder.getstate()[0])  # where the character that was cut begins
                held += decoder.decode(block, final=not block)
                if not at:
                    held = held.removeprefix(MARK)
                at += len(block)
                place = len(held) if not block else _cut(held, size) if len(block) == size else 0
                if place:
                    yield held[:place]
                    held = held[place:]
                if not block:
                    return
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{path}' is not UTF-8 ({error.reason} at byte {start + error.start}); legal is UTF-8 text"
        ) from error
    except OSError as error:
        raise UsageError(f"the text '{path}' cannot be read: {reason(error)}") from error


def _cut(text: str, size: int) -> int:
    """Return where a text may be cut: before the last end of a line that follows a letter or digit.

    If there is none in twice the size, before the last end of a line, or at the end.
    """
    place = text.rfind("\n")
    while place > 0 and not text[place - 1].isalnum():
        place = text.rfind("\n", 0, place)
    if place > 0:
        return place
    return 0 if len(text) < 2 * size else max(text.rfind("\n"), 0) or len(text)
