"""What goes with what: methods, objectives, precisions and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from lissome._errors import UsageError
from lissome._types import Adaptive, Balanced, Divisible, Objective, Residual, Rowwise
from lissome.optim.method import Method
from lissome.optim.optimizers import Mover


def check(
    method: Method, movers: Sequence[Mover], objective: Objective, machine: Accelerator, *, sharded: bool = False
) -> None:
    """Refuse what does not go together.

    Args:
        method: what is asked for.
        movers: its optimizers.
        objective: what they are to minimise.
        machine: the precision and the processes.
        sharded: whether the model is, by FSDP.

    Raises:
        UsageError: an optimizer that needs true losses under fp16, or one that reads more than plain gradients under
            accumulation, clipping or FSDP, or one of second order in lower precision, in several processes, or without
            a residual; accumulation of an objective that cannot be divided; more parts than points; adaptive points
            without a residual to draw by; derivatives in x under FSDP.
    """
    who = type(objective).__name__
    if method.adaptive and not isinstance(objective, Adaptive):
        raise UsageError(f"adaptive=True needs sample_by_residual, which {who} has not")
    if method.accumulate > 1 and not isinstance(objective, Divisible):
        raise UsageError(f"accumulate={method.accumulate} needs divide(batch, count), which {who} has not; take 1")
    parts = method.accumulate * machine.num_processes
    if isinstance(objective, Divisible) and method.points < parts:
        raise UsageError(f"points={method.points} are too few for accumulate x processes = {parts} parts of a batch")
    if sharded and isinstance(objective, Balanced | Rowwise):
        raise UsageError(f"FSDP does not go with {who}, whose derivatives pass by a sharded model; launch without it")
    for mover in movers:
        if mover.kind.reads == "gradient":
            continue
        if machine.scaler is not None:
            raise UsageError(
                f"precision fp16 does not go with {mover.name}: a line search needs true losses; use bf16 or no"
            )
        for what in _plain(method, sharded):
            raise UsageError(f"{what} does not go with {mover.name}, which reads more than plain gradients; take adamw")
        if mover.kind.reads not in ("graph", "residual"):
            continue
        mixed = machine.mixed_precision != "no"
        if mixed or machine.num_processes > 1:
            how = f"precision {machine.mixed_precision}" if mixed else "several processes"
            raise UsageError(f"{how} does not go with {mover.name}; take one process and precision no")
        if mover.kind.reads == "residual" and not isinstance(objective, Residual):
            raise UsageError(
                f"{mover.name} needs an objective with residual(model, batch); {who} has a loss alone: take lbfgs, "
                "ssbroyden or arc"
            )


def _plain(method: Method, sharded: bool) -> Iterator[str]:
    """Name what is asked for that only optimizers of plain gradients can have."""
    if sharded:
        yield "FSDP"
    if method.accumulate > 1:
        yield f"accumulate={method.accumulate}"
    if method.clip is not None:
        yield f"clip={method.clip}"
    if method.skip:
        yield "skip=True"
