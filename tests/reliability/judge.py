"""Whether a verb that was asked wrongly said so in one sentence, with its code, and left everything as it was."""

import contextlib
import hashlib
import io
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from lissome import cli

COMMAND = typer.main.get_command(cli.app)  # made once: making it takes longer than most refusals
PATIENCE = 30.0  # seconds of the processor that a verb may take at the most


class Late(BaseException):
    """It neither ended nor complained."""


class Judge:
    """Run verbs in one directory, which has to stay as it is; collect those that did otherwise."""

    def __init__(self, room: Path):
        self.room = room
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def __call__(
        self, words: Sequence[object], kind: str, *, codes: Sequence[int] = (2,), kept: bool = True, note: str = ""
    ) -> int | None:
        """Run a verb; return its code, None for a traceback.

        Args:
            words: of the command line.
            kind: under which it is counted.
            codes: that it may end with.
            kept: whether all has to be as it was unless it ends well.
            note: what was wrong, for the report.
        """
        words = [str(word) for word in words]
        before = held(self.room)
        out, err = io.StringIO(), io.StringIO()
        code: int | None = None
        fault = ""
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), alarm():
                code = cli._guarded(lambda: COMMAND(args=words, standalone_mode=False))
        except Late:
            fault = f"nothing after {PATIENCE:g} seconds of the processor"
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else None
        except BaseException:
            fault = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
        said = err.getvalue()
        lines = said.splitlines()
        if not fault and code not in codes:
            fault = f"code {code}, legal are {list(codes)}; it said {short(said or out.getvalue())}"
        elif not fault and code and not (len(lines) == 1 and lines[0].startswith("lissome: ") and len(lines[0]) > 20):
            fault = f"no one sentence: {short(said)}"
        if not fault and code and kept and (changed := different(before, held(self.room))):
            fault = f"it changed {changed[:5]}, and said {short(said)}"
        self.counts[kind] += 1
        if fault:
            self.faults.append(f"[{kind}] {note} lissome {' '.join(short(word, 120) for word in words)}\n    {fault}")
        return code

    def verdict(self) -> None:
        """Fail if anything went wrong, or nothing was asked."""
        assert self.counts.total(), "nothing was judged"
        assert not self.faults, f"{len(self.faults)} of {self.counts.total()} cases:\n" + "\n".join(self.faults)


def held(room: Path) -> dict[Path, str]:
    """Return what lies in a directory, by digests of its files."""
    found = {}
    for path in room.rglob("*"):
        found[path] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def different(before: dict[Path, str], now: dict[Path, str]) -> list[str]:
    """Name what is new, gone or other than it was."""
    return sorted(str(path) for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def short(text: str, most: int = 400) -> str:
    """Return a text in one line, its middle left out if it is long."""
    line = repr(text)
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


@contextlib.contextmanager
def alarm(seconds: float = PATIENCE) -> Iterator[None]:
    """Stop what takes too long."""

    def late(number: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
