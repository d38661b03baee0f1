"""Where a run runs: device, precision, processes and trackers, all by Accelerate.

A network is never wrapped: derivatives in x have to see its layers. With several processes the
gradients are averaged after the backward pass, in buckets; only FSDP changes the network (see `sharding`).

On CPUs `torchrun --nproc_per_node 2` or `accelerate launch --multi_gpu --num_processes 2` begin two processes;
`accelerate launch --cpu --num_processes 2` begins one, unless it is given hosts for MPI.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.util
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lissome._errors import UsageError, unknown

PRECISIONS = ("no", "bf16", "fp16")
BUCKET = 25 * 2**20  # bytes averaged at once, as torch's DistributedDataParallel does


def accelerator(
    device: torch.device, precision: str = "no", *, tensorboard: bool = False, directory: Path | None = None
) -> Accelerator:
    """Return an Accelerator for the device that the model is on.

    Raises:
        UsageError: an unknown precision, fp16 without a GPU, TensorBoard without its package or without
            a directory, or another precision or device than this group of processes began with.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"precision fp16 needs a CUDA device and the model is on {device}; use bf16 or no")
    if tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError("tensorboard is not installed; install lissome[tensorboard] or leave it off")
        if directory is None:
            raise UsageError("tensorboard=True needs a directory to write to")
    shared = AcceleratorState._shared_state  # Accelerate keeps one machine per process
    if shared and (shared["device"].type != device.type or shared["_mixed_precision"] != precision):
        if shared["num_processes"] > 1:
            raise UsageError(
                f"these processes run on {shared['device']} in precision {shared['_mixed_precision']}; "
                f"a run on {device} in {precision} needs a launch of its own"
            )
        AcceleratorState._reset_state(reset_partial_state=True)
    machine = Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        mixed_precision=precision,
        log_with="tensorboard" if tensorboard else None,
        project_dir=None if directory is None else str(directory),
    )
    if machine.num_processes > 1:
        atexit.unregister(_leave)  # once, however often it is asked for
        atexit.register(_leave)
    return machine


def _leave() -> None:
    """Leave the group of processes, whose threads would end in an abort when the interpreter takes them down."""
    if torch.distributed.is_initialized():
        gc.collect()  # a sharded model that is in a cycle holds the group
        torch.distributed.destroy_process_group()
        gc.collect()


def agree(model: nn.Module, machine: Accelerator) -> None:
    """Give every process the weights of the first; a model that is sharded already has one set of them."""
    if machine.num_processes > 1 and not isinstance(model, FSDPModule):
        for value in model.state_dict().values():
            torch.distributed.broadcast(value, 0)


def average_gradients(machine: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; one that is missing counts as zeros."""
    for bucket in buckets(parameters):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])  # (p,)
        parts = mean(machine, flat).split([p.numel() for p in bucket])
        for p, part in zip(bucket, parts, strict=True):
            p.grad = part.view_as(p)


def buckets(parameters: Sequence[nn.Parameter], size: int = BUCKET) -> Iterator[list[nn.Parameter]]:
    """Cut the parameters, in their order, into runs of one dtype and at most `size` bytes (or one parameter).

    >>> [len(bucket) for bucket in buckets([nn.Parameter(torch.zeros(n)) for n in (2, 3, 9, 1)], size=20)]
    [2, 1, 1]
    """
    bucket: list[nn.Parameter] = []
    held = 0
    for p in parameters:
        if bucket and (p.dtype != bucket[0].dtype or held + p.nbytes > size):
            yield bucket
            bucket, held = [], 0
        bucket.append(p)
        held += p.nbytes
    if bucket:
        yield bucket


def mean(machine: Accelerator, value: Tensor) -> Tensor:
    """Return the mean over the processes."""
    out = machine.reduce(value, reduction="mean")
    assert isinstance(out, Tensor)
    return out


def begin_trackers(machine: Accelerator, step: int) -> None:
    """Start TensorBoard below the directory; curves after `step` are dropped, a resumed run draws them again."""
    machine.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": step}})


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the entries of a row that a curve can be drawn of."""
    return {key: float(value) for key, value in row.items() if isinstance(value, int | float) and key != "step"}


class Stop:
    """The signal that asked for an end, or an empty name."""

    name = ""


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn the first Ctrl-C (or SIGTERM) into a note to be read between steps; the second acts at once.

    Outside the main thread, where Python forbids it, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        stop.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
