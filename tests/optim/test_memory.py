"""The C library keeps memory where it can, and is left alone elsewhere."""

import platform
import subprocess
import sys

import pytest

from lissome.optim import keep_memory

FAULTS = """
import resource, torch
from lissome.optim import keep_memory
assert keep_memory()
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(1 << 20)
before = count()
for _ in range(20):
    torch.ones(1 << 20)  # 1,024 pages
print(count() - before)
"""


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults():
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 3 * 1024  # of 20,480 otherwise
