"""Blocks of the documentation, and how each kind is run."""

from __future__ import annotations

import doctest
import glob
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lissome.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S+)[ ]*(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = ("python", "console")
SHOWN = ("text", "yaml")  # only shown; a yaml block with a file name is written
BENCH = ["start=2", "seconds=0.02", "operations=1e6", "network.width=4", "points.interior=16"]  # a moment for each run
LEFT = ("make", "git", "cd", "pip")  # what a reader types that is no example of ours


@dataclass(frozen=True)
class Block:
    """A fenced block: `kind` and `file` stand behind the opening fence."""

    kind: str
    file: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], m[3], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text)]


@dataclass(frozen=True)
class Command:
    """What is typed behind a `$`, and the exit code that a comment behind it promises."""

    words: list[str]
    code: int


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; a backslash continues a line."""
    lines = [line[2:] for line in block.text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    codes = [re.search(r"# exit code (\d+)$", line) for line in lines]
    return [
        Command(shlex.split(line, comments=True), int(code[1]) if code else 0)
        for line, code in zip(lines, codes, strict=True)
    ]


def small(command: list[str]) -> list[str]:
    """Return a command as it is run here: few steps, few points, one process."""
    words = [name for word in command[1:] for name in sorted(glob.glob(word)) or [word]]  # as a shell does
    for place, word in enumerate(words[:-1]):
        if word == "--steps":
            words[place + 1] = str(few(words[place + 1]))
        if word == "--jobs":
            words[place + 1] = "1"
    trains = "--help" not in words and (words[:1] == ["demo"] or words[1:2] in (["solve"], ["adapt"]))
    looks = words[:1] == ["fit"] or words[1:2] == ["diagnose"] or words[:2] in (["lm", "train"], ["icl", "train"])
    words += ["--quick"] * ((trains or looks) and "--quick" not in words)
    if words[1:2] == ["bench"]:
        words += [part for change in BENCH for part in ("--set", change)] + ["--jobs", "1"]
    return words + ["--jobs", "1"] * (trains and "solve" not in words and "--jobs" not in words)


def few(steps: str) -> int:
    """Return a hundredth of the steps, but 2 at least."""
    return max(int(steps) // 100, 2)


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working directory; python blocks of a page share their names."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.kind == "python" and ">>>" in block.text:
        example = doctest.DocTestParser().get_doctest(block.text, names, "page", "page", block.line)
        failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False).failed
        names |= example.globs
        assert failed == 0
    elif block.kind == "python":
        text = re.sub(r"steps=(\d+)", lambda found: f"steps={few(found[1])}", block.text)
        exec(compile("\n" * block.line + text, "page", "exec"), names)
    elif block.kind == "console":
        for command in commands(block):
            call(command)


def call(command: Command) -> None:
    """Run a command of ours, and let pass what is none."""
    if command.words[0] == "lissome":
        with pytest.raises(SystemExit) as stop:
            main(small(command.words))
        assert (stop.value.code or 0) == command.code, f"{shlex.join(command.words)} ended with {stop.value.code}"
    else:
        assert command.words[0] in LEFT, f"nothing is known of '{command.words[0]}'"
