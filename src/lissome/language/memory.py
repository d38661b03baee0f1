"""How much memory is left, and how much a process holds."""

from __future__ import annotations

import os
from pathlib import Path

import torch

GROUP = Path("/sys/fs/cgroup")  # limits of a container
SYSTEM = Path("/proc/meminfo")
PROCESS = Path("/proc/self/statm")  # pages: all, resident, shared


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that may still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    found = [left for left in (_system(SYSTEM), _group(GROUP)) if left is not None]
    return min(found, default=None)


def resident_memory() -> int | None:
    """Return the bytes of memory that this process holds now; None where the system does not tell."""
    try:
        return int(PROCESS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError, IndexError):  # not on Windows or macOS
        return None


def _system(file: Path) -> int | None:
    try:
        for line in file.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all there is, where no more is told
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _group(folder: Path) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text())
        taken = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such limit: none there, or the word max
        return None
    return max(0, limit - taken + int(stat.get("inactive_file", 0)))  # pages of files are given up
