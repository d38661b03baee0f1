"""Several processes of one run: the first writes the directory, the others wait for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from lissome._errors import LissomeError, RunError, UsageError


def lead(machine: Accelerator, work: Callable[[], object]) -> None:
    """Let the first process do something while the others wait.

    Raises:
        LissomeError: what the first process met; in the others one of the same exit code.
    """
    failed, code = None, 0
    if machine.is_main_process:
        try:
            work()
        except LissomeError as error:
            failed, code = error, error.exit_code
    if machine.num_processes > 1:
        told = machine.reduce(torch.tensor([code], device=machine.device), reduction="sum")
        assert isinstance(told, torch.Tensor)
        code = int(told)
    if failed is not None:
        raise failed
    if code:
        kind = UsageError if code == UsageError.exit_code else RunError
        raise kind("the first process could not begin the run, and says why")
