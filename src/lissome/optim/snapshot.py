"""All that the next steps depend on besides the weights: kept, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lissome.optim.optimizers import Mover
from lissome.optim.sharding import like, whole
from lissome.optim.step import Stepper


def state(stepper: Stepper) -> dict[str, Any]:
    """Return what goes into a checkpoint beside the weights; all processes call it."""
    machine, capture = stepper.machine, stepper.capture
    on_gpu = stepper.device.type == "cuda"
    return {
        "capture": {"compiled": capture.compiled, "reason": capture.reason, "form": capture.form},
        "generator": _each(stepper, stepper.drawn_from)[: stepper.streams],
        "points": _points(stepper) if stepper.method.adaptive else None,
        "weights": stepper.weights or {},
        "norm": whole(stepper.norm, keep=True),
        "skipped": [stepper.skipped, stepper.in_a_row],
        "random": _each(stepper, torch.get_rng_state()),
        "random_cuda": _each(stepper, torch.cuda.get_rng_state(stepper.device)) if on_gpu else None,
        "scaler": None if machine.scaler is None else machine.scaler.state_dict(),
        "optimizers": [whole(mover.optimizer.state_dict(), keep=machine.is_main_process) for mover in stepper.movers],
    }


def restore(stepper: Stepper, kept: Mapping[str, Any]) -> None:
    """Undo `state`, after `enter`; the points are drawn again."""
    stepper.generator.set_state(kept["generator"][stepper.stream].clone())
    stepper.weights = {name: value.to(stepper.device) for name, value in kept.get("weights", {}).items()}
    if kept["points"] is None:
        stepper.draw()
    else:
        stepper.drawn_from = stepper.generator.get_state()
        points = kept["points"]
        stepper.use({name: value[stepper.stream].to(stepper.device) for name, value in points["batch"].items()})
        stepper.weighted()
        stepper.generator.set_state(points["generator"][stepper.stream].clone())
    stepper.drawn = False
    stepper.norm = kept.get("norm")
    stepper.skipped, stepper.in_a_row = kept.get("skipped", (0, 0))
    for mover, saved in zip(stepper.movers, kept["optimizers"], strict=True):
        mover.optimizer.load_state_dict(_shared(mover, saved) if stepper.sharded else saved)
        # torch casts what it loads to the parameters' dtype, also counters that began in float32
        for index, values in saved["state"].items():
            own = mover.optimizer.state[mover.parameters[index]]
            own |= {k: own[k].to(v.dtype) for k, v in values.items() if isinstance(v, Tensor)}
    if stepper.machine.scaler is not None:
        stepper.machine.scaler.load_state_dict(kept["scaler"])
    torch.set_rng_state(_own(stepper, kept["random"], torch.get_rng_state()))
    if stepper.device.type == "cuda":
        now = torch.cuda.get_rng_state(stepper.device)
        torch.cuda.set_rng_state(_own(stepper, kept["random_cuda"], now), stepper.device)


def _each(stepper: Stepper, value: Tensor) -> Tensor:
    """Return a process's tensor as (processes, ...)."""
    own = value[None].to(stepper.device)
    if not stepper.several:
        return own
    found = stepper.machine.gather(own)
    assert isinstance(found, Tensor)
    return found


def _points(stepper: Stepper) -> dict[str, Any]:
    """Return the points in use, which the model as it was has chosen, and the generator after the draw."""
    batch = {name: _each(stepper, value)[: stepper.streams] for name, value in stepper.drawn_batch.items()}
    return {"batch": batch, "generator": _each(stepper, stepper.generator.get_state())[: stepper.streams]}


def _own(stepper: Stepper, kept: Tensor, now: Tensor) -> Tensor:
    """Return what this process has of a state; a run may go on with other processes."""
    rows = kept.reshape(-1, now.numel())
    return rows[stepper.machine.process_index % len(rows)].clone()  # torch misreads a state that is a view


def _shared(mover: Mover, saved: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with its tensors sharded as the parameters are."""
    state = {
        index: {k: like(v, mover.parameters[index]) if isinstance(v, Tensor) else v for k, v in kept.items()}
        for index, kept in saved["state"].items()
    }
    return {**saved, "state": state}
