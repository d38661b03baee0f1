"""Verbs in processes that can be killed, forked from a small server that imported all and started nothing."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lissome import cli

CLOCKS = {"seconds", "tokens_per_second", "tokens_per_second_median"}  # what no two runs have in common
LOADED = [
    "lissome.cli",
    "lissome.recipes.incontext.train",
    "lissome.recipes.language.train",
    "lissome.recipes.replication",
    "lissome.recipes.solution",
    "lissome.recipes.table.run",
    "tests.reliability.forked",
]


def start(words: Sequence[object], told: Path, limit: int | None = None) -> BaseProcess:
    """Start a verb; what it prints goes to a file."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LOADED)
    process = server.Process(target=_verb, args=([str(word) for word in words], str(told), limit))
    process.start()
    return process


def _verb(words: list[str], told: str, limit: int | None) -> None:
    import torch

    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server lets it pass
    torch.set_num_threads(1)
    sys.exit(cli._guarded(lambda: cli.app(args=words, standalone_mode=False)))


def ended(process: BaseProcess, seconds: float = 300) -> int:
    """Wait for a verb; return its code."""
    process.join(seconds)
    assert process.exitcode is not None, "it never ended"
    return process.exitcode


def spent(process: BaseProcess) -> float:
    """Return the seconds of the processor that a verb has had; Linux tells them."""
    try:
        told = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def killed(process: BaseProcess, after: float) -> None:
    """Kill a verb after so many seconds of the processor, if it has not ended before."""
    while process.exitcode is None:
        if spent(process) >= after:
            process.kill()
            process.join()
        time.sleep(0.001)


def until(process: BaseProcess, file: Path) -> float:
    """Return the seconds of the processor after which a verb has written a file."""
    while not file.exists():
        assert process.exitcode is None
        had = spent(process)
        time.sleep(0.001)
    return had


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run without clocks."""
    return [without_clocks(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_clocks(tree: Any) -> Any:
    """Leave out what no two runs have in common."""
    if isinstance(tree, dict):
        return {key: without_clocks(value) for key, value in tree.items() if key not in CLOCKS}
    return [without_clocks(value) for value in tree] if isinstance(tree, list) else tree


def figures(run: Path) -> dict[str, Any]:
    """Return all that two runs of the same settings have in common: weights and moments as bytes, rows, the summary."""
    place = run / "checkpoint"
    weights = {name: (place / name).read_bytes() for name in ("model.safetensors", "state.safetensors")}
    return weights | {"rows": rows(run), "summary": without_clocks(json.loads((run / "summary.json").read_text()))}


def unlike(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name what is not the same to the last bit."""
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
